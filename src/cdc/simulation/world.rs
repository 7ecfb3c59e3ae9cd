//! Everything outside of the sink, and the sink's ports on it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt as _;

use super::super::ports::{Clock, Origin, Reread, Store};
use super::bug::Bug;
use super::database::Database;
use super::faults::{Faults, Rng, happens};
use super::row::{PLACEHOLDER, Row, TABLES};
use super::statistics::table_of;
use super::step::pause;
use super::topic::Topic;
use super::warehouse::{Effect, Stored, Warehouse, place, rows_of};
use crate::catalog::{Block, Placeholder, RowError, RowMeta, Table};
use crate::domain::{TableName, Version};
use crate::store::checkpoint::Checkpoint;
use crate::store::clickhouse::Error;
use crate::store::dirty_buckets::Marks;
use crate::store::mirror::DeadLetter;

/// PostgreSQL, the topic, ClickHouse, and chance.
#[derive(Debug)]
pub(super) struct World {
    pub(super) database: Database,
    pub(super) topic: Topic,
    pub(super) warehouse: Warehouse,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    pub(super) bug: Option<Bug>,
    /// L0 of the first load.
    pub(super) first_load: u64,
    /// The first thing that was wrong.
    pub(super) wrong: Option<String>,
}

/// The world, shared by all who act in it.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// Never across a pause.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("nobody panics")
    }

    /// A call of the store: at each of its ends others may go on, or the caller may crash.
    pub(super) async fn call(&self, effect: Effect) -> Result<(), Error> {
        pause().await;
        let answer = self.world().answer(effect);
        pause().await;
        answer
    }
}

impl World {
    fn answer(&mut self, effect: Effect) -> Result<(), Error> {
        let unknown = || Error::TimedOut(Duration::from_secs(60));
        if happens(&mut self.rng, self.faults.refused) {
            return Err(Error::Server { code: 252, text: "too many parts".into() });
        }
        if happens(&mut self.rng, self.faults.late) {
            self.warehouse.late.push(effect);
            return Err(unknown());
        }
        if happens(&mut self.rng, self.faults.partial) {
            let part = self.part(effect);
            self.apply(part);
            return Err(Error::Network("connection reset".into()));
        }
        self.apply(effect);
        if happens(&mut self.rng, self.faults.lost_replies) { Err(unknown()) } else { Ok(()) }
    }

    fn part(&mut self, effect: Effect) -> Effect {
        match effect {
            Effect::Insert(table, mut rows) => {
                rows.truncate(self.rng.random_range(0..=rows.len()));
                Effect::Insert(table, rows)
            }
            Effect::Park(mut letters) => {
                letters.truncate(self.rng.random_range(0..=letters.len()));
                Effect::Park(letters)
            }
            whole => whole,
        }
    }

    /// A request that nobody waits for arrives after all.
    pub(super) fn arrive_late(&mut self) {
        if !self.warehouse.late.is_empty() {
            let at = self.rng.random_range(0..self.warehouse.late.len());
            let effect = self.warehouse.late.swap_remove(at);
            self.apply(effect);
        }
    }

    /// Makes an effect durable. No key ever shows what it never was.
    fn apply(&mut self, effect: Effect) {
        self.check(&effect);
        let table = if let Effect::Insert(table, _) = &effect { Some(*table) } else { None };
        self.warehouse.apply(effect);
        let Some(table) = table.filter(|_| !self.bug.is_some_and(Bug::is_seen_at_the_end_only)) else { return };
        let shown = self.warehouse.shown(table);
        let made_up = shown.iter().find(|(id, cells)| !self.database.was(table, **id, cells));
        if let Some(made_up) = made_up.map(|row| format!("{row:?} of table {table} is shown and never was")) {
            self.wrong(made_up);
        }
    }

    /// A checkpoint is never ahead of what is durable.
    fn check(&mut self, effect: &Effect) {
        let Effect::Checkpoint(checkpoint) = effect else { return };
        if self.bug.is_some_and(Bug::is_seen_at_the_end_only) {
            return;
        }
        if let Some(offset) = self.warehouse.not_durable(&self.topic, checkpoint.next_offset) {
            self.wrong(format!("the checkpoint is at {}, offset {offset} is not durable", checkpoint.next_offset));
        }
    }

    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}

