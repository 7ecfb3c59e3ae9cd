//! One sink: takes the lease, goes on from the checkpoint, and moves batches until it is stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::buckets::Buckets;
use super::decoder::{Decoder, Doubt, Known, Outcome};
use super::desk::Desk;
use super::envelope;
use super::halt::Halt;
use super::outbox::Outbox;
use super::source::{self, Fetched};
use super::status::Status;
use super::writer::shown;
use super::{continuity, preflight, shapes};
use crate::catalog::Aggregate;
use crate::config::Settings;
use crate::domain::{Failure, Lsn};
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::clickhouse::ClickHouse;
use crate::store::connector_config;
use crate::store::kafka::{Record, Topic};
use crate::store::lease::Lease;
use crate::store::mirror::{self, Log};

/// Why a run ended.
#[derive(Debug)]
pub enum Stop {
    /// It was asked to.
    Cancelled,
    /// Continuity cannot be proven, or something waits for a person.
    Halt(Halt),
    /// An operator has asked for something that is done while nothing is written.
    Asked,
    /// The lease is lost, or a part could not be reached at the start: begin again.
    Again(anyhow::Error),
}

impl Stop {
    /// As the end of a request that was in work.
    pub(super) fn into_failure(self) -> anyhow::Error {
        match self {
            Self::Again(error) => error.context(Failure::Unavailable("the sink has to begin again".into())),
            Self::Halt(halt) => Failure::Config(halt.to_string()).into(),
            Self::Cancelled | Self::Asked => Failure::Unavailable("the sink is stopping".into()).into(),
        }
    }
}

/// A sink of one pipeline.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) settings: Settings,
    pub(super) clickhouse: ClickHouse,
    pub(super) status: Status,
    pub(super) cancelled: CancellationToken,
    pub(super) desk: Desk,
    /// The term that this sink writes in, or that it found; a higher one in ClickHouse means that a load has moved the
    /// checkpoint.
    pub(super) term: AtomicU64,
    /// Rung when the tables' structure is known to have changed.
    changed: Arc<Notify>,
}

impl Pipeline {
    /// Composes a sink. Of `aggregates` it marks the buckets that it changes.
    ///
    /// # Errors
    /// `Failure::Config` when an address is missing.
    pub fn new(
        settings: Settings,
        aggregates: &[Aggregate],
        status: Status,
        cancelled: CancellationToken,
    ) -> anyhow::Result<Self> {
        let clickhouse = ClickHouse::new(&settings.clickhouse)?;
        let buckets = Arc::new(Buckets::new(aggregates));
        let desk = Desk::new(settings.clone(), clickhouse.clone(), status.clone(), cancelled.clone(), buckets);
        Ok(Self { settings, clickhouse, status, cancelled, desk, term: AtomicU64::new(0), changed: Arc::default() })
    }

    /// Ring it when a table's structure has changed: without an event of the new shape the sink would not look.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Rings when the sink has marked buckets of statistics that have to be built anew.
    pub fn marked(&self) -> Arc<Notify> {
        Arc::clone(&self.desk.marked)
    }

