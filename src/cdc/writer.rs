//! Writes batches in their order: floors, parked rows, marks of buckets, rows, and last the checkpoint. Repeats what waiting can mend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Deferred, Newest, TableBatch};
use super::buckets::Buckets;
use super::envelope;
use super::halt::Halt;
use super::letters::{self, Wrong};
use super::pipeline::Stop;
use super::ports::{Clock, Origin, Reread, Store};
use super::status::Status;
use crate::catalog::Block;
use crate::config;
use crate::domain::Lsn;
use crate::store::checkpoint::{Checkpoint, RESTORED};
use crate::store::clickhouse;
use crate::store::dirty_buckets::Marks;
use crate::store::mirror::DeadLetter;

/// Writes for one term.
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: config::Sink,
    pub(super) status: Status,
    pub(super) cancelled: CancellationToken,
    pub(super) term: u64,
    /// Number of the last batch.
    pub(super) batch: u64,
    /// Where that batch ends.
    pub(super) next_offset: i64,
    pub(super) log: u16,
    pub(super) buckets: Arc<Buckets>,
    /// The tables with parked rows, by their mirrors' names, once they are known.
    pub(super) parked: Option<BTreeSet<String>>,
}

impl Writer {
    /// Makes a batch durable, whole.
    pub(super) async fn write(&mut self, mut batch: Batch) -> Result<(), Stop> {
        let begun = Instant::now();
        let number = self.number(&batch);
        for (table, floor) in &batch.floors {
            for aggregate in self.buckets.names(table) {
                failpoint!("sink.before-mark-whole");
                self.repeated("mark", || self.store.mark_whole(aggregate, number)).await?;
            }
            failpoint!("sink.before-floor");
            self.repeated("floor", || self.store.raise_floor(table, *floor)).await?;
            failpoint!("sink.after-floor");
        }
        self.complete(&mut batch).await?;
        if !batch.letters.is_empty() {
            failpoint!("sink.before-park");
            self.repeated("park", || self.store.park(&batch.letters)).await?;
            failpoint!("sink.after-park");
            counter!("platform_sink_dead_letters_total").increment(count(batch.letters.len()));
            let first = batch.letters.first().map_or("", |letter| letter.detail.as_str());
            tracing::warn!(rows = batch.letters.len(), first, "rows parked in platform.dead_letters");
            if let Some(parked) = &mut self.parked {
                parked.extend(batch.letters.iter().map(|letter| letter.table.clone()));
            }
        }
        self.insert(&batch, number).await?;
        (self.batch, self.next_offset) = (number, batch.next_offset);
        let checkpoint = self.checkpoint(&batch);
        failpoint!("sink.before-checkpoint");
        self.repeated("checkpoint", || self.store.checkpoint(&checkpoint)).await?;
        failpoint!("sink.after-checkpoint");
        counter!("platform_sink_events_total").increment(batch.events);
        counter!("platform_sink_rows_total").increment(count(batch.rows()));
        counter!("platform_sink_batches_total").increment(1);
        #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
        histogram!("platform_sink_batch_bytes").record(batch.bytes as f64);
        let freshness = chrono::Utc::now().timestamp_micros().saturating_sub(batch.committed_at);
        self.status.applied(&checkpoint, batch.rows(), begun.elapsed(), freshness);
        Ok(())
    }

    /// Completes the rows that lack values; those for which there are none become letters of the batch.
    pub(super) async fn complete(&self, batch: &mut Batch) -> Result<(), Stop> {
        let mut unresolved = Vec::new();
        for entry in batch.tables.values_mut() {
            unresolved.extend(self.resolve(entry).await?);
        }
        batch.letters.extend(unresolved);
        Ok(())
    }

    /// The number of a batch: it grows by the records that the batch takes in. So a mark of any writer that was ever paused
    /// names a place in the log, and a build has passed it only when whoever follows the log has.
    fn number(&self, batch: &Batch) -> u64 {
        let records = u64::try_from(batch.next_offset.saturating_sub(self.next_offset)).unwrap_or_default();
        self.batch.saturating_add(records)
    }

