//! The sessions that builds run over.

use std::time::Duration;

use anyhow::Context as _;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::store::clickhouse::ClickHouse;
use crate::store::postgres;

/// Both databases, with the limit of a build (`etl.build_timeout_s`).
///
/// # Errors
/// `Failure::Unavailable` when PostgreSQL does not answer, `Failure::Config` for addresses that are wrong or missing.
pub async fn sessions(settings: &Settings, application: &str) -> anyhow::Result<(Client, ClickHouse)> {
    let limit = Duration::from_secs(settings.etl.build_timeout_s);
    let client = postgres::connect(&settings.postgres, application).await?;
    let timeout = format!("set statement_timeout = {}", limit.as_millis());
    client.batch_execute(&timeout).await.context("preparing the PostgreSQL session")?;
    Ok((client, ClickHouse::new(&settings.clickhouse)?.with_timeout(limit)))
}
