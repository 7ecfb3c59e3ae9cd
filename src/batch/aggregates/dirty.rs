//! Which buckets `platform etl --dirty` builds.

use std::time::Duration;

use tokio_postgres::Client;

use super::{failed, watermark};
use crate::catalog::Aggregate;
use crate::domain::{Failure, RunDate};
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror_day::MirrorTable;
use crate::store::stale_buckets;

/// Buckets of an aggregate that one run takes; the next one takes the others.
const DIRTY_MAX: usize = 100_000;

/// Waits until the mirror has what PostgreSQL has now, and with it every mark. `None`: takes the marks as they are.
///
/// # Errors
/// `Failure::Busy` after the limit; those of the databases.
pub async fn marks_are_there(
    client: &Client,
    clickhouse: &ClickHouse,
    pipeline: &str,
    limit: Option<Duration>,
) -> anyhow::Result<()> {
    match limit {
        Some(limit) => watermark::catch_up(client, clickhouse, pipeline, limit).await.map(drop),
        None => watermark::position(clickhouse, pipeline).await.map(drop),
    }
}

/// The buckets that have changed since their build, or have rows and were never built; the earliest first.
///
/// # Errors
/// `Failure::Config` without a mirror; ClickHouse's.
pub async fn dirty(clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<Vec<RunDate>> {
    let mirror = MirrorTable::find(clickhouse, aggregate).await;
    let Some(mirror) = mirror.map_err(|error| failed("looking for the mirror", error))? else {
        return Err(Failure::Config(format!("{} has no mirror yet; run `platform load`", aggregate.table)).into());
    };
    let stale = stale_buckets::of(clickhouse, aggregate, Some(&mirror), DIRTY_MAX).await;
    let stale = stale.map_err(|error| failed("looking for dirty buckets", error))?;
    Ok(stale.buckets.iter().rev().map(|stale| stale.bucket).collect())
}
