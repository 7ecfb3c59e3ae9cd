//! The rows of PostgreSQL: all of them by parallel COPY in one snapshot, or some by their keys.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use indicatif::ProgressBar;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::fingerprint::Fingerprint;
use crate::catalog::{Block, CopyReader, RowMeta, Table};
use crate::config::Settings;
use crate::domain::{Failure, Version};
use crate::store::{postgres, rows_by_key};

/// Pages of one range: 64 MiB of table.
const RANGE_PAGES: i64 = 8192;
/// Rows that are decoded before they are looked at.
const ROWS_AT_ONCE: usize = 1000;

/// A row without anything that the mirror adds.
pub(super) const META: RowMeta = RowMeta { version: Version::ZERO, deleted: false, committed_at: 0, synced_at: 0 };

/// What happens with a row: its key, and its fingerprint; `None` when ClickHouse cannot hold the row.
pub(super) type Visit<'a> = dyn Fn(&[u8], Option<Fingerprint>) + Send + Sync + 'a;

/// A snapshot that others join, and a lock that keeps the table from being written anew, as `pg_dump` does.
#[derive(Debug)]
pub(super) struct Held {
    holder: Client,
    name: String,
}

impl Held {
    pub(super) async fn open(settings: &Settings, table: &Table) -> anyhow::Result<Self> {
        let holder = postgres::connect(&settings.postgres, "platform verify snapshot").await?;
        let begin = format!(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = '{} s'; \
             begin isolation level repeatable read read only; lock table {} in access share mode",
            settings.verify.wait_timeout_s.max(1),
            table.name().quoted_postgres()
        );
        holder.batch_execute(&begin).await.with_context(|| format!("locking {}", table.name()))?;
        let row = holder.query_one("select pg_export_snapshot()", &[]).await.context("exporting the snapshot")?;
        Ok(Self { name: row.try_get(0)?, holder })
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.holder.batch_execute("commit").await.context("closing the snapshot")
    }
}

/// A session in the snapshot `name`.
pub(super) async fn join(settings: &Settings, name: &str) -> anyhow::Result<Client> {
    let client = postgres::connect(&settings.postgres, "platform verify copy").await?;
    let begin = format!(
        "set statement_timeout = '{} s'; begin isolation level repeatable read read only; set transaction snapshot '{}'",
        settings.verify.statement_timeout_s.max(1),
        name.replace('\'', "''")
    );
    client.batch_execute(&begin).await.context("joining the snapshot")?;
    Ok(client)
}

struct Scan {
    settings: Settings,
    table: Table,
    snapshot: String,
    ranges: Mutex<VecDeque<(i64, Option<i64>)>>,
    visit: Arc<Visit<'static>>,
    progress: ProgressBar,
}

/// Shows every row of the snapshot to `visit`, on several threads.
pub(super) async fn scan(
    settings: &Settings,
    table: &Table,
    held: &Held,
    visit: Arc<Visit<'static>>,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let sql = "select pg_relation_size($1::oid) / current_setting('block_size')::bigint, greatest(reltuples, 0)::bigint \
               from pg_class where oid = $1::oid";
    let row = held.holder.query_one(sql, &[&table.oid()]).await.context("looking at the table's size")?;
    let (pages, estimate): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    progress.inc_length(u64::try_from(estimate).unwrap_or(0));
    let starts = (0..pages.max(1)).step_by(usize::try_from(RANGE_PAGES)?);
    let range = |first| (first, (first + RANGE_PAGES < pages).then_some(first + RANGE_PAGES));
    let scan = Arc::new(Scan {
        settings: settings.clone(),
        table: table.clone(),
        snapshot: held.name.clone(),
        ranges: Mutex::new(starts.map(range).collect()),
        visit,
        progress: progress.clone(),
    });
    let cancelled = CancellationToken::new();
    // However this ends, the threads end too.
    let _cancel = cancelled.clone().drop_guard();
    let mut workers = JoinSet::new();
    for _ in 0..settings.load.connections.max(1) {
        let (scan, cancelled) = (Arc::clone(&scan), cancelled.clone());
        workers.spawn_blocking(move || scan.work_alone(&cancelled));
    }
    while let Some(ended) = workers.join_next().await {
        ended.context("a reading task ended unexpectedly")??;
    }
    Ok(())
}

