//! One COPY stream: ranges in, Native blocks out into an INSERT that is kept open over many of them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use futures_util::StreamExt as _;
use metrics::counter;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::copy::{Job, Range, connect, lock_beside};
use crate::catalog::{Block, CopyReader, RowMeta, Table, mirror_columns};
use crate::domain::Failure;
use crate::store::clickhouse::{Class, ClickHouse, Error, NativeInsert};
use crate::store::mirror::{self, DeadLetter};

/// How long ranges are copied again while ClickHouse is not ready.
const INSERT_RETRY: Duration = Duration::from_secs(60);
/// Pause before that.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// A range that is copied again must not be taken for one that is there already; and one snapshot has each key once, so
/// that looking for older versions in a block is work for nothing.
const INSERT_SETTINGS: [(&str, &str); 2] = [("insert_deduplicate", "0"), ("optimize_on_insert", "0")];

/// Copies ranges until none is left.
pub(super) struct Worker {
    job: Arc<Job>,
    client: Client,
    clickhouse: ClickHouse,
    /// Memory for rows, used again: fresh pages cost as much as the rows that fill them.
    block: Option<(usize, Block)>,
    open: Option<Open>,
}

/// An INSERT under way, with what must be copied again if it fails.
struct Open {
    table: usize,
    insert: NativeInsert,
    ranges: Vec<Range>,
    rows: u64,
    bytes: usize,
    parked: u64,
}

