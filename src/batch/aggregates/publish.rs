//! When readers get to see the result of a changed file: once it has every bucket, in one step.

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::build::{Outcome, Request, build_bucket};
use super::lock::BucketLock;
use super::{failed, watermark};
use crate::catalog::Aggregate;
use crate::domain::RunDate;
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror_day::MirrorTable;
use crate::store::results::{self, Shown};
use crate::store::stale_buckets;

/// Buckets that are looked for at once.
const MISSING_MAX: usize = 10_000;

/// What came of an attempt to show a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Readers see it, since now or before.
    Shown,
    /// Readers see another definition's, because these buckets of this one are not built yet.
    Missing(Vec<RunDate>),
}

/// Shows the result if nothing else is shown: an incomplete one is better than none.
///
/// # Errors
/// ClickHouse's.
pub(super) async fn publish_first(clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<()> {
    let (shown, _) = look(clickhouse, aggregate).await?;
    if shown == Shown::Nothing { show(clickhouse, aggregate).await } else { Ok(()) }
}

/// Whether readers see these definitions already, and nothing is left of others: then a build of buckets leaves nothing to publish.
///
/// # Errors
/// ClickHouse's.
pub async fn are_published(clickhouse: &ClickHouse, aggregates: &[Aggregate]) -> anyhow::Result<bool> {
    let looked = aggregates.iter().map(|aggregate| look(clickhouse, aggregate));
    Ok(try_join_all(looked).await?.iter().all(|(shown, others)| *shown == Shown::This && others.is_empty()))
}

async fn look(clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<(Shown, Vec<String>)> {
    results::look(clickhouse, aggregate).await.map_err(|error| failed("looking at the result", error))
}

/// Shows the result in the place of an older definition's if it has every bucket, and drops the older one.
///
/// # Errors
/// ClickHouse's.
pub async fn publish(clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<Published> {
    let (shown, others) = look(clickhouse, aggregate).await?;
    if shown != Shown::This {
        let mirror = MirrorTable::find(clickhouse, aggregate).await;
        let mirror = mirror.map_err(|error| failed("looking for the mirror", error))?;
        let stale = stale_buckets::of(clickhouse, aggregate, mirror.as_ref(), MISSING_MAX).await;
        let stale = stale.map_err(|error| failed("looking for buckets that are not built", error))?;
        let missing: Vec<RunDate> =
            stale.buckets.iter().filter(|stale| stale.as_of.is_none()).map(|stale| stale.bucket).collect();
        if shown == Shown::Another && !missing.is_empty() {
            return Ok(Published::Missing(missing));
        }
        show(clickhouse, aggregate).await?;
        tracing::info!(aggregate = aggregate.name, definition = aggregate.definition, "readers see this definition");
    }
    failpoint!("publish.shown");
    results::drop_others(clickhouse, aggregate, others)
        .await
        .map_err(|error| failed("dropping an older result", error))?;
    failpoint!("publish.others-dropped");
    Ok(Published::Shown)
}

async fn show(clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<()> {
    failpoint!("publish.before-show");
    results::show(clickhouse, aggregate).await.map_err(|error| failed("showing the result", error))
}

/// Builds what a changed file's result lacks and shows it. While another builder is at work on one of these buckets, the rest
/// is left to it.
///
/// # Errors
/// Those of `build_bucket`.
pub async fn complete(
    postgres: &Client,
    clickhouse: &ClickHouse,
    pipeline: &str,
    aggregate: &Aggregate,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    while let Published::Missing(missing) = publish(clickhouse, aggregate).await? {
        let (name, buckets) = (&aggregate.name, missing.len());
        tracing::info!(aggregate = name, buckets, "its file has changed: what is not built yet is built");
        for day in missing {
            let Some(lock) = BucketLock::acquire(postgres, name, day).await? else {
                tracing::info!(aggregate = name, %day, "another run builds it; readers see the older definition until then");
                return Ok(());
            };
            let position = watermark::position(clickhouse, pipeline).await?;
            let (force, exact, is_shown) = (false, false, false);
            let request = Request {
                clickhouse,
                pipeline,
                aggregate,
                day,
                lock: &lock,
                position,
                force,
                exact,
                is_shown,
                shutdown,
            };
            let outcome = build_bucket(&request, &mut None).await;
            lock.release().await?;
            if outcome? == Outcome::Moved {
                return Ok(());
            }
        }
    }
    Ok(())
}