    /// Inserts the rows of a batch that is complete, each table's behind the marks of the buckets that they change.
    pub(super) async fn insert(&mut self, batch: &Batch, number: u64) -> Result<(), Stop> {
        for entry in batch.tables.values().filter(|entry| entry.block.rows() > 0) {
            self.mark(entry, number).await?;
            failpoint!("sink.before-insert");
            let inserting = Instant::now();
            self.repeated("insert", || self.store.insert(&entry.table, &entry.block)).await?;
            failpoint!("sink.after-insert");
            histogram!("platform_sink_insert_duration_seconds").record(inserting.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Marks the buckets that rows of `entry` leave or enter.
    async fn mark(&mut self, entry: &TableBatch, number: u64) -> Result<(), Stop> {
        if !self.buckets.has(entry.table.name()) {
            return Ok(());
        }
        if self.parked.is_none() {
            self.parked = Some(self.repeated("mark", || self.store.tables_with_parked_rows()).await?);
        }
        let parked = self.parked.as_ref().is_some_and(|parked| parked.contains(&entry.table.name().mirror_name()));
        let rows = entry.left.to_ask(&entry.block, parked);
        failpoint!("sink.before-mark");
        for (aggregates, column) in self.buckets.of(&entry.table) {
            let buckets = entry.left.with_entered(&entry.table, &entry.block, column);
            let marks = Marks { aggregates, column, buckets: &buckets };
            self.repeated("mark", || self.store.mark(&entry.table, &marks, (&entry.block, &rows), number)).await?;
        }
        failpoint!("sink.after-mark");
        Ok(())
    }

    fn checkpoint(&self, batch: &Batch) -> Checkpoint {
        Checkpoint {
            term: self.term,
            batch: self.batch,
            log: self.log,
            topic: self.settings.topic.clone(),
            next_offset: batch.next_offset,
            watermark: batch.watermark,
            record_hash: batch.record_hash.clone(),
            heartbeat: batch.heartbeat,
            committed_at: chrono::DateTime::from_timestamp_micros(batch.committed_at).unwrap_or_default(),
        }
    }

    /// Completes rows that lack values: from the key's row before in the batch, else by reading the row again.
    async fn resolve(&self, entry: &mut TableBatch) -> Result<Vec<DeadLetter>, Stop> {
        if entry.deferred.is_empty() {
            return Ok(Vec::new());
        }
        counter!("platform_sink_unavailable_values_total").increment(count(entry.deferred.len()));
        let deferred = std::mem::take(&mut entry.deferred);
        let reread = self.reread(entry, &deferred).await?;
        let mut resolved: Vec<Option<Resolved>> = Vec::with_capacity(deferred.len());
        let mut letters = Vec::new();
        for row in &deferred {
            let at = complete(entry, row, &resolved, &reread);
            if at.is_none() {
                letters.push(letter(entry, row, &reread));
            }
            resolved.push(at);
        }
        Ok(letters)
    }

    /// Reads again the rows whose chain within the batch does not begin with a whole row.
    async fn reread(&self, entry: &TableBatch, deferred: &[Deferred]) -> Result<Reread, Stop> {
        let needed = deferred.iter().filter(|row| row.before.is_none());
        let keys: BTreeSet<Vec<String>> =
            needed.filter_map(|row| entry.incomplete.key_texts(&entry.table, row.row)).collect();
        let keys: Vec<Vec<String>> = keys.into_iter().collect();
        let Some(first) = deferred.first() else { return Ok(Reread::new(&entry.table)) };
        if keys.is_empty() {
            return Ok(Reread::new(&entry.table));
        }
        let transactions =
            deferred.iter().filter_map(|row| envelope::transaction(row.record.value.as_deref()?)).collect();
        let read = async || {
            self.origin.until_visible(&transactions).await?;
            self.origin.reread(&entry.table, &keys, first.meta).await
        };
        let mut wait = self.first_wait();
        failpoint!("sink.before-reread");
        loop {
            match read().await {
                Ok(rows) => {
                    failpoint!("sink.after-reread");
                    return Ok(rows);
                }
                Err(error) => {
                    counter!("platform_sink_retries_total", "step" => "reread").increment(1);
                    tracing::warn!(table = %entry.table.name(), error = format!("{error:#}"), wait_ms = wait.as_millis(), "rows cannot be read again yet");
                    self.sleep(&mut wait).await?;
                }
            }
        }
    }

    /// Repeats a call until it succeeds, waiting longer each time; an error that waiting cannot mend halts.
    async fn repeated<T, F, Fut>(&self, step: &'static str, call: F) -> Result<T, Stop>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, clickhouse::Error>>,
    {
        let mut wait = self.first_wait();
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.class() == clickhouse::Class::Retry => {
                    counter!("platform_sink_retries_total", "step" => step).increment(1);
                    tracing::warn!(step, error = %error, wait_ms = wait.as_millis(), "ClickHouse is not ready, the step is repeated");
                    self.sleep(&mut wait).await?;
                }
                // 16 and 60: a load has made the mirror anew, with other columns, since the shapes were read.
                // And RESTORED: ClickHouse was restored, and the log is read again from what it holds.
                Err(error) if matches!(error.code(), Some(16 | 60 | RESTORED)) => {
                    return Err(Stop::Again(error.into()));
                }
                Err(error) => return Err(Stop::Halt(Halt::ClickHouse(format!("{step}: {error}")))),
            }
        }
    }

    fn first_wait(&self) -> Duration {
        Duration::from_millis(self.settings.retry_wait_ms_min.max(1))
    }

    async fn sleep(&self, wait: &mut Duration) -> Result<(), Stop> {
        tokio::select! {
            () = self.clock.sleep(*wait) => {}
            () = self.cancelled.cancelled() => return Err(Stop::Cancelled),
        }
        *wait = (*wait * 2).min(Duration::from_millis(self.settings.retry_wait_ms_max));
        Ok(())
    }
}

/// Where the values came from that a row lacked.
#[derive(Debug, Clone, Copy)]
enum Resolved {
    /// From the key's row before; the row stands here in the block, as its event left it.
    FromBatch(usize),
    /// The row was read again: it may be newer than its event.
    Reread,
}

/// Appends `row` to the block with what it lacks; `None` when nothing has the values.
fn complete(
    entry: &mut TableBatch,
    row: &Deferred,
    resolved: &[Option<Resolved>],
    reread: &Reread,
) -> Option<Resolved> {
    let donor = match row.before {
        Some(Newest::Row(at)) => Some(at),
        Some(Newest::Deferred(earlier)) => match (*resolved.get(earlier)?)? {
            Resolved::FromBatch(at) => Some(at),
            // Values of a newer state beside this event's would make a row that never was.
            Resolved::Reread => None,
        },
        None => None,
    };
    if let Some(at) = donor {
        let mut image = Block::new(&entry.table);
        image.push_row_of(&entry.block, at, row.meta)?;
        entry.block.push_merged((&entry.incomplete, row.row), &row.missing, (&image, 0), row.meta)?;
        return entry.block.rows().checked_sub(1).map(Resolved::FromBatch);
    }
    match reread.found.get(&entry.incomplete.key(&entry.table, row.row)) {
        // The whole row as it is now, under the event's version: what is later comes with later events.
        Some(Ok(at)) => entry.block.push_row_of(&reread.rows, *at, row.meta)?,
        Some(Err(_)) => return None,
        // Gone since: its delete comes with a later event.
        None => entry.block.push_key_of(&entry.table, &entry.incomplete, row.row, row.meta),
    }
    Some(Resolved::Reread)
}

fn letter(entry: &TableBatch, row: &Deferred, reread: &Reread) -> DeadLetter {
    let (reason, detail) = match reread.found.get(&entry.incomplete.key(&entry.table, row.row)) {
        Some(Err(error)) => ("not-representable", error.to_string()),
        _ => ("unresolved", "values that did not change are neither in the batch nor in PostgreSQL".to_owned()),
    };
    letters::letter(&entry.table, &row.record, row.meta.version, Wrong { reason, detail })
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("term", &self.term).field("batch", &self.batch).finish_non_exhaustive()
    }
}

/// Position of a watermark for logs.
pub(super) fn shown(lsn: Lsn) -> String {
    lsn.to_string()
}
