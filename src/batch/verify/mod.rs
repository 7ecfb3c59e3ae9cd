//! `platform verify`: proves that the mirror equals PostgreSQL, or names the rows that differ; `--repair` mends them.
//!
//! ```text
//! barrier, wait ─► sums of buckets on both sides ─► rows of the buckets that differ ─► keys that seem to differ
//!                  ─► rounds of barrier, wait, both rows (settle.rs) ─► what differs, exactly ─► repair.rs
//! ```
//!
//! **What is compared** is a row's bytes in ClickHouse's `RowBinary`: the mirror's rows in that form are made by ClickHouse
//! (`formatRow`), PostgreSQL's by the codecs that a load uses. So every type is compared exactly, and no second text form of a
//! value has to be agreed on. The SHA-256 of the bytes is computed where the rows are; of the mirror only sums travel.
//!
//! **Ranges of keys** are ranges of a hash of the key: the two databases do not order texts, UUIDs or decimals alike, so that
//! a range of the keys themselves would not be the same rows on both sides, nor cheap on both. Sums do not depend on order, so
//! both sides are read as they lie: PostgreSQL by parallel COPY in one snapshot, the mirror by one query.
//!
//! **Memory** is about 150 MiB for the sums of both sides, whatever the table's size, and at most `verify.candidate_rows_max` rows' fingerprints. When more than that many rows lie
//! in buckets that differ, a part of them is settled, and the report says that it is one.

mod candidates;
mod fingerprint;
mod mirror_rows;
mod parked;
mod repair;
mod report;
mod settle;
mod source;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_postgres::Client;

use crate::batch::{aggregates, load};
use crate::catalog::{Comparison, Table, compare};
use crate::config::Settings;
use crate::domain::{Failure, TableName};
use crate::store::builds::{self, Run};
use crate::store::clickhouse::ClickHouse;
use crate::store::table_states::{self, TableState};
use crate::store::{advisory_lock, mirror, postgres, table_shapes};
use mirror_rows::MirrorRows;
use parked::Parked;
pub use report::Report;
use report::{Compared, NotCompared};
use settle::Difference;

/// Both databases, and the way to make sure that the mirror has what PostgreSQL had.
struct Fence<'a> {
    settings: &'a Settings,
    client: &'a Client,
    clickhouse: &'a ClickHouse,
}

impl Fence<'_> {
    /// Waits until everything that was committed before now is in the mirror.
    async fn pass(&self) -> anyhow::Result<aggregates::Position> {
        let limit = Duration::from_secs(self.settings.verify.wait_timeout_s);
        aggregates::catch_up(self.client, self.clickhouse, &self.settings.sink.pipeline, limit).await
    }
}

