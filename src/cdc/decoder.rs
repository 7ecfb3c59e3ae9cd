//! Events into a batch. Pure: what it cannot decide alone it hands back.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::batch::{Batch, Deferred, Newest};
use super::buckets::Buckets;
use super::envelope::{self, After, Event, Guess, Position, RowEvent, RowKind};
use super::halt::Halt;
use super::letters::{Wrong, letter};
use crate::catalog::{Appended, Block, Placeholder, RowError, RowMeta, Table};
use crate::domain::{Lsn, TableName, Version};
use crate::store::kafka::Record;
use crate::store::mirror::Log;
use crate::store::replication::LOAD_PREFIX;

/// What the sink knows of a published table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It has a mirror of this shape. The version is its floor: what is below is seen by nobody, and not decoded.
    Mirrored(Arc<Table>, Version),
    /// It has none: it was never loaded, cannot be mirrored, or its shape changed. A load takes in all that is skipped.
    Skipped,
}

/// How long an answer of the catalog to one doubt is good, microseconds. A shape changes rarely; events of an old shape may
/// be many.
const ASK_AGAIN_US: i64 = 1_000_000;

/// Follows one log.
#[derive(Debug)]
pub(super) struct Decoder {
    pub(super) tables: HashMap<TableName, Known>,
    /// What made a shape doubtful and was not confirmed by the catalog, with the time of asking in microseconds since 1970:
    /// events from before a change of a table.
    pub(super) history: HashMap<(TableName, String), i64>,
    placeholder: Placeholder,
    log: Log,
    heartbeat: TableName,
    buckets: Arc<Buckets>,
    /// The table of the last row, and whether the row before it was of the same.
    last_table: Option<TableName>,
    same_table: bool,
}

/// What came of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the batch.
    Applied,
    /// The shapes of the tables must be read again before this record.
    Refresh(Doubt),
}

/// What made the known shapes doubtful.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A load has begun: tables may have joined or changed.
    Load,
    /// A table that is not known.
    Table(TableName),
    /// An event of another shape than its table's.
    Shape(TableName, String),
}

#[derive(Deserialize)]
struct Heartbeat {
    counter: i64,
    system_identifier: String,
    timeline: u32,
}

impl Decoder {
    /// For events of `log`, whose unchanged values are stood for by `placeholder`; `buckets`: what is computed from the tables.
    pub(super) fn new(log: Log, placeholder: &str, buckets: Arc<Buckets>) -> Self {
        let heartbeat = TableName::new(crate::store::table_shapes::OWN_SCHEMA, "heartbeat");
        Self {
            tables: HashMap::new(),
            history: HashMap::new(),
            placeholder: Placeholder::new(placeholder),
            log,
            heartbeat,
            buckets,
            last_table: None,
            same_table: false,
        }
    }

    /// Puts one record into the batch. `fresh`: the shapes were just read, so that what does not fit them is history.
    ///
    /// # Errors
    /// A reason to halt; the batch holds everything before the record.
    pub(super) fn apply(&mut self, batch: &mut Batch, record: &Record, fresh: bool, now: i64) -> Result<Outcome, Halt> {
        // Most events are about the table of the two before.
        let guess = self.last_table.as_ref().filter(|_| self.same_table).and_then(|name| match self.tables.get(name) {
            Some(Known::Mirrored(table, _)) => Some(Arc::clone(table)),
            _ => None,
        });
        if let Some(table) = &guess {
            let reader = batch.table(table).block.reader(table, &self.placeholder);
            let parsed = envelope::parse(record.value.as_deref(), Some(Guess { table: table.name(), reader }));
            // Whatever is wrong is looked at again, by itself.
            if let Ok(Some(event)) = parsed {
                let read = matches!(&event, Event::Row(RowEvent { after: Some(After::Read(_)), .. }));
                if !read {
                    batch.table(table).block.forget_unfinished();
                }
                let outcome = self.take_in(batch, event, record, fresh, now);
                if read {
                    batch.table(table).block.forget_unfinished();
                }
                return outcome;
            }
            batch.table(table).block.forget_unfinished();
        }
        let undecodable = |error| Halt::Undecodable { offset: record.offset, error };
        let event = envelope::parse(record.value.as_deref(), None).map_err(undecodable)?;
        self.take_in(batch, event.unwrap_or(Event::Nothing), record, fresh, now)
    }