    /// Runs until cancelled. A halt stays, visibly, until a load or a rewind has moved the checkpoint, an operator says to try
    /// again, or the process is restarted.
    pub async fn run(&self) {
        let mut wait = Duration::from_millis(self.settings.sink.retry_wait_ms_min.max(1));
        while !self.cancelled.is_cancelled() {
            let begun = Instant::now();
            match self.run_once().await {
                Stop::Cancelled => break,
                Stop::Asked => {}
                Stop::Halt(halt) => {
                    self.status.halted(&halt);
                    tracing::error!(reason = halt.name(), detail = %halt, "halted: nothing is skipped");
                    self.halted(&halt).await;
                }
                Stop::Again(error) => {
                    let detail = format!("{error:#}");
                    tracing::warn!(error = detail, wait_ms = wait.as_millis(), "the sink begins again");
                    self.status.waiting(detail);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.cancelled.cancelled() => {}
                    }
                    let longest = Duration::from_millis(self.settings.sink.retry_wait_ms_max);
                    wait = if begun.elapsed() > Duration::from_secs(60) { wait } else { (wait * 2).min(longest) };
                }
            }
        }
        self.status.set("stopped");
    }

    /// Goes on from the checkpoint until something stops it.
    pub(super) async fn start(&self, lease: &Lease) -> anyhow::Result<Stop> {
        failpoint!("sink.lease-taken");
        let pipeline = &self.settings.sink.pipeline;
        let Some(checkpoint) = checkpoint::latest(&self.clickhouse, pipeline).await? else {
            // A ClickHouse that has lost everything counts terms from the beginning.
            self.term.store(0, Ordering::SeqCst);
            return Ok(Stop::Halt(Halt::NotLoaded));
        };
        self.term.store(checkpoint.term, Ordering::SeqCst);
        let Some(log) = mirror::newest_log(&self.clickhouse).await? else {
            return Ok(Stop::Halt(Halt::NotLoaded));
        };
        let watermark = if checkpoint.log == log.number { checkpoint.watermark } else { Lsn::ZERO };
        if let Some(halt) = continuity::check(&self.settings, lease.client(), &log, watermark).await?.halt {
            return Ok(Stop::Halt(halt));
        }
        let placeholder = connector_config::placeholder(lease.client(), pipeline).await?;
        if let Some(wrong) = preflight::check(&self.settings, &placeholder, checkpoint.next_offset == 0).await? {
            return Ok(Stop::Halt(Halt::Connector(wrong)));
        }
        let topic = match source::open(&self.settings, &checkpoint).await {
            Ok(topic) => topic,
            Err(stop) => return Ok(stop),
        };
        let mut decoder = Decoder::new(log.clone(), &placeholder, Arc::clone(&self.desk.buckets));
        shapes::refresh(&self.settings, &self.clickhouse, &self.status, &mut decoder, &BTreeSet::new()).await?;
        tracing::info!(
            term = checkpoint.term + 1,
            batch = checkpoint.batch,
            next_offset = checkpoint.next_offset,
            watermark = shown(checkpoint.watermark),
            log = log.number,
            "running"
        );
        self.term.store(checkpoint.term + 1, Ordering::SeqCst);
        self.status.set("running");
        failpoint!("sink.started");
        Ok(self.flow(decoder, checkpoint, &log, topic, lease).await)
    }

    /// Moves records from the topic to the writer until something stops it.
    async fn flow(&self, mut decoder: Decoder, from: Checkpoint, log: &Log, topic: Topic, lease: &Lease) -> Stop {
        let sink = &self.settings.sink;
        // A new log's watermark begins anew: positions of another log say nothing about it.
        let watermark = if from.log == log.number { from.watermark } else { Lsn::ZERO };
        let start = Batch::at(
            from.next_offset,
            watermark,
            from.heartbeat,
            from.committed_at.timestamp_micros(),
            from.record_hash.clone(),
        );
        let (records_in, records) = mpsc::channel(2);
        let (outbox, (mut batches, written)) = Outbox::new(sink.batches_in_flight_max);
        let local = self.cancelled.child_token();
        let mut source =
            tokio::spawn(source::run(topic, sink.clone(), from.next_offset, records_in, self.status.clone()));
        let mut writer = self.desk.writer(&from, log.number, &local);
        let mut writing = tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                let begun = Instant::now();
                writer.write(batch).await?;
                written.send_modify(|written| written.add(begun));
            }
            Ok::<(), Stop>(())
        });
        let asked = CancellationToken::new();
        let stop = tokio::select! {
            stop = self.decode(&mut decoder, start, records, outbox, &asked) => stop,
            stop = self.lost(lease, log) => stop,
            stop = self.asked(lease, &asked) => stop,
            () = local.cancelled() => Stop::Cancelled,
            ended = &mut source => ended.unwrap_or_else(|error| Stop::Again(error.into())),
            ended = &mut writing => match ended {
                Ok(Ok(())) => Stop::Cancelled,
                Ok(Err(stop)) => stop,
                Err(error) => Stop::Again(error.into()),
            },
        };
        source.abort();
        // `decode` is dropped and with it the channel: the writer ends after the batches that it holds.
        // One that has ended by itself has said above why.
        if !writing.is_finished() && tokio::time::timeout(Duration::from_secs(10), &mut writing).await.is_err() {
            local.cancel();
            writing.abort();
        }
        stop
    }

    async fn decode(
        &self,
        decoder: &mut Decoder,
        mut batch: Batch,
        mut records: mpsc::Receiver<Fetched>,
        mut outbox: Outbox,
        asked: &CancellationToken,
    ) -> Stop {
        let sink = &self.settings.sink;
        let (age_max, age_behind_max) =
            (Duration::from_millis(sink.batch_age_ms_max), Duration::from_millis(sink.batch_age_behind_ms_max));
        let mut behind = false;
        let mut oldest: Option<Instant> = None;
        let mut last: Option<Record> = None;
        loop {
            let due = oldest.map(|since| since + if behind { age_behind_max } else { age_max });
            let fetched = tokio::select! {
                fetched = records.recv() => fetched,
                // The writer is waited for here, not looked at once: no record may come that would look again.
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await; outbox.rested(age_max).await }, if due.is_some() => {
                    batch = outbox.send(batch, last.as_ref()).await;
                    measure_age(&mut oldest);
                    continue;
                }
                () = asked.cancelled() => {
                    if batch.events > 0 {
                        outbox.send(batch, last.as_ref()).await;
                    }
                    return Stop::Asked;
                }
                () = self.changed.notified() => {
                    if let Err(stop) = self.reshape(decoder, &mut batch, last.as_ref(), &mut outbox, None).await {
                        return stop;
                    }
                    continue;
                }
            };
            // The source has ended, and says itself why.
            let Some(Fetched { records: mut fetched, behind: left }) = fetched else {
                return std::future::pending().await;
            };
            // Behind, batches fill up: catching up is faster so. But the writer is never left without work.
            behind = usize::try_from(left).is_ok_and(|left| left >= sink.batch_rows_max / 4);
            let mut before = last.as_ref();
            let now = chrono::Utc::now().timestamp_micros();
            for record in &fetched {
                if let Err(stop) = self.take(decoder, &mut batch, (record, before), &mut outbox, now).await {
                    return stop;
                }
                failpoint!("sink.decoded");
                let full = batch.rows() >= sink.batch_rows_max || batch.bytes >= sink.batch_bytes_max;
                if full || batch.incomplete >= sink.reread_rows_max {
                    batch = outbox.send(batch, Some(record)).await;
                    measure_age(&mut oldest);
                }
                before = Some(record);
            }
            if behind && outbox.is_idle() && batch.rows() >= sink.batch_rows_max / 4 {
                batch = outbox.send(batch, before).await;
                measure_age(&mut oldest);
            }
            last = fetched.pop().or(last);
            if batch.progress && oldest.is_none() {
                oldest = Some(Instant::now());
            }
        }
    }

    /// Puts a record into the batch; reads the shapes again when it asks for that. With the record comes the one
    /// before it.
    async fn take(
        &self,
        decoder: &mut Decoder,
        batch: &mut Batch,
        (record, before): (&Record, Option<&Record>),
        outbox: &mut Outbox,
        now: i64,
    ) -> Result<(), Stop> {
        let outcome = match decoder.apply(batch, record, false, now) {
            Ok(Outcome::Applied) => return Ok(()),
            Ok(Outcome::Refresh(doubt)) => doubt,
            Err(halt) => {
                // What came before the record is right, and is written.
                let old = std::mem::replace(batch, Batch::after(batch));
                if old.events > 0 {
                    *batch = outbox.send(old, before).await;
                }
                return Err(Stop::Halt(halt));
            }
        };
        self.reshape(decoder, batch, before, outbox, record.value.as_deref()).await?;
        match outcome {
            // Neither is asked about again soon: the table is gone, or the shape is history.
            Doubt::Table(table) => drop(decoder.tables.entry(table).or_insert(Known::Skipped)),
            Doubt::Shape(table, shape) => drop(decoder.history.insert((table, shape), now)),
            Doubt::Load => {}
        }
        decoder.apply(batch, record, true, now).map(drop).map_err(Stop::Halt)
    }

    /// Reads the tables' shapes again, and makes the mirrors follow, when everything before is written: it has the shapes of
    /// before. `event`: the message whose shape the catalog is asked about; it may come before its own commit is visible there.
    async fn reshape(
        &self,
        decoder: &mut Decoder,
        batch: &mut Batch,
        last: Option<&Record>,
        outbox: &mut Outbox,
        event: Option<&[u8]>,
    ) -> Result<(), Stop> {
        let old = std::mem::replace(batch, Batch::after(batch));
        if old.events > 0 {
            *batch = outbox.send(old, last).await;
        }
        outbox.all_written().await;
        failpoint!("structure.all-written");
        let known = decoder.tables.clone();
        let transactions = event.and_then(envelope::transaction).into_iter().collect();
        let refreshed = shapes::refresh(&self.settings, &self.clickhouse, &self.status, decoder, &transactions).await;
        refreshed.context("reading the tables' shapes").map_err(Stop::Again)?;
        failpoint!("structure.refreshed");
        if decoder.tables != known {
            decoder.history.clear();
        }
        Ok(())
    }
}

/// Takes the time since which a batch that was sent had waited.
fn measure_age(oldest: &mut Option<Instant>) {
    if let Some(since) = oldest.take() {
        metrics::histogram!("platform_sink_batch_age_seconds").record(since.elapsed().as_secs_f64());
    }
}