/// Compares `names`, or every published table when it is empty; mends what differs if `repair`.
///
/// # Errors
/// `Failure::Unavailable` when a part does not answer, `Failure::Config` for a table that is not published,
/// `Failure::Busy` when the mirror is behind or another comparison runs. What was found is in the report, and
/// `outcome` says how the job ends.
pub async fn run(settings: &Settings, names: &[TableName], repair: bool) -> anyhow::Result<Report> {
    let (begun, started_at) = (Instant::now(), Utc::now());
    let limit = Duration::from_secs(settings.verify.statement_timeout_s.max(1));
    let client = postgres::connect(&settings.postgres, "platform verify").await?;
    client.batch_execute(&format!("set statement_timeout = {}", limit.as_millis())).await?;
    alone(&client, Duration::from_secs(settings.verify.wait_timeout_s)).await?;
    let clickhouse = ClickHouse::new(&settings.clickhouse)?.with_timeout(limit);
    let fence = Fence { settings, client: &client, clickhouse: &clickhouse };
    let mut not_compared = Vec::new();
    let mut tables = Vec::new();
    for name in chosen(&fence, names).await? {
        match ready(&fence, &name).await? {
            Ok(table) => tables.push(table),
            Err(reason) => not_compared.push(NotCompared { table: name.to_string(), reason }),
        }
    }
    // Before anything is read: when the mirror is behind, everything would seem to differ.
    let position = if tables.is_empty() { None } else { Some(fence.pass().await?) };
    let progress = bar();
    let mut compared = Vec::new();
    for table in tables {
        tracing::info!(table = %table.name(), "comparing");
        let outcome = table_whole(&fence, &table, repair, &progress).await;
        if let Err(error) = (MirrorRows { clickhouse: &clickhouse, table: &table }).clean_up().await {
            tracing::warn!(
                error = format!("{error:#}"),
                "keys that were asked for stay in ClickHouse until the next run"
            );
        }
        // A table that changed meanwhile was not compared, whatever came out.
        let reason = match ready(&fence, table.name()).await? {
            Ok(now) if now.relation().has_shape_of(table.relation()) => None,
            Ok(_) => Some("it was altered while it was compared".to_owned()),
            Err(reason) => Some(reason),
        };
        match (reason, outcome) {
            (Some(reason), _) => not_compared.push(NotCompared { table: table.name().to_string(), reason }),
            (None, outcome) => compared.push(outcome.with_context(|| format!("comparing {}", table.name()))?),
        }
    }
    progress.finish_and_clear();
    let mut report = Report {
        job: "verify",
        status: "equal",
        lsn: position.map_or_else(String::new, |position| position.lsn.to_string()),
        tables: compared,
        not_compared,
        duration_ms: begun.elapsed().as_millis(),
    };
    let incomplete = !report.not_compared.is_empty() || report.tables.iter().any(|table| table.restless > 0);
    report.status = match (report.differs(), incomplete) {
        (true, _) => "different",
        (false, true) => "incomplete",
        (false, false) if report.tables.iter().any(|table| table.repaired > 0) => "repaired",
        (false, false) => "equal",
    };
    remember(&clickhouse, &report, started_at).await?;
    Ok(report)
}

/// Adds the comparison to the history of runs.
async fn remember(clickhouse: &ClickHouse, report: &Report, started_at: DateTime<Utc>) -> anyhow::Result<()> {
    let detail = serde_json::to_string(report)?;
    let tables: Vec<&str> = report.tables.iter().map(|table| table.table.as_str()).collect();
    let run = Run {
        job: "verify",
        bucket: &tables.join(", "),
        status: report.status,
        detail: &detail,
        context: "{}",
        build: None,
        started_at,
    };
    builds::store_run(clickhouse, &run)
        .await
        .map_err(|error| aggregates::failed("keeping the run in the history", error))
}

/// How the job ends.
///
/// # Errors
/// `Failure::DataCheck` (65) for rows that differ, `Failure::Busy` (75) for tables or keys that could not be compared.
pub fn outcome(report: &Report) -> Result<(), Failure> {
    let differing: Vec<String> =
        report.tables.iter().filter(|table| table.differing() > 0).map(Compared::said).collect();
    if !differing.is_empty() {
        return Err(Failure::DataCheck(differing.join("\n")));
    }
    let waiting = report.not_compared.iter().map(|one| format!("{} was not compared: {}", one.table, one.reason));
    let restless = report.tables.iter().filter(|table| table.restless > 0).map(|table| {
        format!("{}: {} keys changed at every look and could not be compared", table.table, table.restless)
    });
    let reasons: Vec<String> = waiting.chain(restless).collect();
    if reasons.is_empty() { Ok(()) } else { Err(Failure::Busy(reasons.join("\n"))) }
}

