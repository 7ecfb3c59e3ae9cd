//! Waiting until the mirror has what PostgreSQL had.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::failed;
use crate::domain::Failure;
pub use crate::store::checkpoint::Position;
use crate::store::clickhouse::ClickHouse;
use crate::store::{checkpoint, mirror, replication};

const POLL: Duration = Duration::from_millis(50);
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Where the mirror is now.
///
/// # Errors
/// `Failure::Unavailable` before the first load.
pub(in crate::batch) async fn position(clickhouse: &ClickHouse, pipeline: &str) -> anyhow::Result<Position> {
    let newest = checkpoint::position(clickhouse, pipeline).await;
    newest.map_err(|error| failed("reading the checkpoint", error))?.ok_or_else(|| {
        let text = "has no checkpoint, so the mirror is empty; run `platform load`, then `platform sink`";
        Failure::Unavailable(format!("the pipeline {pipeline} {text}")).into()
    })
}

/// Commits a barrier, so that an idle stream moves, and waits until the mirror has passed what was there before it.
///
/// # Errors
/// `Failure::Busy` after `limit`; `Failure::Config` when the mirror was loaded from another database.
pub(in crate::batch) async fn catch_up(
    client: &Client,
    clickhouse: &ClickHouse,
    pipeline: &str,
    limit: Duration,
) -> anyhow::Result<Position> {
    let log = mirror::newest_log(clickhouse).await.map_err(|error| failed("reading the log's number", error))?;
    if let Some(log) = log
        && log.identity != replication::log_identity(client).await?
    {
        let text = "the mirror was loaded from another database, or from before a fail-over; run `platform load`";
        return Err(Failure::Config(text.into()).into());
    }
    // Before the barrier: a mirror that was never loaded is not worth one.
    position(clickhouse, pipeline).await?;
    let target = replication::emit(client, replication::BARRIER_PREFIX, "").await?;
    let begun = Instant::now();
    let mut said = begun;
    loop {
        let position = position(clickhouse, pipeline).await?;
        if position.lsn >= target {
            return Ok(position);
        }
        if begun.elapsed() >= limit {
            return Err(Failure::Busy(format!(
                "the mirror has not reached {target} within {} s; it is at {}; is `platform sink` running, and its connector?",
                limit.as_secs(),
                position.lsn
            ))
            .into());
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            tracing::info!(target_lsn = %target, mirror_lsn = %position.lsn, "waiting until the mirror has caught up");
        }
        tokio::time::sleep(POLL).await;
    }
}
