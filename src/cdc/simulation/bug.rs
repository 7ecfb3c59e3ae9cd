//! Bugs that are planted on purpose, each by a wrapper around what the sink sees or says: a simulation that does not find
//! them proves nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;

use super::super::ports::{Origin, Reread, Store};
use super::warehouse::{Effect, rows_of};
use super::world::Shared;
use crate::catalog::{Block, PgType, RowMeta, Table};
use crate::domain::{TableName, Version};
use crate::store::checkpoint::Checkpoint;
use crate::store::clickhouse::Error;
use crate::store::dirty_buckets::Marks;
use crate::store::kafka::Record;
use crate::store::mirror::DeadLetter;

/// What is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    CheckpointBeforeInsert,
    VersionFromSourceLsn,
    VersionFromArrival,
    DeletesIgnored,
    TruncatesIgnored,
    PlaceholderStored,
    NullMadeDefault,
    DroppedBySequence,
    HeartbeatIgnored,
    TimeoutTakenForSuccess,
    InsertDeduplicated,
    TruncateAsDelete,
    ParkedRowsDropped,
    RereadFromBehind,
    LastArrivalWins,
    StartsAtTheEnd,
    SnapshotWithoutTheWait,
    LoadWithoutFloor,
    LoadVersionOfTheSnapshot,
    MarkedAfterTheInsert,
    OnlyEnteredBucketsMarked,
    LoadMarksNothing,
}

/// All of them.
pub(super) const BUGS: [Bug; 22] = [
    Bug::CheckpointBeforeInsert,
    Bug::VersionFromSourceLsn,
    Bug::VersionFromArrival,
    Bug::DeletesIgnored,
    Bug::TruncatesIgnored,
    Bug::PlaceholderStored,
    Bug::NullMadeDefault,
    Bug::DroppedBySequence,
    Bug::HeartbeatIgnored,
    Bug::TimeoutTakenForSuccess,
    Bug::InsertDeduplicated,
    Bug::TruncateAsDelete,
    Bug::ParkedRowsDropped,
    Bug::RereadFromBehind,
    Bug::LastArrivalWins,
    Bug::StartsAtTheEnd,
    Bug::SnapshotWithoutTheWait,
    Bug::LoadWithoutFloor,
    Bug::LoadVersionOfTheSnapshot,
    Bug::MarkedAfterTheInsert,
    Bug::OnlyEnteredBucketsMarked,
    Bug::LoadMarksNothing,
];

impl Bug {
    /// Bugs of the order of rows: they must show in the rows, not in what a checkpoint says.
    pub(super) fn is_seen_at_the_end_only(self) -> bool {
        matches!(
            self,
            Self::VersionFromSourceLsn
                | Self::VersionFromArrival
                | Self::DeletesIgnored
                | Self::TruncatesIgnored
                | Self::TruncateAsDelete
                | Self::DroppedBySequence
                | Self::LastArrivalWins
        )
    }

    /// The sink's store, wrapped.
    pub(super) fn spoil_store(self, shared: &Shared) -> Arc<dyn Store> {
        Arc::new(SpoiltStore {
            bug: self,
            shared: shared.clone(),
            held: Mutex::default(),
            tokens: Mutex::default(),
            marks: Mutex::default(),
        })
    }

    /// The sink's origin, wrapped.
    pub(super) fn spoil_origin(self, shared: &Shared) -> Arc<dyn Origin> {
        if self == Self::RereadFromBehind { Arc::new(Behind(shared.clone())) } else { Arc::new(shared.clone()) }
    }
}

/// Changes messages on their way to the decoder.
#[derive(Debug)]
pub(super) struct Spoiler {
    bug: Option<Bug>,
    highest: Mutex<(u64, u64)>,
    arrivals: AtomicU64,
}

impl Spoiler {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self { bug, highest: Mutex::default(), arrivals: AtomicU64::new(0) }
    }

    /// The message as the sink with the bug takes it.
    pub(super) fn message(&self, record: &Record) -> Record {
        let Some(bug) = self.bug else { return record.clone() };
        let value = record.value.as_deref().unwrap_or_default();
        let value: Value = serde_json::from_slice(value).expect("the topic holds JSON");
        let spoilt = self.spoilt(bug, value, record.offset);
        let value = spoilt.map(|value| value.to_string().into());
        Record { offset: record.offset, key: None, value }
    }

    fn spoilt(&self, bug: Bug, mut value: Value, offset: i64) -> Option<Value> {
        let op = value["op"].as_str().unwrap_or_default().to_owned();
        let is_row = value["source"]["schema"] == "public" && op != "m";
        let lsn = value["source"]["lsn"].as_u64().unwrap_or(0);
        match bug {
            Bug::DeletesIgnored if op == "d" => return None,
            Bug::TruncatesIgnored if op == "t" => return None,
            Bug::HeartbeatIgnored if value["source"]["table"] == "heartbeat" => return None,
            Bug::VersionFromSourceLsn if is_row => {
                if op == "r" {
                    value["op"] = "c".into();
                    value["source"]["snapshot"] = Value::Null;
                }
                value["source"]["sequence"] = format!("[\"{lsn}\",\"{lsn}\"]").into();
            }
            Bug::VersionFromArrival if is_row && op != "r" => {
                let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
                let number = number + u64::try_from(offset).unwrap_or(0);
                value["source"]["sequence"] = format!("[\"{}\",\"{number}\"]", 1_000_000 + number).into();
            }
            Bug::NullMadeDefault if value["after"]["id"].is_number() && value["after"]["note"].is_null() && is_row => {
                value["after"]["note"] = "".into();
            }
            Bug::DroppedBySequence if is_row && op != "r" => {
                let last = value["source"]["sequence"].as_str().and_then(|text| text.split('"').nth(1));
                let place = (last.and_then(|last| last.parse().ok()).unwrap_or(0), lsn);
                let mut highest = self.highest.lock().expect("nobody panics");
                if place <= *highest {
                    return None;
                }
                *highest = place;
            }
            _ => {}
        }
        Some(value)
    }
}

