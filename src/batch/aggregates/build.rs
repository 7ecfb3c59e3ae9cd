//! Builds one day of one aggregate. A crash at any point leaves readers the old day or the new one, and the next builder
//! of the day clears away the rest.

use uuid::Uuid;

use super::lock::BucketLock;
use super::mirror_day::{Facts, MirrorDay};
use super::outline::{Outline, inspect};
use super::publish::publish_first;
use super::result::{self, Staged, Staging};
use super::{Position, failed, watermark};
use crate::catalog::{Aggregate, Check};
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::builds::{self, Build};
use crate::store::clickhouse::ClickHouse;

/// What to build, and under which conditions.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where.
    pub clickhouse: &'a ClickHouse,
    /// The pipeline that the mirror follows.
    pub pipeline: &'a str,
    /// Which result.
    pub aggregate: &'a Aggregate,
    /// Which day of it.
    pub day: RunDate,
    /// The day's lock, held.
    pub lock: &'a BucketLock<'a>,
    /// How far the mirror was, read before `inspect`.
    pub position: Position,
    /// Build although nothing has changed.
    pub force: bool,
    /// Do not swap in a day whose rows changed while it was built.
    pub exact: bool,
    /// Whether readers saw this definition already, so that there is nothing to show for the first time.
    pub is_shown: bool,
    /// Ends the work between two steps.
    pub shutdown: &'a Shutdown,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Readers see this build already, of the same rows and the same SQL.
    Unchanged(Build),
    /// Readers see this build from now on.
    Built(Build),
    /// The rows changed while the day was built, and `exact` was asked for, or the sink may have gone back in the log; readers
    /// see the day as before.
    Moved,
}

/// A day's rows as they were read, for every aggregate that is made of the same ones.
#[derive(Debug)]
pub struct DayRead {
    source: MirrorDay,
    facts: Facts,
}

/// Brings a day up to date, for callers that ask nothing more: they read the position first, and build again when the
/// day has changed since. `read`: what was read of these rows after the position, if anything was; otherwise this leaves it there.
///
/// # Errors
/// Those of `inspect` and `build`.
pub async fn build_bucket(request: &Request<'_>, read: &mut Option<DayRead>) -> anyhow::Result<Outcome> {
    let Request { clickhouse, pipeline, aggregate, day, position, force, .. } = *request;
    let inspection = match read {
        Some(DayRead { source, facts }) => {
            Outline::of(source.clone(), clickhouse, aggregate, day).await?.with(facts.clone(), aggregate)
        }
        None => inspect(clickhouse, aggregate, day, &[]).await?,
    };
    read.get_or_insert_with(|| DayRead { source: inspection.source.clone(), facts: inspection.facts.clone() });
    match inspection.recorded {
        Some(build) if inspection.is_current && !force => {
            Ok(Outcome::Unchanged(confirm(clickhouse, pipeline, (aggregate, day), build, position).await?))
        }
        _ => {
            let built = build(request, &inspection.source, &inspection.facts).await?;
            Ok(built.map_or(Outcome::Moved, Outcome::Built))
        }
    }
}

/// Keeps on record that a build is still right at `position`, which was read before the day: marks up to there are of no
/// concern any more.
pub(super) async fn confirm(
    clickhouse: &ClickHouse,
    pipeline: &str,
    (aggregate, day): (&Aggregate, RunDate),
    build: Build,
    position: Position,
) -> anyhow::Result<Build> {
    if build.as_of_batch >= position.batch || has_moved(clickhouse, pipeline, position).await? {
        return Ok(build);
    }
    let confirmed = Build { as_of_batch: position.batch, as_of_lsn: position.lsn.max(build.as_of_lsn), ..build };
    let stored = builds::store(clickhouse, &aggregate.key(), day, &confirmed).await;
    stored.map_err(|error| failed("recording the build", error))?;
    Ok(confirmed)
}

