//! The pipeline's connector, made as its configuration says, and whether it is wanted at all.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::connect::{Connect, Error};
use super::{connector_config, replication};
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

/// How long the connector's session may take to end.
const RENEW_LIMIT: Duration = Duration::from_secs(30);

/// Lets the connector end its session with PostgreSQL and begin another one, which reads the catalog anew. Nothing if it has none.
///
/// # Errors
/// `Failure::Config` without `connect.url`, `Failure::Unavailable` when Connect does not answer, or the session goes on.
pub async fn renew_session(settings: &Settings, client: &Client) -> anyhow::Result<()> {
    let pipeline = &settings.sink.pipeline;
    let Some(session) = replication::slot_pid(client, pipeline).await? else { return Ok(()) };
    let connect = Connect::new(&settings.connect)?;
    let deadline = Instant::now() + RENEW_LIMIT;
    let mut asked = false;
    while replication::slot_pid(client, pipeline).await? == Some(session) {
        if Instant::now() >= deadline {
            let text = format!("the connector {pipeline} was restarted, and its session with PostgreSQL goes on");
            return Err(Failure::Unavailable(text).into());
        }
        if !asked {
            match connect.restart(pipeline, false).await {
                Ok(()) => asked = true,
                // Workers that have just started rebalance for a moment.
                Err(Error::Rebalancing) => {}
                Err(error) => return Err(Failure::from(&error).into()),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tracing::info!(connector = pipeline, "the connector has begun a new session");
    Ok(())
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