impl Scan {
    /// Connection and decoder on one thread, as in a load.
    fn work_alone(&self, cancelled: &CancellationToken) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                ended = self.work() => ended,
                () = cancelled.cancelled() => Err(anyhow::anyhow!("the comparison has ended")),
            }
        })
    }

    async fn work(&self) -> anyhow::Result<()> {
        let client = join(&self.settings, &self.snapshot).await?;
        loop {
            let Some(range) = self.ranges.lock().await.pop_front() else { break };
            self.read(&client, range).await?;
        }
        client.batch_execute("commit").await.context("leaving the snapshot")
    }

    async fn read(&self, client: &Client, (first, end): (i64, Option<i64>)) -> anyhow::Result<()> {
        let (table, name) = (&self.table, self.table.name());
        let end = end.map_or_else(String::new, |end| format!(" and t.ctid < '({end},0)'"));
        let sql = format!(
            "copy (select {} from {} t where t.ctid >= '({first},0)'{end}) to stdout (format binary)",
            table.select_list("t"),
            name.quoted_postgres(),
        );
        let limit = Duration::from_secs(self.settings.verify.statement_timeout_s.max(1));
        let stream = client.copy_out(&sql).await.with_context(|| format!("reading {name}"))?;
        let mut stream = pin!(stream);
        let mut reader = CopyReader::default();
        let mut rows = Rows::new(table);
        while let Some(chunk) = tokio::time::timeout(limit, stream.next()).await.map_err(|_| silent())? {
            reader.feed(chunk.with_context(|| format!("reading {name}"))?);
            while let Some(tuple) = reader.next_tuple()? {
                rows.push(table, || CopyReader::cells(tuple), &*self.visit);
                if rows.block.rows() >= ROWS_AT_ONCE {
                    self.progress.inc(rows.show(table, &*self.visit));
                }
            }
        }
        self.progress.inc(rows.show(table, &*self.visit));
        Ok(())
    }
}

fn silent() -> Failure {
    Failure::Unavailable("PostgreSQL has sent nothing for verify.statement_timeout_s".into())
}

/// Rows on their way to `visit`.
struct Rows {
    block: Block,
    key: Vec<u8>,
    row: Vec<u8>,
}

impl Rows {
    fn new(table: &Table) -> Self {
        Self { block: Block::new(table), key: Vec::new(), row: Vec::new() }
    }

    fn push<'a, I: Iterator<Item = Option<&'a [u8]>>>(
        &mut self,
        table: &Table,
        cells: impl Fn() -> I,
        visit: &Visit<'_>,
    ) {
        if self.block.push_cells(table, cells(), META).is_ok() {
            return;
        }
        // One whose key cannot be stored cannot have a row on the other side either.
        let at = self.block.rows();
        if self.block.push_key_cells(table, cells(), META).is_ok() {
            self.key.clear();
            if self.block.write_key(table, at, &mut self.key).is_some() {
                visit(&self.key, None);
            }
            self.block.truncate(at);
        }
    }

    fn show(&mut self, table: &Table, visit: &Visit<'_>) -> u64 {
        let rows = self.block.rows();
        for at in 0..rows {
            self.key.clear();
            self.row.clear();
            let written = self.block.write_key(table, at, &mut self.key);
            if written.and_then(|()| self.block.write_row(at, &mut self.row)).is_some() {
                visit(&self.key, Some(Fingerprint::of(&self.row)));
            }
        }
        self.block.truncate(0);
        u64::try_from(rows).unwrap_or(u64::MAX)
    }
}

/// The rows of some keys as they are now; keys without a row are left out.
pub(super) async fn by_keys(
    client: &Client,
    table: &Table,
    keys: &[Vec<String>],
) -> anyhow::Result<HashMap<Vec<u8>, Option<Fingerprint>>> {
    let found = std::sync::Mutex::new(HashMap::new());
    let visit = |key: &[u8], row: Option<Fingerprint>| {
        found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key.to_vec(), row);
    };
    let mut rows = Rows::new(table);
    for row in &rows_by_key::read(client, table, keys).await? {
        let cells = rows_by_key::cells(row)?;
        rows.push(table, || cells.iter().copied(), &visit);
    }
    rows.show(table, &visit);
    Ok(found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}
