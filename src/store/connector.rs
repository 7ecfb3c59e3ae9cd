//! The pipeline's connector, made as its configuration says, and whether it is wanted at all.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::connect::{Connect, Error};
use super::connector_config;
use crate::config::Settings;
use crate::domain::Failure;

/// Makes the connector, or brings it to its configuration, and starts it. Where it stood it goes on.
///
/// # Errors
/// `Failure::Config` when a setting is missing or Connect refuses it, `Failure::Unavailable` when Connect does not answer.
pub async fn apply(settings: &Settings, client: &Client, connect: &Connect, limit: Duration) -> anyhow::Result<()> {
    let pipeline = &settings.sink.pipeline;
    let placeholder = connector_config::placeholder(client, pipeline).await?;
    let config = connector_config::build(settings, &placeholder)?;
    want(client, pipeline, true).await?;
    let deadline = Instant::now() + limit;
    loop {
        match connect.put_config(pipeline, &config).await {
            // One that was stopped keeps that state through a change.
            Ok(()) => return Ok(connect.resume(pipeline).await.map_err(|error| Failure::from(&error))?),
            // Workers that have just started rebalance for a moment.
            Err(Error::Rebalancing) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(Failure::from(&error).into()),
        }
    }
}

/// Says whether a connector that is gone is to be made again.
///
/// # Errors
/// PostgreSQL's.
pub async fn want(client: &Client, pipeline: &str, wanted: bool) -> anyhow::Result<()> {
    let sql = "update platform.pipelines set connector_wanted = $2 where name = $1 and connector_wanted <> $2";
    client.execute(sql, &[&pipeline, &wanted]).await.context("remembering whether the connector is wanted").map(drop)
}

/// Whether a connector that is gone is to be made again: it was not deleted by `platform connector delete`.
///
/// # Errors
/// PostgreSQL's.
pub async fn is_wanted(client: &Client, pipeline: &str) -> anyhow::Result<bool> {
    let sql = "select connector_wanted from platform.pipelines where name = $1";
    let row = client.query_opt(sql, &[&pipeline]).await.context("asking whether the connector is wanted")?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
}
