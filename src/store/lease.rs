//! One writer a pipeline: an advisory lock in PostgreSQL on a connection of its own.

use std::time::Duration;

use anyhow::Context as _;
use tokio_postgres::Client;

use super::postgres;
use crate::config;

/// Held while the connection lives.
#[derive(Debug)]
pub struct Lease {
    client: Client,
}

impl Lease {
    /// Takes the lock of `pipeline`, or `None` while another holds it.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn try_take(settings: &config::Postgres, pipeline: &str) -> anyhow::Result<Option<Self>> {
        let client = postgres::connect(settings, "platform sink lease").await?;
        let sql = "select pg_try_advisory_lock(hashtextextended('platform.sink.' || $1, 0))";
        let row = client.query_one(sql, &[&pipeline]).await.context("taking the writer's lock")?;
        Ok(row.try_get::<_, bool>(0)?.then_some(Self { client }))
    }

    /// The connection that holds it, for looking at the database that gave it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the lock is still held: the connection answers.
    pub async fn is_held(&self) -> bool {
        let ask = tokio::time::timeout(Duration::from_secs(5), self.client.batch_execute("select 1"));
        matches!(ask.await, Ok(Ok(())))
    }
}
