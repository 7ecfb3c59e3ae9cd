//! A model of ClickHouse: of each key the row with the highest version, floors, parked rows, checkpoints; effects that
//! come late or in part.

use std::collections::BTreeMap;

use super::row::{Cells, TABLES};
use super::statistics::{Statistics, day_of};
use super::topic::Topic;
use crate::catalog::{Block, Table};
use crate::domain::{TableName, Version};
use crate::store::checkpoint::Checkpoint;
use crate::store::mirror::DeadLetter;

/// A row as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) version: Version,
    pub(super) deleted: bool,
    pub(super) cells: Cells,
}

/// What a call does.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Insert(usize, Vec<(i64, Stored)>),
    Floor(usize, Version),
    Park(Vec<DeadLetter>),
    Checkpoint(Checkpoint),
    /// Days of a table, and those where these keys are.
    Mark(usize, Vec<i64>, Vec<i64>, u64),
    MarkWhole(usize, u64),
}

/// The store.
#[derive(Debug, Default)]
pub(super) struct Warehouse {
    pub(super) rows: [BTreeMap<i64, Stored>; 2],
    pub(super) floors: [Version; 2],
    /// By their identity: table and version.
    pub(super) letters: BTreeMap<String, (usize, Version)>,
    /// The highest one.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Requests that are still on their way although nobody waits for them.
    pub(super) late: Vec<Effect>,
    pub(super) statistics: Statistics,
    /// Tables that a load has begun to fill, and not finished: nobody reads them.
    pub(super) loading: [bool; 2],
    /// Planted: the row that comes last stays.
    pub(super) by_arrival: bool,
    /// Records up to here are known to be in the mirror.
    durable: usize,
}

/// Where a table stands in the model.
pub(super) fn place(name: &TableName) -> usize {
    TABLES.iter().position(|table| table.name() == name).expect("a table of the model")
}

/// The rows of a block.
pub(super) fn rows_of(table: &Table, block: &Block) -> Vec<(i64, Stored)> {
    let row = |row: usize| {
        let (version, deleted) = block.version_of(row).expect("a row");
        let id = block.key_texts(table, row).expect("a key")[0].parse().expect("an integer");
        let cells = ["note", "big", "n", "at"].map(|column| block.cell(table, row, column));
        (id, Stored { version, deleted, cells })
    };
    (0..block.rows()).map(row).collect()
}

impl Warehouse {
    /// Makes an effect durable.
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Insert(table, rows) => {
                for (id, row) in rows {
                    let there = self.rows[table].get(&id);
                    // Of equal versions the later one stays, as in a ReplacingMergeTree.
                    if self.by_arrival || there.is_none_or(|there| there.version <= row.version) {
                        self.rows[table].insert(id, row);
                    }
                }
            }
            Effect::Floor(table, floor) => self.floors[table] = self.floors[table].max(floor),
            Effect::Park(letters) => {
                let named = letters.into_iter().map(|letter| {
                    let table = TABLES.iter().position(|table| table.name().mirror_name() == letter.table);
                    (letter.id, (table.expect("a table of the model"), letter.version))
                });
                self.letters.extend(named);
            }
            Effect::Mark(table, days, ids, batch) => {
                let stored = ids.iter().filter_map(|id| day_of(&self.rows[table].get(id)?.cells));
                let days: Vec<i64> = days.into_iter().chain(stored).collect();
                self.statistics.mark(table, days, batch);
            }
            Effect::MarkWhole(table, batch) => self.statistics.mark_whole(table, batch),
            Effect::Checkpoint(checkpoint) => {
                let position = |checkpoint: &Checkpoint| (checkpoint.term, checkpoint.batch);
                if self.checkpoint.as_ref().is_none_or(|there| position(there) <= position(&checkpoint)) {
                    self.checkpoint = Some(checkpoint);
                }
            }
        }
    }

    /// What the view shows.
    pub(super) fn shown(&self, table: usize) -> BTreeMap<i64, &Cells> {
        let is_shown = |row: &Stored| !row.deleted && row.version >= self.floors[table];
        self.rows[table].iter().filter(|(_, row)| is_shown(row)).map(|(id, row)| (*id, &row.cells)).collect()
    }

    /// The first record below `next_offset` whose effect is not durable.
    pub(super) fn not_durable(&mut self, topic: &Topic, next_offset: i64) -> Option<usize> {
        let end = usize::try_from(next_offset).expect("no negative offset");
        while self.durable < end {
            if let Some((table, id, version)) = topic.effects[self.durable] {
                let version = Version::from_raw(version);
                let parked = || self.letters.values().any(|letter| *letter == (table, version));
                let row = |id: i64| self.rows[table].get(&id).is_some_and(|row| row.version >= version);
                if version > self.floors[table] && !id.is_some_and(row) && !parked() {
                    return Some(self.durable);
                }
            }
            self.durable += 1;
        }
        None
    }
}