/// Why a range is not copied.
enum Stop {
    /// ClickHouse did not take it: to be copied again.
    Insert(Error),
    /// Anything else.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Worker {
    /// Everything of one stream on one thread: waking another one for every 8 KiB costs as much as decoding them.
    pub(super) fn run_alone(job: Arc<Job>, cancelled: &CancellationToken) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // A client of its own: connections live on the thread that made them.
            let clickhouse = ClickHouse::new(&job.settings.clickhouse)?;
            let client = connect(&job.settings, &job.snapshot).await?;
            lock_beside(&client, &job.tables).await?;
            let mut worker = Self { job, client, clickhouse, block: None, open: None };
            tokio::select! {
                ended = worker.run() => ended,
                () = cancelled.cancelled() => Err(anyhow::anyhow!("the load has ended")),
            }
        })
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let mut failing_since: Option<Instant> = None;
        loop {
            let range = self.job.next_range();
            let done = match &range {
                Some(range) => self.copy(range).await,
                None => self.settle().await,
            };
            match (done, range) {
                (Ok(()), None) => break,
                (Ok(()), Some(_)) => failing_since = None,
                (Err(Stop::Failed(error)), _) => return Err(error),
                (Err(Stop::Insert(error)), range) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    self.give_back(range);
                    if error.class() != Class::Retry {
                        return Err(anyhow::Error::from(error).context("inserting into the mirror"));
                    }
                    if since.elapsed() > INSERT_RETRY {
                        return Err(Failure::Unavailable(error.to_string()).into());
                    }
                    counter!("platform_load_retries_total").increment(1);
                    tracing::warn!(error = %error, "ClickHouse is not ready; what it did not take is copied again");
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
        self.client.batch_execute("commit").await.context("leaving the snapshot")
    }

    /// Rows may be copied again: the same version of the same key is the same row.
    fn give_back(&mut self, range: Option<Range>) {
        let open = self.open.take();
        let (ranges, rows) = open.map(|open| (open.ranges, open.rows)).unwrap_or_default();
        self.job.progress.dec(rows);
        self.job.give_back(ranges.into_iter().chain(range));
    }

    async fn copy(&mut self, range: &Range) -> Result<(), Stop> {
        let full = self.open.as_ref().is_some_and(|open| open.bytes >= self.job.settings.load.insert_bytes_max);
        if full || self.open.as_ref().is_some_and(|open| open.table != range.table) {
            self.settle().await?;
        }
        let job = Arc::clone(&self.job);
        let table = job.tables.get(range.table).context("a range of no table")?;
        let mut block = match self.block.take() {
            Some((at, block)) if at == range.table => block,
            _ => Block::new(table),
        };
        let copied = self.copy_rows(table, range, &mut block).await;
        block.truncate(0);
        self.block = Some((range.table, block));
        copied?;
        if let Some(open) = &mut self.open {
            open.ranges.push(range.clone());
        }
        Ok(())
    }

    async fn copy_rows(&mut self, table: &Table, range: &Range, block: &mut Block) -> Result<(), Stop> {
        let end = range.end_page.map_or_else(String::new, |end| format!(" and t.ctid < '({end},0)'"));
        let sql = format!(
            "copy (select {} from {} t where t.ctid >= '({},0)'{end}) to stdout (format binary)",
            table.select_list("t"),
            table.name().quoted_postgres(),
            range.first_page,
        );
        let (load, copying) = (self.job.settings.load.clone(), || format!("copying {}", table.name()));
        let stream = self.client.copy_out(&sql).await.with_context(copying)?;
        let mut stream = pin!(stream);
        let mut reader = CopyReader::default();
        let (version, synced_at) = (self.job.version, self.job.synced_at);
        let meta = RowMeta { version, deleted: false, committed_at: synced_at, synced_at };
        let mut letters = Vec::new();
        // As they came: asking every column for its bytes after each row would cost as much as filling it.
        let mut held_bytes = 0;
        while let Some(chunk) = stream.next().await {
            reader.feed(chunk.with_context(copying)?);
            while let Some(tuple) = reader.next_tuple().map_err(anyhow::Error::from)? {
                held_bytes += tuple.len();
                if let Err(error) = block.push_tuple(table, tuple, meta) {
                    letters.push(self.letter(range, letters.len(), &error.to_string(), tuple));
                }
            }
            if block.rows() >= load.block_rows_max || held_bytes >= load.block_bytes_max {
                self.send(table, range.table, block).await?;
                held_bytes = 0;
            }
        }
        if !letters.is_empty() {
            self.park(&letters).await?;
        }
        if block.rows() > 0 {
            self.send(table, range.table, block).await?;
        }
        if let Some(open) = &mut self.open {
            open.parked += u64::try_from(letters.len()).map_err(anyhow::Error::from)?;
        } else if let Some(counter) = self.job.parked.get(range.table) {
            counter.fetch_add(u64::try_from(letters.len()).map_err(anyhow::Error::from)?, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn send(&mut self, table: &Table, at: usize, block: &mut Block) -> Result<(), Stop> {
        let rows = u64::try_from(block.rows()).map_err(anyhow::Error::from)?;
        let buffers = self.clickhouse.buffers();
        let mut native = buffers.take();
        native.clear();
        block.write_native(table, &mut native);
        block.truncate(0);
        let length = native.len();
        let native = buffers.freeze(native, length);
        let clickhouse = &self.clickhouse;
        let open = self.open.get_or_insert_with(|| {
            let (target, columns) = (table.name().quoted_clickhouse("mirror"), mirror_columns(table));
            let insert = clickhouse.begin_insert(&target, &columns, &INSERT_SETTINGS);
            Open { table: at, insert, ranges: Vec::new(), rows: 0, bytes: 0, parked: 0 }
        });
        open.insert.send(native).await.map_err(Stop::Insert)?;
        failpoint!("load.copying");
        open.rows += rows;
        open.bytes += length;
        self.job.progress.inc(rows);
        Ok(())
    }

    /// Ends the INSERT that is under way.
    async fn settle(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { table, insert, ranges, rows, bytes, parked } = open;
        failpoint!("load.before-settle");
        if let Err(error) = insert.end().await {
            self.job.progress.dec(rows);
            self.job.give_back(ranges);
            return Err(Stop::Insert(error));
        }
        failpoint!("load.after-settle");
        tracing::debug!(rows, bytes, "inserted");
        for (counter, count) in [(self.job.rows.get(table), rows), (self.job.parked.get(table), parked)] {
            counter.context("a block of no table")?.fetch_add(count, Ordering::SeqCst);
        }
        Ok(())
    }

    fn letter(&self, range: &Range, number: usize, detail: &str, tuple: &[u8]) -> DeadLetter {
        let shape = self.job.tables.get(range.table);
        let table = shape.map_or_else(String::new, |table| table.name().mirror_name());
        let key = shape.and_then(|shape| {
            let mut block = Block::new(shape);
            let meta = RowMeta { version: self.job.version, deleted: true, committed_at: 0, synced_at: 0 };
            block.push_key_cells(shape, CopyReader::cells(tuple), meta).ok()?;
            Some(mirror::key_json(&block, shape, 0))
        });
        DeadLetter {
            id: format!("load/{table}/{}/{}/{number}", self.job.version.get(), range.first_page),
            table,
            key: key.unwrap_or_default(),
            version: self.job.version,
            reason: "not-representable",
            detail: detail.to_owned(),
            message: base64::engine::general_purpose::STANDARD.encode(tuple),
        }
    }

    async fn park(&self, letters: &[DeadLetter]) -> Result<(), Stop> {
        let stored = mirror::store_dead_letters(&self.clickhouse, &self.job.settings.sink.pipeline, letters).await;
        stored.map_err(Stop::Insert)?;
        let reason = letters.first().map_or("", |letter| letter.detail.as_str());
        tracing::warn!(rows = letters.len(), reason, "rows parked in platform.dead_letters");
        Ok(())
    }
}