/// Whether another writer goes on since `position` was read: it may have gone back in the log, and then the position says
/// less than it did.
async fn has_moved(clickhouse: &ClickHouse, pipeline: &str, position: Position) -> anyhow::Result<bool> {
    Ok(watermark::position(clickhouse, pipeline).await?.term != position.term)
}

/// Builds the day out of `source`, whose rows were `facts`, and puts it in its place. `None` when `exact` was asked for
/// and the rows changed meanwhile, or another writer goes on since the position was read.
///
/// # Errors
/// `Failure::DataCheck` when the result is not what its header promises, `Failure::Busy` when the lock was lost,
/// `Failure::Signal` between two steps, ClickHouse's. After any of them readers see the old day, or the new one if only
/// its record is missing; then the next run builds it again.
pub async fn build(request: &Request<'_>, source: &MirrorDay, facts: &Facts) -> anyhow::Result<Option<Build>> {
    let staging = Staging::of(request.clickhouse, request.aggregate, request.day, Uuid::now_v7());
    let outcome = build_in(request, &staging, source, facts).await;
    // The swap has copied it.
    staging.discard().await;
    outcome
}

/// As `build`, in a staging table of the caller's, who discards it.
pub(super) async fn build_in(
    request: &Request<'_>,
    staging: &Staging<'_>,
    source: &MirrorDay,
    facts: &Facts,
) -> anyhow::Result<Option<Build>> {
    // Not cut off halfway: a table that is made after its request was given up would stay.
    staging.create().await?;
    let fill = async {
        staging.fill(source).await?;
        // The same rows before and after: the day was made of exactly these.
        let moved = async { if request.exact { have_moved(request, source, facts).await } else { Ok(false) } };
        tokio::try_join!(judge(request, staging), moved)
    };
    match request.shutdown.guard(fill).await? {
        (Some(judged), false) => finish(request, staging, source, (facts, &judged)).await,
        _ => Ok(None),
    }
}

