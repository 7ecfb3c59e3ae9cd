//! One sink: the real decoder, batches, outbox and writer, moved on by hand. It does what `pipeline` does between them.

use std::sync::{Arc, LazyLock};

use rand::RngExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::batch::{Batch, record_hash};
use super::super::buckets::Buckets;
use super::super::decoder::{Decoder, Doubt, Known, Outcome};
use super::super::halt::Halt;
use super::super::outbox::{Inbox, Outbox};
use super::super::pipeline::Stop;
use super::super::ports::{Origin, Store};
use super::super::status::Status;
use super::super::writer::Writer;
use super::bug::{Bug, Spoiler};
use super::row::{AGGREGATES, PLACEHOLDER};
use super::step::{Work, at_once, go_on};
use super::world::{Shared, floors};
use crate::config::{self, Settings};
use crate::domain::Lsn;
use crate::store::kafka::Record;
use crate::store::mirror::Log;
use crate::store::replication::LogIdentity;

static SETTINGS: LazyLock<config::Sink> =
    LazyLock::new(|| Settings::from_overrides([]).expect("the defaults are right").sink);

/// Batches under way.
const IN_FLIGHT: usize = 2;

/// A sink from its start to its end.
pub(super) struct Sink {
    shared: Shared,
    pub(super) term: u64,
    /// Why it has halted.
    pub(super) halt: Option<Halt>,
    /// Why its writer has ended.
    pub(super) ended: Option<Stop>,
    decoder: Decoder,
    spoiler: Spoiler,
    batch: Batch,
    next: i64,
    last: Option<Record>,
    /// A record that waits until everything before it is written.
    doubtful: Option<(Record, Doubt)>,
    outbox: Outbox,
    inbox: Inbox,
    idle: Option<Writer>,
    writing: Option<Work<(Writer, Result<(), Stop>)>>,
}

impl Sink {
    /// Goes on from the checkpoint; `None` while there is none.
    pub(super) fn start(shared: &Shared) -> Option<Self> {
        let world = &mut *shared.world();
        let from = world.warehouse.checkpoint.clone()?;
        let last = usize::try_from(from.next_offset - 1).ok().and_then(|at| world.topic.records.get(at));
        if !from.record_hash.is_empty() && last.map(record_hash).as_deref() != Some(from.record_hash.as_str()) {
            world.wrong("the checkpoint's hash is of another record".into());
        }
        let identity = LogIdentity { system_identifier: "1".into(), timeline: 1 };
        let log = Log { number: 1, identity, first_load: Lsn::new(world.first_load) };
        let buckets = Arc::new(Buckets::new(&*AGGREGATES));
        let stored_as_text = world.bug == Some(Bug::PlaceholderStored);
        let mut decoder = Decoder::new(log, if stored_as_text { "another" } else { PLACEHOLDER }, Arc::clone(&buckets));
        refresh(&mut decoder, world);
        let bug = world.bug;
        let store: Arc<dyn Store> = match bug {
            Some(bug) => bug.spoil_store(shared),
            None => Arc::new(shared.clone()),
        };
        let origin: Arc<dyn Origin> = match bug {
            Some(bug) => bug.spoil_origin(shared),
            None => Arc::new(shared.clone()),
        };
        let writer = Writer {
            store,
            origin,
            clock: Arc::new(shared.clone()),
            settings: SETTINGS.clone(),
            status: Status::default(),
            cancelled: CancellationToken::new(),
            term: from.term + 1,
            batch: from.batch,
            next_offset: from.next_offset,
            log: 1,
            buckets: Arc::clone(&buckets),
            parked: None,
        };
        let committed_at = from.committed_at.timestamp_micros();
        let next = if bug == Some(Bug::StartsAtTheEnd) { world.topic.end() } else { from.next_offset };
        let (outbox, inbox) = Outbox::new(IN_FLIGHT);
        Some(Self {
            shared: shared.clone(),
            term: from.term + 1,
            halt: None,
            ended: None,
            decoder,
            spoiler: Spoiler::new(bug),
            batch: Batch::at(next, from.watermark, from.heartbeat, committed_at, from.record_hash),
            next,
            last: None,
            doubtful: None,
            outbox,
            inbox,
            idle: Some(writer),
            writing: None,
        })
    }