    fn take_in(
        &mut self,
        batch: &mut Batch,
        event: Event<'_>,
        record: &Record,
        fresh: bool,
        now: i64,
    ) -> Result<Outcome, Halt> {
        match event {
            Event::Nothing => {}
            Event::Message { prefix, .. } if prefix == LOAD_PREFIX && !fresh => {
                return Ok(Outcome::Refresh(Doubt::Load));
            }
            Event::Message { position, .. } => batch.raise(position.watermark()),
            Event::Truncate { table, position } => {
                let version = self.version(&position, record.offset)?;
                if let Some(Known::Mirrored(_, floor)) = self.tables.get_mut(&table) {
                    *floor = version.max(*floor);
                    batch.floors.push((table, version));
                    batch.progress = true;
                }
                batch.raise(position.watermark());
            }
            Event::Row(row) if *row.table == self.heartbeat => self.beat(batch, &row, record.offset)?,
            Event::Row(row) => {
                let (kind, watermark, committed_at) = (row.kind, row.position.watermark(), row.committed_at);
                self.same_table = self.last_table.as_ref() == Some(&*row.table);
                if !self.same_table {
                    self.last_table = Some(row.table.as_ref().clone());
                }
                let outcome = self.row(batch, row, record, fresh, now)?;
                if outcome != Outcome::Applied {
                    return Ok(outcome);
                }
                if kind != RowKind::Snapshot {
                    batch.raise(watermark);
                    batch.committed_at = batch.committed_at.max(committed_at);
                }
            }
        }
        batch.advance(record);
        Ok(Outcome::Applied)
    }

    fn row(
        &self,
        batch: &mut Batch,
        row: RowEvent<'_>,
        record: &Record,
        fresh: bool,
        now: i64,
    ) -> Result<Outcome, Halt> {
        let version = match row.kind {
            RowKind::Snapshot => Version::new(self.log.number, Lsn::ZERO, Lsn::ZERO).unwrap_or_default(),
            RowKind::Insert | RowKind::Update | RowKind::Delete => self.version(&row.position, record.offset)?,
        };
        let table = match self.tables.get(&*row.table) {
            Some(Known::Mirrored(_, floor)) if version < *floor => return Ok(Outcome::Applied),
            Some(Known::Mirrored(table, _)) => Arc::clone(table),
            Some(Known::Skipped) => return Ok(Outcome::Applied),
            None if fresh => return Ok(Outcome::Applied),
            None => return Ok(Outcome::Refresh(Doubt::Table(row.table.into_owned()))),
        };
        let meta =
            RowMeta { version, deleted: row.kind == RowKind::Delete, committed_at: row.committed_at, synced_at: now };
        batch.progress = true;
        if self.buckets.has(table.name()) {
            batch.table(&table).left.note(&self.buckets, &table, row.kind, row.before);
        }
        let done = match (row.kind, row.before, row.after) {
            (RowKind::Delete, Some(before), _) => self.delete(batch, &table, before, meta),
            (_, before, Some(after)) => {
                let news = |doubt: &(TableName, String)| !fresh && self.is_news(doubt, now);
                match self.upsert(batch, &table, before, after, meta, record, news) {
                    Ok(Outcome::Refresh(doubt)) => return Ok(Outcome::Refresh(doubt)),
                    other => other.map(drop),
                }
            }
            (_, _, None) => Ok(()),
        };
        if let Err(error) = done {
            // The type may have changed: then the value is right and the known shape is not.
            let doubt = (table.name().clone(), error.to_string());
            if matches!(error, RowError::Cell { .. }) && !fresh && self.is_news(&doubt, now) {
                return Ok(Outcome::Refresh(Doubt::Shape(doubt.0, doubt.1)));
            }
            batch.letters.push(letter(&table, record, version, wrong(&error)));
        }
        Ok(Outcome::Applied)
    }

    /// Whether the catalog has not been asked about this lately.
    fn is_news(&self, doubt: &(TableName, String), now: i64) -> bool {
        self.history.get(doubt).is_none_or(|asked| now.saturating_sub(*asked) > ASK_AGAIN_US)
    }

    fn delete(&self, batch: &mut Batch, table: &Arc<Table>, before: &RawValue, meta: RowMeta) -> Result<(), RowError> {
        let entry = batch.table(table);
        entry.block.push_tombstone(table, before, &self.placeholder, meta)
    }