struct SpoiltStore {
    bug: Bug,
    shared: Shared,
    held: Mutex<Vec<(Table, Block)>>,
    tokens: Mutex<BTreeSet<(String, Vec<i64>)>>,
    marks: Mutex<Vec<Effect>>,
}

impl SpoiltStore {
    fn answer(&self, answer: Result<(), Error>) -> Result<(), Error> {
        match answer {
            Err(Error::TimedOut(_) | Error::Network(_)) if self.bug == Bug::TimeoutTakenForSuccess => Ok(()),
            answer => answer,
        }
    }
}

#[async_trait]
impl Store for SpoiltStore {
    async fn raise_floor(&self, table: &TableName, floor: Version) -> Result<(), Error> {
        if self.bug == Bug::TruncateAsDelete {
            let at = super::warehouse::place(table);
            self.shared.world().warehouse.rows[at].clear();
            return Ok(());
        }
        self.answer(self.shared.raise_floor(table, floor).await)
    }

    async fn park(&self, letters: &[DeadLetter]) -> Result<(), Error> {
        if self.bug == Bug::ParkedRowsDropped {
            return Ok(());
        }
        self.answer(self.shared.park(letters).await)
    }

    async fn mark_whole(&self, aggregate: &str, batch: u64) -> Result<(), Error> {
        self.answer(self.shared.mark_whole(aggregate, batch).await)
    }

    async fn mark(
        &self,
        table: &Table,
        marks: &Marks<'_>,
        (block, rows): (&Block, &[usize]),
        batch: u64,
    ) -> Result<(), Error> {
        match self.bug {
            Bug::MarkedAfterTheInsert => {
                self.marks.lock().expect("nobody panics").push(super::world::mark(table, marks, (block, rows), batch));
                Ok(())
            }
            Bug::OnlyEnteredBucketsMarked => {
                let entered = block.buckets(marks.column, &PgType::Timestamp);
                let marks = Marks { buckets: &entered, ..*marks };
                self.shared.mark(table, &marks, (block, &[]), batch).await
            }
            _ => self.answer(self.shared.mark(table, marks, (block, rows), batch).await),
        }
    }

    async fn tables_with_parked_rows(&self) -> Result<BTreeSet<String>, Error> {
        self.shared.tables_with_parked_rows().await
    }

    async fn insert(&self, table: &Table, block: &Block) -> Result<(), Error> {
        match self.bug {
            Bug::CheckpointBeforeInsert => {
                self.held.lock().expect("nobody panics").push((table.clone(), block.clone()));
                return Ok(());
            }
            Bug::InsertDeduplicated => {
                let keys = rows_of(table, block).into_iter().map(|(id, _)| id).collect();
                let token = (table.name().to_string(), keys);
                if !self.tokens.lock().expect("nobody panics").insert(token) {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.answer(self.shared.insert(table, block).await)?;
        let marks = std::mem::take(&mut *self.marks.lock().expect("nobody panics"));
        for mark in marks {
            while self.shared.call(mark.clone()).await.is_err() {}
        }
        Ok(())
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        self.answer(self.shared.checkpoint(checkpoint).await)?;
        let held = std::mem::take(&mut *self.held.lock().expect("nobody panics"));
        for (table, block) in held {
            while self.shared.insert(&table, &block).await.is_err() {}
        }
        Ok(())
    }
}

/// A replica that is behind: it has of each key what it was before.
struct Behind(Shared);

#[async_trait]
impl Origin for Behind {
    async fn reread(&self, table: &Arc<Table>, keys: &[Vec<String>], meta: RowMeta) -> anyhow::Result<Reread> {
        let mut reread = self.0.reread(table, keys, meta).await?;
        let mut old = Block::new(table);
        let past = self.0.world().database.past[super::warehouse::place(table.name())].clone();
        for key in keys {
            let id: i64 = key[0].parse()?;
            let before = past.get(&id).into_iter().flatten().find(|row| row.is_storable());
            let at = old.rows();
            if let Some(row) = before {
                super::world::append(&mut old, table, row, meta)?;
                reread.found.insert(old.key(table, at), Ok(at));
            }
        }
        reread.found.retain(|_, found| matches!(found, Ok(at) if *at < old.rows()));
        reread.rows = old;
        Ok(reread)
    }
}