    /// Whether it has taken in the whole topic and written it.
    pub(super) fn is_done(&self) -> bool {
        let read = self.halt.is_some() || (self.next >= self.shared.world().topic.end() && self.doubtful.is_none());
        read && self.outbox.is_idle() && self.writing.is_none() && !self.batch.progress
    }

    /// Takes some records into the batch.
    pub(super) fn decode(&mut self, count: usize) {
        for _ in 0..count {
            // As a batch may have to be sent before the next record.
            if self.halt.is_some() || !self.outbox.has_room() {
                return;
            }
            if let Some((record, doubt)) = self.doubtful.take() {
                if !self.outbox.is_idle() {
                    self.doubtful = Some((record, doubt));
                    return;
                }
                self.settle(&record, doubt);
                continue;
            }
            let record = {
                let world = self.shared.world();
                usize::try_from(self.next).ok().and_then(|at| world.topic.records.get(at).cloned())
            };
            let Some(record) = record else { return };
            self.take(self.spoiled(&record));
        }
    }

    fn spoiled(&self, record: &Record) -> Record {
        self.spoiler.message(record)
    }

    fn take(&mut self, record: Record) {
        match self.decoder.apply(&mut self.batch, &record, false, 0) {
            Ok(Outcome::Applied) => self.pass(record),
            Ok(Outcome::Refresh(doubt)) => {
                self.send_rest();
                self.doubtful = Some((record, doubt));
            }
            Err(halt) => {
                self.send_rest();
                self.halt = Some(halt);
            }
        }
    }

    fn settle(&mut self, record: &Record, doubt: Doubt) {
        refresh(&mut self.decoder, &self.shared.world());
        match doubt {
            Doubt::Table(table) => drop(self.decoder.tables.entry(table).or_insert(Known::Skipped)),
            Doubt::Shape(table, shape) => drop(self.decoder.history.insert((table, shape), 0)),
            Doubt::Load => {}
        }
        match self.decoder.apply(&mut self.batch, record, true, 0) {
            Ok(_) => self.pass(record.clone()),
            Err(halt) => self.halt = Some(halt),
        }
    }

    fn pass(&mut self, record: Record) {
        self.next = record.offset + 1;
        self.last = Some(record);
    }

    fn send_rest(&mut self) {
        if self.batch.events > 0 {
            self.send();
        }
    }

    /// Hands the batch to the writer if there is something in it and room for it.
    pub(super) fn seal(&mut self) {
        if self.batch.progress && self.outbox.has_room() {
            self.send();
        }
    }

    fn send(&mut self) {
        let empty = Batch::after(&self.batch);
        let old = std::mem::replace(&mut self.batch, empty);
        // The hash is of what the topic holds, not of what a planted bug made of it.
        let last = self.last.as_ref().and_then(|last| {
            let at = usize::try_from(last.offset).ok()?;
            self.shared.world().topic.records.get(at).cloned()
        });
        self.batch = at_once(self.outbox.send(old, last.as_ref())).expect("there is room");
    }

    /// The writer goes on to its next call, or into it, or out of it.
    pub(super) fn write(&mut self) {
        if self.writing.is_none() {
            let Ok(batch) = self.inbox.0.try_recv() else { return };
            let Some(mut writer) = self.idle.take() else { return };
            self.writing = Some(Box::pin(async move {
                let written = writer.write(batch).await;
                (writer, written)
            }));
        }
        let Some((writer, written)) = self.writing.as_mut().and_then(go_on) else { return };
        self.writing = None;
        match written {
            Ok(()) => {
                self.inbox.1.send_modify(|written| written.add(Instant::now()));
                self.idle = Some(writer);
            }
            Err(stop) => self.ended = Some(stop),
        }
    }

    /// Something of what it does, drawn.
    pub(super) fn step(&mut self) {
        let draw = self.shared.world().rng.random_range(0..10);
        match draw {
            0..3 => {
                let count = self.shared.world().rng.random_range(1..12);
                self.decode(count);
            }
            3 => self.seal(),
            _ => self.write(),
        }
    }
}

/// Reads the floors again, as `shapes` does.
fn refresh(decoder: &mut Decoder, world: &super::world::World) {
    let known = floors(world).map(|(table, floor)| (table.name().clone(), Known::Mirrored(table, floor)));
    decoder.tables = known.into_iter().collect();
}
