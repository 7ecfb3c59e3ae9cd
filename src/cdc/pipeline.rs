//! One sink: takes the lease, goes on from the checkpoint, and moves batches until it is stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::adapters::{ClickHouseStore, PostgresOrigin, RuntimeClock};
use super::batch::Batch;
use super::decoder::{Decoder, Doubt, Known, Outcome};
use super::halt::Halt;
use super::outbox::Outbox;
use super::source::{self, Fetched};
use super::status::{self, Status};
use super::writer::{Writer, shown};
use super::{continuity, preflight, shapes};
use crate::config::Settings;
use crate::domain::Lsn;
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::clickhouse::ClickHouse;
use crate::store::kafka::{Record, Topic};
use crate::store::lease::Lease;
use crate::store::mirror::{self, Log};
use crate::store::{connector_config, postgres};

/// How long a sink that ClickHouse refuses stays halted before it begins again.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// Why a run ended.
#[derive(Debug)]
pub enum Stop {
    /// It was asked to.
    Cancelled,
    /// Continuity cannot be proven, or something waits for a person.
    Halt(Halt),
    /// The lease is lost, or a part could not be reached at the start: begin again.
    Again(anyhow::Error),
}

/// A sink of one pipeline.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    clickhouse: ClickHouse,
    status: Status,
    cancelled: CancellationToken,
    /// The term that this sink writes in, or that it found; a higher one in ClickHouse means that a load has moved the
    /// checkpoint.
    term: AtomicU64,
    /// Rung when the tables' structure is known to have changed.
    changed: Arc<Notify>,
}

impl Pipeline {
    /// Composes a sink.
    ///
    /// # Errors
    /// `Failure::Config` when an address is missing.
    pub fn new(settings: Settings, status: Status, cancelled: CancellationToken) -> anyhow::Result<Self> {
        let clickhouse = ClickHouse::new(&settings.clickhouse)?;
        Ok(Self { settings, clickhouse, status, cancelled, term: AtomicU64::new(0), changed: Arc::default() })
    }

