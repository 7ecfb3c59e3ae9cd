//! One day as `platform etl` promises it: locked, caught up with PostgreSQL, built, and equal to PostgreSQL.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_postgres::Client;
use uuid::Uuid;

use super::build::{build_at_once, build_in, confirm};
use super::glimpse::{Beforehand, Glimpse};
use super::lock::BucketLock;
use super::outline::Outline;
use super::readiness::refuse_unready;
use super::result::Staging;
use super::source_of_record::SourceFacts;
use super::{Facts, Inspection, Position, Request, failed, inspect, watermark};
use crate::catalog::{Aggregate, Check};
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::builds::{self, Build, Run};
use crate::store::clickhouse::ClickHouse;
use crate::store::postgres;

/// Looks at a day that is written to, or that differs, before it is judged.
const ATTEMPTS: usize = 3;
/// How long the lock of a bucket is waited for that somebody else builds.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// A day of an aggregate, and the databases.
#[derive(Debug, Clone, Copy)]
pub struct Day<'a> {
    /// A session of its own: it holds the lock.
    pub postgres: &'a Client,
    /// Where the mirror and the result are.
    pub clickhouse: &'a ClickHouse,
    /// The pipeline that fills the mirror.
    pub pipeline: &'a str,
    /// Which result.
    pub aggregate: &'a Aggregate,
    /// Which day of it.
    pub date: RunDate,
    /// A look at the mirror that began beforehand, to save the time; for a day that is built in any case, of a mirror that is not waited for.
    pub glimpse: Option<&'a Glimpse>,
    /// Whether readers see this definition already; `false`: it is not known.
    pub is_shown: bool,
    /// Ends the work between two steps.
    pub shutdown: &'a Shutdown,
}

/// What the person asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Build although nothing has changed.
    pub force: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// How long to wait until the mirror has caught up with PostgreSQL, to compare the two; `None`: take the mirror as
    /// it is and compare nothing.
    pub wait: Option<Duration>,
    /// Who called, as JSON; for the history.
    pub context: String,
}

/// How a run ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The day was built.
    Done,
    /// There was nothing to do.
    Unchanged,
    /// The day would be built.
    WouldBuild,
}

/// What a run says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    job: &'static str,
    aggregate: String,
    date: String,
    /// How it ended.
    pub status: Status,
    /// Rows of the mirror in the day.
    pub rows_in: u64,
    /// Rows of the result.
    pub rows_out: Option<u64>,
    build_id: Option<String>,
    as_of_lsn: Option<String>,
    duration_ms: u128,
    checks: BTreeMap<String, &'static str>,
}

/// How a run ended well, before it is put into words.
struct Ended {
    status: Status,
    build: Option<Build>,
    rows_in: u64,
    checks: BTreeMap<String, &'static str>,
}

/// What the mirror's day is beside PostgreSQL's.
pub(super) enum Comparison {
    Equal,
    /// By the names of the checks.
    Differs(Vec<String>),
    /// PostgreSQL's day changed while the mirror's was read.
    Moving,
    NotCompared,
}

/// Rebuilds a day, unless nothing has changed, and keeps the run in the history.
///
/// # Errors
/// `Failure::Busy` when the lock is held, the mirror is behind, or its table is being loaded; `Failure::DataCheck` when
/// the mirror differs from PostgreSQL or the result is not what it must be; `Failure::Signal`; `Failure::Unavailable`.
pub async fn rebuild(day: &Day<'_>, options: &Options) -> anyhow::Result<Report> {
    let (begun, started_at) = (Instant::now(), Utc::now());
    if options.dry_run {
        return Ok(day.shutdown.guard(plan(day, options)).await?.report(day, begun));
    }
    let (outcome, lock, staging) = match day.shutdown.guard(lock(day)).await {
        Ok(lock) => {
            let (outcome, staging) = rebuild_under(day, options, &lock).await;
            (outcome, Some(lock), staging)
        }
        Err(error) => (Err(error), None, None),
    };
    let outcome = outcome.map_err(postgres::or_unavailable);
    let (kept, (), ()) = tokio::join!(keep(day, options, &outcome, started_at), discard(staging), release(lock));
    // Why a run failed says more than that the history is not to be had either.
    let ended = outcome?;
    kept?;
    Ok(ended.report(day, begun))
}

/// Keeps the run in the history.
async fn keep(
    day: &Day<'_>,
    options: &Options,
    outcome: &anyhow::Result<Ended>,
    started_at: DateTime<Utc>,
) -> anyhow::Result<()> {
    let (status, detail) = match outcome {
        Ok(ended) if ended.status == Status::Unchanged => ("unchanged", String::new()),
        Ok(_) => ("done", String::new()),
        Err(error) => ("failed", format!("{error:#}")),
    };
    let (job, bucket) = (format!("etl:{}", day.aggregate.name), day.date.to_string());
    let build = outcome.as_ref().ok().and_then(|ended| ended.build.as_ref());
    let (detail, context) = (detail.as_str(), options.context.as_str());
    let run = Run { job: &job, bucket: &bucket, status, detail, context, build, started_at };
    let kept = builds::store_run(day.clickhouse, &run).await;
    kept.map_err(|error| failed("keeping the run in the history", error))
}