/// As `build_in`, but reads the day's facts, with the values of `checks`, while it builds, and puts the day in its place if `accepts`
/// says so of them. `None` also when the table was written to meanwhile: then nobody knows whether both have read the same rows, nor
/// whether they are those of the request's position.
///
/// # Errors
/// Those of `build` and `accepts`.
pub(super) async fn build_at_once(
    request: &Request<'_>,
    staging: &Staging<'_>,
    outline: Outline,
    checks: &[Check],
    accepts: impl AsyncFnOnce(&Facts) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<Build>> {
    let Request { clickhouse, aggregate, shutdown, .. } = *request;
    // Not cut off halfway, as in `build_in`.
    staging.create().await?;
    let source = &outline.source;
    let read = async { tokio::try_join!(source.facts(clickhouse, aggregate, checks), staging.fill(source)) };
    let (facts, ()) = shutdown.guard(read).await?;
    let judged = async { tokio::try_join!(judge(request, staging), is_as_found(request, source), accepts(&facts)) };
    match shutdown.guard(judged).await? {
        (Some(judged), true, true) => finish(request, staging, source, (&facts, &judged)).await,
        _ => Ok(None),
    }
}

/// What was built, and how far the mirror was after that.
struct Judged {
    staged: Staged,
    position: Position,
}

/// What was built, as one part; `None` when another writer goes on since the position was read.
async fn judge(request: &Request<'_>, staging: &Staging<'_>) -> anyhow::Result<Option<Judged>> {
    let position = watermark::position(request.clickhouse, request.pipeline);
    let (staged, position) = tokio::try_join!(staging.settle(), position)?;
    Ok((position.term == request.position.term).then_some(Judged { staged, position }))
}

/// Puts what was built out of rows that were `facts` in its place.
async fn finish(
    request: &Request<'_>,
    staging: &Staging<'_>,
    source: &MirrorDay,
    (facts, judged): (&Facts, &Judged),
) -> anyhow::Result<Option<Build>> {
    let Request { aggregate, day, position, shutdown, .. } = *request;
    let staged = &judged.staged;
    let build = Build {
        build_id: staging.build_id(),
        as_of_batch: position.batch,
        as_of_lsn: position.lsn,
        // Of the rows before: if they moved, the next look at the day sees other ones and builds again.
        fingerprint: facts.fingerprint(aggregate),
        rows_in: facts.rows,
        rows_out: staged.rows_out,
    };
    if shutdown.requested() {
        return Err(shutdown.failure().into());
    }
    check_counted(request, judged, source, facts).await?;
    request.lock.confirm().await?;
    put_in_place(request, staging, staged, &build).await?;
    tracing::debug!(aggregate = aggregate.name, %day, rows_in = build.rows_in, rows_out = build.rows_out, "day built");
    Ok(Some(build))
}

/// Whether every read since `source` was found, and that has ended, saw the same rows. `false`: it is not known.
async fn is_as_found(request: &Request<'_>, source: &MirrorDay) -> anyhow::Result<bool> {
    Ok(source.is_same_as(&MirrorDay::find(request.clickhouse, request.aggregate, request.day).await?))
}

/// Whether the day's rows are not those of `facts` any more. They are read again only if the table has other parts than before, and
/// then as the table is now: its floor and the day's keys may be others.
async fn have_moved(request: &Request<'_>, source: &MirrorDay, facts: &Facts) -> anyhow::Result<bool> {
    let Request { clickhouse, aggregate, day, .. } = *request;
    let now = MirrorDay::find(clickhouse, aggregate, day).await?;
    if source.is_same_as(&now) {
        return Ok(false);
    }
    Ok(!now.facts(clickhouse, aggregate, &[]).await?.are_of_the_rows_of(facts))
}

/// Another number of rows is an error of the file, unless they changed while the day was built.
async fn check_counted(
    request: &Request<'_>,
    judged: &Judged,
    source: &MirrorDay,
    facts: &Facts,
) -> anyhow::Result<()> {
    let Some(counted) = judged.staged.counted.as_deref() else { return Ok(()) };
    if counted == facts.rows.to_string() || may_be_of_changes(request, judged, counted, facts) {
        return Ok(());
    }
    if have_moved(request, source, facts).await? {
        return Ok(());
    }
    let header = request.aggregate.rows.as_deref().unwrap_or_default();
    Err(Failure::DataCheck(format!("{header} = {counted}, but {} rows went in", facts.rows)).into())
}

/// Whether the changes that the sink has written meanwhile account for a difference: a batch's number grows by the records it takes
/// in, and a record changes one row at most. A day whose rows keep changing is not read once more only to be sure of that.
fn may_be_of_changes(request: &Request<'_>, judged: &Judged, counted: &str, facts: &Facts) -> bool {
    let changes = judged.position.batch.saturating_sub(request.position.batch);
    !request.exact && counted.parse::<u64>().is_ok_and(|counted| counted.abs_diff(facts.rows) <= changes)
}

/// Swaps, records, and looks whether readers see what was recorded.
async fn put_in_place(
    request: &Request<'_>,
    staging: &Staging<'_>,
    staged: &Staged,
    build: &Build,
) -> anyhow::Result<()> {
    let Request { clickhouse, aggregate, day, .. } = *request;
    failpoint!("build.before-swap");
    staging.swap(staged).await?;
    failpoint!("build.after-swap");
    let key = aggregate.key();
    let recorded = async {
        let stored = builds::store(clickhouse, &key, day, build).await;
        stored.map_err(|error| failed("recording the build", error))
    };
    // Readers see it since the swap.
    let shown = async { if request.is_shown { Ok(()) } else { publish_first(clickhouse, aggregate).await } };
    let ((), (), content) = tokio::try_join!(recorded, shown, result::content(clickhouse, aggregate, day))?;
    failpoint!("build.recorded");
    match content {
        Some(content) if content.shows(build) => Ok(()),
        content => Err(Failure::DataCheck(format!(
            "analytics.{} does not show the build that was just put there: {content:?}",
            aggregate.name
        ))
        .into()),
    }
}
