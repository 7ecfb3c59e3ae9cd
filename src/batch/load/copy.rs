//! Tables in ranges of ctid, copied in one snapshot by several workers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::snapshot::Snapshot;
use super::worker::Worker;
use crate::catalog::Table;
use crate::config::Settings;
use crate::domain::Version;
use crate::store::postgres;

/// Pages of one range: 64 MiB of table.
const RANGE_PAGES: i64 = 8192;

/// Shows how far a load is.
#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar on a terminal; nothing elsewhere.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} rows, {per_sec}, {eta} left");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// Rows of one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) parked: u64,
}

/// Pages of a table.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) table: usize,
    pub(super) first_page: i64,
    /// `None`: to the table's end.
    pub(super) end_page: Option<i64>,
}

/// What the workers share.
pub(super) struct Job {
    pub(super) settings: Settings,
    pub(super) tables: Vec<Table>,
    pub(super) snapshot: String,
    pub(super) version: Version,
    pub(super) synced_at: i64,
    ranges: Mutex<VecDeque<Range>>,
    pub(super) rows: Vec<AtomicU64>,
    pub(super) parked: Vec<AtomicU64>,
    pub(super) progress: ProgressBar,
}

/// Copies the tables; returns the counts in their order.
pub(super) async fn tables(
    settings: &Settings,
    tables: &[Table],
    snapshot: &Snapshot,
    version: Version,
    progress: &Progress,
) -> anyhow::Result<Vec<Counts>> {
    let first = connect(settings, &snapshot.name).await?;
    let mut ranges = VecDeque::new();
    for (table, shape) in tables.iter().enumerate() {
        let row = first
            .query_one(
                "select pg_relation_size($1::oid) / current_setting('block_size')::bigint, greatest(reltuples, 0)::bigint from pg_class where oid = $1::oid",
                &[&shape.oid()],
            )
            .await?;
        let (pages, estimate): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        progress.0.inc_length(u64::try_from(estimate).unwrap_or(0));
        let starts = (0..pages.max(1)).step_by(usize::try_from(RANGE_PAGES)?);
        ranges.extend(starts.map(|first_page| {
            let end = first_page + RANGE_PAGES;
            Range { table, first_page, end_page: (end < pages).then_some(end) }
        }));
    }
    let job = Arc::new(Job {
        settings: settings.clone(),
        tables: tables.to_vec(),
        snapshot: snapshot.name.clone(),
        version,
        synced_at: chrono::Utc::now().timestamp_micros(),
        ranges: Mutex::new(ranges),
        rows: tables.iter().map(|_| AtomicU64::new(0)).collect(),
        parked: tables.iter().map(|_| AtomicU64::new(0)).collect(),
        progress: progress.0.clone(),
    });
    first.batch_execute("commit").await.context("leaving the snapshot")?;
    drop(first);
    let mut workers = JoinSet::new();
    let cancelled = CancellationToken::new();
    // However this ends, the threads end too.
    let _cancel = cancelled.clone().drop_guard();
    for _ in 0..settings.load.connections.max(1) {
        let (job, cancelled) = (Arc::clone(&job), cancelled.clone());
        workers.spawn_blocking(move || Worker::run_alone(job, &cancelled));
    }
    while let Some(ended) = workers.join_next().await {
        ended.context("a copying task ended unexpectedly")??;
    }
    job.progress.finish_and_clear();
    let counts = job.rows.iter().zip(&job.parked);
    Ok(counts
        .map(|(rows, parked)| Counts { rows: rows.load(Ordering::SeqCst), parked: parked.load(Ordering::SeqCst) })
        .collect())
}

/// A session in the snapshot that keeps the tables from being written anew, emptied or altered until it ends: a snapshot
/// sees a table that was written anew as empty.
pub(super) async fn lock(settings: &Settings, tables: &[Table], snapshot: &Snapshot) -> anyhow::Result<Client> {
    let client = connect(settings, &snapshot.name).await?;
    for table in tables {
        let sql = format!("lock table {} in access share mode", table.name().quoted_postgres());
        client.batch_execute(&sql).await.with_context(|| format!("locking {}", table.name()))?;
    }
    Ok(client)
}

pub(super) async fn connect(settings: &Settings, snapshot: &str) -> anyhow::Result<Client> {
    let client = postgres::connect(&settings.postgres, "platform load copy").await?;
    let begin = format!(
        "set statement_timeout = 0; set lock_timeout = '{} s'; begin isolation level repeatable read read only; set transaction snapshot '{}'",
        settings.load.wait_transactions_timeout_s.max(1),
        snapshot.replace('\'', "''")
    );
    client.batch_execute(&begin).await.context("joining the snapshot")?;
    Ok(client)
}

impl Job {
    /// The next range that nobody copies yet.
    pub(super) fn next_range(&self) -> Option<Range> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Ranges to be copied again.
    pub(super) fn give_back(&self, ranges: impl IntoIterator<Item = Range>) {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).extend(ranges);
    }
}