async fn discard(staging: Option<Staging<'_>>) {
    if let Some(staging) = staging {
        staging.discard().await;
    }
}

async fn release(lock: Option<BucketLock<'_>>) {
    if let Some(lock) = lock
        && let Err(error) = lock.release().await
    {
        tracing::warn!(error = %format!("{error:#}"), "the lock ends with the session");
    }
}

async fn plan(day: &Day<'_>, options: &Options) -> anyhow::Result<Ended> {
    let inspection = inspect(day.clickhouse, day.aggregate, day.date, &[]).await?;
    let unchanged = inspection.is_current && !options.force;
    let status = if unchanged { Status::Unchanged } else { Status::WouldBuild };
    let rows_in = inspection.facts.rows;
    Ok(Ended { status, build: inspection.recorded.filter(|_| unchanged), rows_in, checks: BTreeMap::new() })
}

/// The bucket's lock. A refresher that is at work on it has done in a moment.
async fn lock<'a>(day: &Day<'a>) -> anyhow::Result<BucketLock<'a>> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(lock) = BucketLock::acquire(day.postgres, &day.aggregate.name, day.date).await? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(Failure::Busy("it is being built by another run".into()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// With the staging table, which is not needed any more.
async fn rebuild_under<'a>(
    day: &Day<'a>,
    options: &Options,
    lock: &BucketLock<'_>,
) -> (anyhow::Result<Ended>, Option<Staging<'a>>) {
    for number in 1..=ATTEMPTS {
        let staging = Staging::of(day.clickhouse, day.aggregate, day.date, Uuid::now_v7());
        match attempt(day, options, lock, &staging, number).await {
            Ok(Some(ended)) => return (Ok(ended), Some(staging)),
            Ok(None) => staging.discard().await,
            Err(error) => return (Err(error), Some(staging)),
        }
    }
    (Err(Failure::Busy("it is written to all the time; run it again".into()).into()), None)
}

/// One attempt; `None`: the day was being written to, or differed, and the next one may do better.
async fn attempt(
    day: &Day<'_>,
    options: &Options,
    lock: &BucketLock<'_>,
    staging: &Staging<'_>,
    number: usize,
) -> anyhow::Result<Option<Ended>> {
    let Day { clickhouse, pipeline, aggregate, date, is_shown, shutdown, .. } = *day;
    let (force, last) = (options.force, number == ATTEMPTS);
    // It will be needed, so it is made meanwhile; never cut off halfway, so that it is known to be made.
    let create = async { if force { staging.create().await } else { Ok(()) } };
    let approach = Approach::of(day, options.wait, force, number == 1);
    let (approached, created) = tokio::join!(shutdown.guard(approach), create);
    let Approach { position, before, outline, at_once } = approached?;
    created?;
    let exact = !last;
    let request =
        Request { clickhouse, pipeline, aggregate, day: date, lock, position, force, exact, is_shown, shutdown };
    if at_once {
        let mut comparison = Comparison::NotCompared;
        let accepts = async |facts: &Facts| {
            comparison = compare(day, before.as_ref(), facts).await?;
            Ok(matches!(comparison, Comparison::Equal | Comparison::NotCompared))
        };
        let asked = asked(aggregate, before.as_ref());
        let built = build_at_once(&request, staging, outline, asked, accepts).await?;
        return Ok(built.map(|build| Ended::built(build, checks(aggregate, &comparison))));
    }
    let (inspection, comparison) = shutdown.guard(look_closer(day, outline, before)).await?;
    let Inspection { source, facts, recorded, is_current } = inspection;
    // A mirror that differs is told, also when it is what was built.
    if is_current && !force && !matches!(comparison, Comparison::Differs(_)) {
        let build = match recorded {
            Some(build) => Some(confirm(clickhouse, pipeline, (aggregate, date), build, position).await?),
            None => None,
        };
        return Ok(Some(Ended { status: Status::Unchanged, build, rows_in: facts.rows, checks: BTreeMap::new() }));
    }
    match &comparison {
        Comparison::Differs(differences) if number > 1 => return Err(differs(day, differences).await),
        Comparison::Differs(_) => return Ok(None),
        Comparison::Moving if !last => return Ok(None),
        Comparison::Moving | Comparison::Equal | Comparison::NotCompared => {}
    }
    let built = build_in(&request, staging, &source, &facts).await?;
    Ok(built.map(|build| Ended::built(build, checks(aggregate, &comparison))))
}