    /// Ring it when a table's structure has changed: without an event of the new shape the sink would not look.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Runs until cancelled. A halt stays, visibly, until a load has moved the checkpoint past its cause, or the process is
    /// restarted.
    pub async fn run(&self) {
        let mut wait = Duration::from_millis(self.settings.sink.retry_wait_ms_min.max(1));
        while !self.cancelled.is_cancelled() {
            let begun = Instant::now();
            match self.run_once().await {
                Stop::Cancelled => break,
                Stop::Halt(halt) => {
                    self.status.halted(&halt);
                    tracing::error!(reason = halt.name(), detail = %halt, "halted: nothing is skipped");
                    match halt {
                        Halt::Connector(_) => self.other_settings(&halt).await,
                        // Rights may come back, a table may be restored: nothing is skipped by asking again.
                        Halt::ClickHouse(_) => drop(tokio::time::timeout(REFUSED_AGAIN, self.moved_checkpoint()).await),
                        _ => self.moved_checkpoint().await,
                    }
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

    /// Waits until the connector's settings have changed, or until cancelled.
    async fn other_settings(&self, halt: &Halt) {
        let same = async || {
            let client = postgres::connect(&self.settings.postgres, "platform sink").await?;
            let placeholder = connector_config::placeholder(&client, &self.settings.sink.pipeline).await?;
            preflight::check(&self.settings, &placeholder, true).await
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.cancelled.cancelled() => return,
            }
            if same().await.is_ok_and(|wrong| wrong.map(Halt::Connector).as_ref() != Some(halt)) {
                return;
            }
        }
    }

    /// Waits until a load has moved the checkpoint, or until cancelled.
    async fn moved_checkpoint(&self) {
        while !self.is_overtaken().await {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.cancelled.cancelled() => return,
            }
        }
    }

    /// Whether a checkpoint of a higher term is there. While ClickHouse does not answer, nothing is known.
    async fn is_overtaken(&self) -> bool {
        let latest = checkpoint::latest(&self.clickhouse, &self.settings.sink.pipeline).await;
        self.overtakes(latest.ok().flatten().as_ref())
    }

    fn overtakes(&self, latest: Option<&Checkpoint>) -> bool {
        latest.is_some_and(|checkpoint| checkpoint.term > self.term.load(Ordering::SeqCst))
    }

    /// Ends when this sink may not go on: the lease is lost, a load has moved the checkpoint, or the database, the slot or
    /// the connector do not continue what was applied.
    async fn lost(&self, lease: &Lease, log: &Log) -> Stop {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !lease.is_held().await {
                return Stop::Again(anyhow::anyhow!("the connection that holds the writer's lease is lost"));
            }
            let latest = checkpoint::latest(&self.clickhouse, &self.settings.sink.pipeline).await.ok().flatten();
            if self.overtakes(latest.as_ref()) {
                return Stop::Again(anyhow::anyhow!("a load has moved the checkpoint"));
            }
            if let Some(latest) = &latest {
                status::lags_behind(latest.committed_at);
            }
            let watermark =
                latest.filter(|latest| latest.log == log.number).map_or(Lsn::ZERO, |latest| latest.watermark);
            match continuity::check(&self.settings, lease.client(), log, watermark).await {
                Ok(None) => {}
                Ok(Some(halt)) => return Stop::Halt(halt),
                Err(error) => tracing::debug!(error = format!("{error:#}"), "PostgreSQL does not say how it stands"),
            }
        }
    }

    async fn run_once(&self) -> Stop {
        match self.start().await {
            Ok(Ok(stop)) | Ok(Err(stop)) => stop,
            Err(error) => Stop::Again(error),
        }
    }

    async fn start(&self) -> anyhow::Result<Result<Stop, Stop>> {
        let Some(lease) = self.lease().await? else { return Ok(Err(Stop::Cancelled)) };
        failpoint!("sink.lease-taken");
        let pipeline = &self.settings.sink.pipeline;
        let Some(checkpoint) = checkpoint::latest(&self.clickhouse, pipeline).await? else {
            return Ok(Err(Stop::Halt(Halt::NotLoaded)));
        };
        self.term.store(checkpoint.term, Ordering::SeqCst);
        let Some(log) = mirror::newest_log(&self.clickhouse).await? else {
            return Ok(Err(Stop::Halt(Halt::NotLoaded)));
        };
        let watermark = if checkpoint.log == log.number { checkpoint.watermark } else { Lsn::ZERO };
        if let Some(halt) = continuity::check(&self.settings, lease.client(), &log, watermark).await? {
            return Ok(Err(Stop::Halt(halt)));
        }
        let placeholder = connector_config::placeholder(lease.client(), pipeline).await?;
        if let Some(wrong) = preflight::check(&self.settings, &placeholder, checkpoint.next_offset == 0).await? {
            return Ok(Err(Stop::Halt(Halt::Connector(wrong))));
        }
        let topic = match source::open(&self.settings, &checkpoint).await {
            Ok(topic) => topic,
            Err(stop) => return Ok(Err(stop)),
        };
        let mut decoder = Decoder::new(log.clone(), &placeholder);
        shapes::refresh(&self.settings, &self.clickhouse, &self.status, &mut decoder).await?;
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
        Ok(Ok(self.flow(decoder, checkpoint, &log, topic, lease).await))
    }

    /// Waits for the lease; stands by while another sink holds it.
    async fn lease(&self) -> anyhow::Result<Option<Lease>> {
        let mut said = false;
        loop {
            if let Some(lease) = Lease::try_take(&self.settings.postgres, &self.settings.sink.pipeline).await? {
                return Ok(Some(lease));
            }
            if !said {
                tracing::info!("another sink holds the lease of this pipeline; standing by");
                self.status.set("standby");
                said = true;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.cancelled.cancelled() => return Ok(None),
            }
        }
    }

    /// Moves records from the topic to the writer until something stops it.
    async fn flow(&self, mut decoder: Decoder, from: Checkpoint, log: &Log, topic: Topic, lease: Lease) -> Stop {
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
        let mut writer = self.writer(&from, log, &local);
        let mut writing = tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                writer.write(batch).await?;
                written.send_modify(|count| *count += 1);
            }
            Ok::<(), Stop>(())
        });
        let stop = tokio::select! {
            stop = self.decode(&mut decoder, start, records, outbox) => stop,
            stop = self.lost(&lease, log) => stop,
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

    fn writer(&self, from: &Checkpoint, log: &Log, cancelled: &CancellationToken) -> Writer {
        let store = ClickHouseStore {
            clickhouse: self.clickhouse.clone(),
            pipeline: self.settings.sink.pipeline.clone(),
            acknowledged: Mutex::new(from.position()),
        };
        let origin = PostgresOrigin { settings: self.settings.postgres.clone(), client: tokio::sync::Mutex::new(None) };
        Writer {
            store: Arc::new(store),
            origin: Arc::new(origin),
            clock: Arc::new(RuntimeClock),
            settings: self.settings.sink.clone(),
            status: self.status.clone(),
            cancelled: cancelled.clone(),
            term: from.term + 1,
            batch: from.batch,
            log: log.number,
        }
    }

    async fn decode(
        &self,
        decoder: &mut Decoder,
        mut batch: Batch,
        mut records: mpsc::Receiver<Fetched>,
        mut outbox: Outbox,
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
                // Room is waited for here, not looked at once: no record may come that would look again.
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await; outbox.room().await }, if due.is_some() => {
                    batch = outbox.send(batch, last.as_ref()).await;
                    oldest = None;
                    continue;
                }
                () = self.changed.notified() => {
                    if let Err(stop) = self.reshape(decoder, &mut batch, last.as_ref(), &mut outbox).await {
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
                    oldest = None;
                }
                before = Some(record);
            }
            if behind && outbox.is_idle() && batch.rows() >= sink.batch_rows_max / 4 {
                batch = outbox.send(batch, before).await;
                oldest = None;
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
        self.reshape(decoder, batch, before, outbox).await?;
        match outcome {
            // Neither is asked about again soon: the table is gone, or the shape is history.
            Doubt::Table(table) => drop(decoder.tables.entry(table).or_insert(Known::Skipped)),
            Doubt::Shape(table, shape) => drop(decoder.history.insert((table, shape), now)),
            Doubt::Load => {}
        }
        decoder.apply(batch, record, true, now).map(drop).map_err(Stop::Halt)
    }

    /// Reads the tables' shapes again, and makes the mirrors follow, when everything before is written: it has the shapes of
    /// before.
    async fn reshape(
        &self,
        decoder: &mut Decoder,
        batch: &mut Batch,
        last: Option<&Record>,
        outbox: &mut Outbox,
    ) -> Result<(), Stop> {
        let old = std::mem::replace(batch, Batch::after(batch));
        if old.events > 0 {
            *batch = outbox.send(old, last).await;
        }
        outbox.all_written().await;
        failpoint!("structure.all-written");
        let known = decoder.tables.clone();
        let refreshed = shapes::refresh(&self.settings, &self.clickhouse, &self.status, decoder).await;
        refreshed.context("reading the tables' shapes").map_err(Stop::Again)?;
        failpoint!("structure.refreshed");
        if decoder.tables != known {
            decoder.history.clear();
        }
        Ok(())
    }
}