/// Waits for another comparison to end: they share the tables with the keys that they ask for.
async fn alone(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let key = advisory_lock::key_of("platform verify");
    while !advisory_lock::try_lock(client, key).await? {
        if begun.elapsed() >= limit {
            return Err(Failure::Busy("another `platform verify` is running on this database".into()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} rows, {per_sec}, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The tables to look at. One that has a mirror and cannot be compared now is among them, so that its reason is said.
async fn chosen(fence: &Fence<'_>, names: &[TableName]) -> anyhow::Result<Vec<TableName>> {
    let pipeline = &fence.settings.sink.pipeline;
    let states = table_states::of_pipeline(fence.clickhouse, pipeline).await;
    let states = states.map_err(|error| aggregates::failed("reading the tables' states", error))?;
    let stopped = |name: &&TableName| {
        let state = states.get(&name.mirror_name()).map(|stored| stored.state);
        state.is_some_and(|state| state != TableState::Live)
    };
    let mut chosen: Vec<TableName> = names.iter().filter(stopped).cloned().collect();
    let others: Vec<TableName> = names.iter().filter(|name| !stopped(name)).cloned().collect();
    if names.is_empty() || !others.is_empty() {
        let tables = load::choose(fence.client, fence.settings, &others).await?;
        chosen.extend(tables.iter().map(|table| table.name().clone()));
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

/// The table in the shape that its mirror has, or why it cannot be compared now.
async fn ready(fence: &Fence<'_>, name: &TableName) -> anyhow::Result<Result<Table, String>> {
    let pipeline = &fence.settings.sink.pipeline;
    let states = table_states::of_pipeline(fence.clickhouse, pipeline).await;
    let states = states.map_err(|error| aggregates::failed("reading the tables' states", error))?;
    match states.get(&name.mirror_name()) {
        Some(stored) if stored.state == TableState::Live => {}
        Some(stored) => return Ok(Err(format!("it is {}: {}", stored.state.name(), stored.reason))),
        None => return Ok(Err(format!("it was never loaded; run `platform load {name}`"))),
    }
    let published = table_shapes::published(fence.client, pipeline, &fence.settings.tables).await?;
    let Some(table) = published.tables.into_iter().find(|table| table.name() == name) else {
        return Ok(Err("it is no longer in the publication, or cannot be mirrored any more".into()));
    };
    let mirrors = mirror::mirrors(fence.clickhouse).await;
    let mirrors = mirrors.map_err(|error| aggregates::failed("reading the mirrors", error))?;
    let nothing = crate::catalog::Mirror::default();
    Ok(match compare(mirrors.get(&name.mirror_name()).unwrap_or(&nothing), &table) {
        Comparison::Follows(evolution) if evolution.statements.is_empty() && evolution.reload.is_none() => {
            Ok(evolution.table)
        }
        _ => Err("its mirror has not followed a change of its structure yet; is `platform sink` running?".into()),
    })
}

async fn table_whole(
    fence: &Fence<'_>,
    table: &Table,
    repair: bool,
    progress: &ProgressBar,
) -> anyhow::Result<Compared> {
    let mirror = MirrorRows { clickhouse: fence.clickhouse, table };
    let found = candidates::find(fence, &mirror, table, progress).await?;
    tracing::info!(table = %table.name(), rows = found.rows_postgres, candidates = found.keys.len(), "compared");
    let settled = settle::settle(fence, &mirror, table, &found.keys).await?;
    let mut restless = settled.restless;
    let mut compared = Compared {
        table: table.name().to_string(),
        rows_postgres: found.rows_postgres,
        rows_clickhouse: found.rows_clickhouse,
        complete: found.complete,
        ..Compared::default()
    };
    let (mut differences, mut parked) = without_parked(fence, table, settled.differences).await?;
    if repair && !differences.is_empty() {
        if found.complete && differences.len() <= fence.settings.verify.repair_rows_max {
            let keys: Vec<Vec<u8>> = differences.into_iter().map(|difference| difference.key).collect();
            repair::repair(fence, &mirror, table, &keys).await?;
            let again = settle::settle(fence, &mirror, table, &keys).await?;
            restless += again.restless;
            let newly_parked;
            (differences, newly_parked) = without_parked(fence, table, again.differences).await?;
            compared.repaired = u64::try_from(keys.len() - differences.len())?.saturating_sub(newly_parked);
            parked += newly_parked;
        } else {
            tracing::warn!(table = %table.name(), "too many rows differ to be mended one by one; run `platform load`");
        }
    }
    compared.note(table, &differences)?;
    (compared.parked, compared.restless) = (parked, restless);
    if !found.complete && compared.differing() == 0 {
        let text =
            format!("{} changes faster than it can be compared; run it again when less is written", table.name());
        return Err(Failure::Busy(text).into());
    }
    Ok(compared)
}

/// Takes out what differs because it is parked, and counts it.
async fn without_parked(
    fence: &Fence<'_>,
    table: &Table,
    mut differences: Vec<Difference>,
) -> anyhow::Result<(Vec<Difference>, u64)> {
    if differences.is_empty() {
        return Ok((differences, 0));
    }
    let parked = Parked::read(fence.clickhouse, table).await?;
    let all = differences.len();
    differences.retain(|difference| !parked.explains(difference));
    let taken = u64::try_from(all - differences.len())?;
    Ok((differences, taken))
}