/// Position, day, and how it compares: PostgreSQL first, then a barrier, then the mirror, then PostgreSQL again, so that
/// a difference is one only if PostgreSQL stood still meanwhile.
pub(super) async fn look(day: &Day<'_>, wait: Option<Duration>) -> anyhow::Result<(Inspection, Comparison)> {
    let Approach { outline, before, .. } = Approach::of(day, wait, false, false).await?;
    look_closer(day, outline, before).await
}

/// What comes before the mirror's rows are read.
struct Approach {
    position: Position,
    /// PostgreSQL's day, if it is to be compared.
    before: Option<SourceFacts>,
    outline: Outline,
    /// Whether to read the rows and to build of them at once: it will be built in any case, and probably nobody writes meanwhile.
    /// Otherwise the looks before and after it prove more. Only then the parts may be older than the position.
    at_once: bool,
}

impl Approach {
    async fn of(day: &Day<'_>, wait: Option<Duration>, force: bool, is_first: bool) -> anyhow::Result<Self> {
        let Day { postgres: client, clickhouse, pipeline, aggregate, date, .. } = *day;
        if let (true, None) = (force, wait)
            && let Some(glimpse) = day.glimpse
            && let Some(Beforehand { position, outline }) = glimpse.take().await
        {
            return Ok(Self { position, before: None, outline, at_once: true });
        }
        let (before, position) = match wait {
            Some(limit) => {
                let before = SourceFacts::read(client, aggregate, date).await?;
                (Some(before), watermark::catch_up(client, clickhouse, pipeline, limit).await?)
            }
            None => (None, watermark::position(clickhouse, pipeline).await?),
        };
        let ready = refuse_unready(clickhouse, &aggregate.table, position);
        let outline = Outline::find(clickhouse, aggregate, date, force);
        let ((), outline) = tokio::try_join!(ready, outline)?;
        let at_once = is_first && (force || outline.recorded.is_none()) && outline.source.was_idle();
        Ok(Self { position, before, outline, at_once })
    }
}

/// The mirror's rows of the day, beside those that PostgreSQL had `before`.
async fn look_closer(
    day: &Day<'_>,
    outline: Outline,
    before: Option<SourceFacts>,
) -> anyhow::Result<(Inspection, Comparison)> {
    let Day { clickhouse, aggregate, .. } = *day;
    let facts = outline.source.facts(clickhouse, aggregate, asked(aggregate, before.as_ref())).await?;
    let comparison = compare(day, before.as_ref(), &facts).await?;
    Ok((outline.with(facts, aggregate), comparison))
}

/// The checks that the comparison needs.
fn asked<'a>(aggregate: &'a Aggregate, before: Option<&SourceFacts>) -> &'a [Check] {
    if before.is_some() { &aggregate.checks } else { &[] }
}

async fn compare(day: &Day<'_>, before: Option<&SourceFacts>, facts: &Facts) -> anyhow::Result<Comparison> {
    let Some(before) = before else { return Ok(Comparison::NotCompared) };
    let differences = before.differences(facts, day.aggregate);
    Ok(if differences.is_empty() {
        Comparison::Equal
    } else if SourceFacts::read(day.postgres, day.aggregate, day.date).await? == *before {
        Comparison::Differs(differences)
    } else {
        Comparison::Moving
    })
}

async fn differs(day: &Day<'_>, differences: &[String]) -> anyhow::Error {
    let parked = builds::parked(day.clickhouse, &day.aggregate.table).await.unwrap_or(0);
    let hint = if parked == 0 {
        "if `platform load` does not mend it, report it".to_owned()
    } else {
        format!("{parked} rows of {} are parked in platform.dead_letters", day.aggregate.table)
    };
    let text =
        format!("the mirror differs from PostgreSQL, so the day was left as it is: {}; {hint}", differences.join("; "));
    Failure::DataCheck(text).into()
}

fn checks(aggregate: &Aggregate, comparison: &Comparison) -> BTreeMap<String, &'static str> {
    let verdict = match comparison {
        Comparison::Equal => "equal",
        Comparison::NotCompared => "not compared",
        Comparison::Moving | Comparison::Differs(_) => "not compared: the day was being written to",
    };
    let names = std::iter::once("rows").chain(aggregate.checks.iter().map(|check| check.name.as_str()));
    names.map(|name| (name.to_owned(), verdict)).collect()
}

impl Ended {
    fn built(build: Build, checks: BTreeMap<String, &'static str>) -> Self {
        Self { status: Status::Done, rows_in: build.rows_in, build: Some(build), checks }
    }

    fn report(self, day: &Day<'_>, begun: Instant) -> Report {
        let build = self.build.as_ref();
        Report {
            job: "etl",
            aggregate: day.aggregate.name.clone(),
            date: day.date.to_string(),
            status: self.status,
            rows_in: self.rows_in,
            rows_out: build.map(|build| build.rows_out),
            build_id: build.map(|build| build.build_id.to_string()),
            as_of_lsn: build.map(|build| build.as_of_lsn.to_string()),
            duration_ms: begun.elapsed().as_millis(),
            checks: self.checks,
        }
    }
}