/// What a call of `Store::mark` does.
pub(super) fn mark(table: &Table, marks: &Marks<'_>, (block, rows): (&Block, &[usize]), batch: u64) -> Effect {
    let ids = rows.iter().map(|row| block.key_texts(table, *row).expect("a key")[0].parse().expect("an integer"));
    let [aggregate] = marks.aggregates else { panic!("a table of the model has one aggregate") };
    Effect::Mark(table_of(aggregate), marks.buckets.iter().copied().collect(), ids.collect(), batch)
}

#[async_trait]
impl Store for Shared {
    async fn raise_floor(&self, table: &TableName, floor: Version) -> Result<(), Error> {
        self.call(Effect::Floor(place(table), floor)).await
    }

    async fn park(&self, letters: &[DeadLetter]) -> Result<(), Error> {
        self.call(Effect::Park(letters.to_vec())).await
    }

    async fn mark_whole(&self, aggregate: &str, batch: u64) -> Result<(), Error> {
        self.call(Effect::MarkWhole(table_of(aggregate), batch)).await
    }

    async fn mark(&self, table: &Table, marks: &Marks<'_>, rows: (&Block, &[usize]), batch: u64) -> Result<(), Error> {
        self.call(mark(table, marks, rows, batch)).await
    }

    async fn tables_with_parked_rows(&self) -> Result<BTreeSet<String>, Error> {
        let world = self.world();
        let tables = world.warehouse.letters.values().map(|(table, _)| TABLES[*table].name().mirror_name());
        Ok(tables.collect())
    }

    async fn insert(&self, table: &Table, block: &Block) -> Result<(), Error> {
        let rows: Vec<(i64, Stored)> = rows_of(table, block);
        self.call(Effect::Insert(place(table.name()), rows)).await
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        self.call(Effect::Checkpoint(checkpoint.clone())).await
    }
}

#[async_trait]
impl Origin for Shared {
    async fn reread(&self, table: &Arc<Table>, keys: &[Vec<String>], meta: RowMeta) -> anyhow::Result<Reread> {
        pause().await;
        let refused = {
            let world = &mut *self.world();
            happens(&mut world.rng, world.faults.refused)
        };
        anyhow::ensure!(!refused, "PostgreSQL does not answer");
        let reread = {
            let world = self.world();
            read(&world.database, table, keys, meta)
        };
        pause().await;
        Ok(reread)
    }
}

fn read(database: &Database, table: &Table, keys: &[Vec<String>], meta: RowMeta) -> Reread {
    let mut reread = Reread { rows: Block::new(table), found: HashMap::new() };
    for key in keys {
        let id: i64 = key[0].parse().expect("an integer");
        let Some(row) = database.visible[place(table.name())].get(&id) else { continue };
        let at = reread.rows.rows();
        match append(&mut reread.rows, table, row, meta) {
            Ok(()) => drop(reread.found.insert(reread.rows.key(table, at), Ok(at))),
            Err(error) => {
                let key = key_of(table, row, meta);
                reread.found.insert(key, Err(error));
            }
        }
    }
    reread
}

/// Appends a row as PostgreSQL has it.
pub(super) fn append(block: &mut Block, table: &Table, row: &Row, meta: RowMeta) -> Result<(), RowError> {
    let json = serde_json::value::to_raw_value(&row.json(false)).expect("JSON");
    block.push_json(table, &json, &Placeholder::new(PLACEHOLDER), meta).map(drop)
}

fn key_of(table: &Table, row: &Row, meta: RowMeta) -> Vec<u8> {
    let mut block = Block::new(table);
    let json = serde_json::value::to_raw_value(&row.json(false)).expect("JSON");
    block.push_tombstone(table, &json, &Placeholder::new(PLACEHOLDER), meta).expect("a key");
    block.key(table, 0)
}

#[async_trait]
impl Clock for Shared {
    async fn sleep(&self, _: Duration) {
        pause().await;
    }
}

/// The floors, as a sink reads them.
pub(super) fn floors(world: &World) -> [(Arc<Table>, Version); 2] {
    let floor = |at: usize| (Arc::clone(&TABLES[at]), world.warehouse.floors[at]);
    [floor(0), floor(1)]
}
