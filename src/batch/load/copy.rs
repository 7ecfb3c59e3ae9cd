//! Parallel COPY of ctid ranges in one snapshot; binary tuples become Native blocks.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::snapshot::Snapshot;
use crate::catalog::{Block, CopyReader, RowMeta, Table, mirror_columns};
use crate::config::Settings;
use crate::domain::{Failure, Version};
use crate::store::clickhouse::{Class, ClickHouse};
use crate::store::mirror::{self, DeadLetter};
use crate::store::postgres;

/// Pages of one range: 64 MiB of table.
const RANGE_PAGES: i64 = 8192;
/// How long a block is offered again while ClickHouse is not ready.
const INSERT_RETRY: Duration = Duration::from_secs(60);

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

struct Range {
    table: usize,
    first_page: i64,
    end_page: Option<i64>,
}

struct Job {
    settings: Settings,
    clickhouse: ClickHouse,
    tables: Vec<Table>,
    snapshot: String,
    version: Version,
    synced_at: i64,
    ranges: Mutex<VecDeque<Range>>,
    rows: Vec<AtomicU64>,
    parked: Vec<AtomicU64>,
    progress: ProgressBar,
}

/// Copies the tables; returns the counts in their order.
pub(super) async fn tables(
    settings: &Settings,
    clickhouse: &ClickHouse,
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
        clickhouse: clickhouse.clone(),
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
        let (job, inserts, cancelled) = (Arc::clone(&job), Handle::current(), cancelled.clone());
        workers.spawn_blocking(move || job.work_alone(&inserts, &cancelled));
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

async fn connect(settings: &Settings, snapshot: &str) -> anyhow::Result<Client> {
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
    /// Connection and decoder on one thread: waking another one for every 8 KiB costs as much as decoding them. Inserts run
    /// on the common threads.
    fn work_alone(self: Arc<Self>, inserts: &Handle, cancelled: &CancellationToken) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                ended = self.work(inserts) => ended,
                () = cancelled.cancelled() => Err(anyhow::anyhow!("the load has ended")),
            }
        })
    }

    async fn work(self: Arc<Self>, inserts: &Handle) -> anyhow::Result<()> {
        let client = connect(&self.settings, &self.snapshot).await?;
        // One block is inserted while the next one is decoded.
        let mut inserting: Option<tokio::task::JoinHandle<anyhow::Result<()>>> = None;
        loop {
            let Some(range) = self.ranges.lock().await.pop_front() else { break };
            self.copy_range(&client, &range, inserts, &mut inserting).await?;
        }
        settle(inserting.take()).await?;
        client.batch_execute("commit").await.context("leaving the snapshot")
    }

    async fn copy_range(
        self: &Arc<Self>,
        client: &Client,
        range: &Range,
        inserts: &Handle,
        inserting: &mut Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    ) -> anyhow::Result<()> {
        let table = self.tables.get(range.table).context("a range of no table")?;
        let end = range.end_page.map_or_else(String::new, |end| format!(" and t.ctid < '({end},0)'"));
        let sql = format!(
            "copy (select {} from {} t where t.ctid >= '({},0)'{end}) to stdout (format binary)",
            table.select_list("t"),
            table.name().quoted_postgres(),
            range.first_page,
        );
        let stream = client.copy_out(&sql).await.with_context(|| format!("copying {}", table.name()))?;
        let mut stream = pin!(stream);
        let mut reader = CopyReader::default();
        let mut block = Block::new(table);
        let meta =
            RowMeta { version: self.version, deleted: false, committed_at: self.synced_at, synced_at: self.synced_at };
        let mut letters = Vec::new();
        while let Some(chunk) = stream.next().await {
            reader.feed(chunk.with_context(|| format!("copying {}", table.name()))?);
            while let Some(tuple) = reader.next_tuple()? {
                if let Err(error) = block.push_tuple(table, &tuple, meta) {
                    letters.push(self.letter(range, letters.len(), &error.to_string(), &tuple));
                }
            }
            let full = block.rows() >= self.settings.load.block_rows_max
                || block.bytes() >= self.settings.load.block_bytes_max;
            if full {
                let full_block = std::mem::replace(&mut block, Block::new(table));
                self.hand_over(range.table, full_block, inserts, inserting).await?;
            }
        }
        if !letters.is_empty() {
            // On the common threads too: the client's connections live there.
            inserts.spawn(Arc::clone(self).park(range.table, letters)).await.context("parking rows")??;
        }
        if block.rows() > 0 {
            self.hand_over(range.table, block, inserts, inserting).await?;
        }
        Ok(())
    }

    async fn hand_over(
        self: &Arc<Self>,
        table: usize,
        block: Block,
        inserts: &Handle,
        inserting: &mut Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    ) -> anyhow::Result<()> {
        settle(inserting.take()).await?;
        *inserting = Some(inserts.spawn(Arc::clone(self).insert(table, block)));
        Ok(())
    }

    async fn insert(self: Arc<Self>, at: usize, block: Block) -> anyhow::Result<()> {
        let (table, counter) = self.tables.get(at).zip(self.rows.get(at)).context("a block of no table")?;
        let rows = u64::try_from(block.rows())?;
        let buffers = self.clickhouse.buffers();
        let mut native = buffers.take();
        native.clear();
        block.write_native(table, &mut native);
        let length = native.len();
        let native = buffers.freeze(native, length);
        drop(block);
        let target = table.name().quoted_clickhouse("mirror");
        let columns = mirror_columns(table);
        let deadline = tokio::time::Instant::now() + INSERT_RETRY;
        loop {
            // Rows of a load may be repeated: the same version of the same key is the same row.
            match self.clickhouse.insert_native(&target, &columns, native.clone(), &[("insert_deduplicate", "0")]).await
            {
                Ok(()) => break,
                Err(error) if error.class() == Class::Retry && tokio::time::Instant::now() < deadline => {
                    tracing::warn!(table = %table.name(), error = %error, "insert repeated");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) if error.class() == Class::Retry => {
                    return Err(Failure::Unavailable(error.to_string()).into());
                }
                Err(error) => {
                    return Err(
                        anyhow::Error::from(error).context(format!("inserting into the mirror of {}", table.name()))
                    );
                }
            }
        }
        counter.fetch_add(rows, Ordering::SeqCst);
        self.progress.inc(rows);
        Ok(())
    }

    fn letter(&self, range: &Range, number: usize, detail: &str, tuple: &[u8]) -> DeadLetter {
        let table = self.tables.get(range.table).map_or_else(String::new, |table| table.name().mirror_name());
        DeadLetter {
            id: format!("load/{table}/{}/{}/{number}", self.version.get(), range.first_page),
            table,
            version: self.version,
            reason: "not-representable",
            detail: detail.to_owned(),
            message: base64::engine::general_purpose::STANDARD.encode(tuple),
        }
    }

    async fn park(self: Arc<Self>, table: usize, letters: Vec<DeadLetter>) -> anyhow::Result<()> {
        mirror::store_dead_letters(&self.clickhouse, &self.settings.sink.pipeline, &letters)
            .await
            .context("parking rows")?;
        if let Some(counter) = self.parked.get(table) {
            counter.fetch_add(u64::try_from(letters.len())?, Ordering::SeqCst);
        }
        let reason = letters.first().map_or("", |letter| letter.detail.as_str());
        tracing::warn!(rows = letters.len(), reason, "rows parked in platform.dead_letters");
        Ok(())
    }
}

async fn settle(task: Option<tokio::task::JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    match task {
        Some(task) => task.await.context("an inserting task ended unexpectedly")?,
        None => Ok(()),
    }
}