    /// Appends the row; a row that lacks values goes to `deferred`, unless the before-image has them.
    #[expect(clippy::too_many_arguments, reason = "one call, and each argument is another part of the event")]
    fn upsert(
        &self,
        batch: &mut Batch,
        table: &Arc<Table>,
        before: Option<&RawValue>,
        after: After<'_>,
        meta: RowMeta,
        record: &Record,
        news: impl Fn(&(TableName, String)) -> bool,
    ) -> Result<Outcome, RowError> {
        let entry = batch.table(table);
        let appended = match after {
            After::Raw(row) => entry.block.push_json(table, row, &self.placeholder, meta),
            After::Read(row) => entry.block.finish_row(table, row, meta),
        };
        if appended.is_err() {
            // The row that is parked may have changed what a later row takes from an earlier one.
            entry.forget_newest();
        }
        let appended = appended?;
        let Appended { missing, inexact, other_shape } = appended;
        let last = entry.block.rows() - 1;
        let doubt = other_shape.map(|shape| (table.name().clone(), shape));
        let doubt = doubt.filter(news);
        if missing.is_empty() && inexact.is_empty() && doubt.is_none() {
            return Ok(Outcome::Applied);
        }
        let key = entry.block.key(table, last);
        let row = entry.incomplete.rows();
        entry.block.move_last_to(&mut entry.incomplete);
        if let Some((table, shape)) = doubt {
            entry.incomplete.truncate(row);
            return Ok(Outcome::Refresh(Doubt::Shape(table, shape)));
        }
        entry.index();
        if let (Some(position), true) = (inexact.first(), table.parks_inexact()) {
            entry.forget_newest();
            entry.incomplete.truncate(row);
            let column = table.columns().get(*position).map_or_else(String::new, |column| column.name().to_owned());
            return Err(RowError::Inexact(column, table.name().to_string()));
        }
        // An inexact value may be a changed one: no other row has it.
        if let (Some(before), true) = (before, inexact.is_empty()) {
            let mut image = Block::new(table);
            let lacking = image.push_json(table, before, &self.placeholder, meta);
            let covers = lacking.is_ok_and(|lacking| {
                missing.iter().all(|at| !lacking.missing.contains(at) && !lacking.inexact.contains(at))
            });
            let same_key = image.rows() == 1 && image.key(table, 0) == key;
            let whole = covers && same_key;
            if whole && entry.block.push_merged((&entry.incomplete, row), &missing, (&image, 0), meta).is_some() {
                entry.incomplete.truncate(row);
                return Ok(Outcome::Applied);
            }
        }
        let before = entry.newest.get(&key).copied().filter(|_| inexact.is_empty());
        entry.newest.insert(key, Newest::Deferred(entry.deferred.len()));
        entry.deferred.push(Deferred { row, missing, meta, before, record: record.clone() });
        batch.incomplete += 1;
        Ok(Outcome::Applied)
    }

    fn beat(&self, batch: &mut Batch, row: &RowEvent<'_>, offset: i64) -> Result<(), Halt> {
        batch.raise(row.position.watermark());
        batch.committed_at = batch.committed_at.max(row.committed_at);
        let Some(After::Raw(after)) = row.after else { return Ok(()) };
        let unreadable = |error: serde_json::Error| Halt::Undecodable {
            offset,
            error: envelope::EnvelopeError::Unreadable(format!("the heartbeat, line {}", error.line())),
        };
        let beat: Heartbeat = serde_json::from_str(after.get()).map_err(unreadable)?;
        let identity = &self.log.identity;
        if beat.system_identifier != identity.system_identifier || beat.timeline != identity.timeline {
            return Err(Halt::LogChanged);
        }
        // Lower or equal values are redelivery.
        if batch.heartbeat >= 0 && beat.counter > batch.heartbeat.saturating_add(1) {
            return Err(Halt::HeartbeatGap { last: batch.heartbeat, seen: beat.counter, offset });
        }
        batch.heartbeat = batch.heartbeat.max(beat.counter);
        Ok(())
    }

    /// The event's version. Without the commit before it, it is right only for what precedes the first load's marker.
    fn version(&self, position: &Position, offset: i64) -> Result<Version, Halt> {
        let lsn = position.lsn.unwrap_or(Lsn::ZERO);
        if position.last_commit.is_none() && lsn > self.log.first_load {
            return Err(Halt::SequenceRestarted { offset, lsn });
        }
        Version::new(self.log.number, position.last_commit.unwrap_or_default(), lsn)
            .ok_or(Halt::Undecodable { offset, error: envelope::EnvelopeError::Missing("position of at most 56 bits") })
    }
}

fn wrong(error: &RowError) -> Wrong {
    let reason = match error {
        RowError::Cell { .. } => "not-representable",
        RowError::Inexact(..) => "inexact",
        RowError::Malformed(_) => "malformed",
    };
    Wrong { reason, detail: error.to_string() }
}
