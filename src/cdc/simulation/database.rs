//! A model of PostgreSQL: tables, transactions with locks, positions, and the order in which they commit.
//!
//! A transaction commits in two steps, as in PostgreSQL: first its record is in the log, later others see it. A load that
//! opens its snapshot in between must have waited.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;

use super::faults::{Faults, Rng, happens};
use super::row::{Cells, DAYS, Moment, Row, TABLES};

/// Keys of each table.
const KEYS: i64 = 8;

/// A change as the log has it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) lsn: u64,
    pub(super) kind: Kind,
}

/// What changed.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Table, the row before, the row after, whether the large value was written.
    Upsert(usize, Option<Row>, Row, bool),
    /// Table and the row before.
    Delete(usize, Row),
    Truncate(usize),
    Beat(i64),
    Marker,
}

/// A transaction in the log.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) xid: u64,
    /// End of the commit before; `None` right after the slot was made.
    pub(super) last_commit: Option<u64>,
    pub(super) changes: Vec<Change>,
}

#[derive(Debug, Default)]
struct Transaction {
    xid: u64,
    changes: Vec<Change>,
    own: BTreeMap<(usize, i64), Option<Row>>,
    truncated: BTreeSet<usize>,
    touched: BTreeSet<usize>,
    logged: bool,
}

/// The database.
#[derive(Debug, Default)]
pub(super) struct Database {
    /// What a new snapshot sees.
    pub(super) visible: [BTreeMap<i64, Row>; 2],
    /// Every state that a key ever had.
    pub(super) past: [BTreeMap<i64, Vec<Row>>; 2],
    /// How often a table was written anew.
    pub(super) truncations: [u64; 2],
    /// Transactions of the slot, in the order of their commits.
    pub(super) log: Vec<Logged>,
    /// Whether there is a slot that keeps them.
    pub(super) slot: bool,
    /// Tables that a load has locked against TRUNCATE.
    pub(super) shared: BTreeSet<usize>,
    open: Vec<Transaction>,
    lsn: u64,
    last_commit: Option<u64>,
    beats: i64,
    next: u64,
}

impl Database {
    /// The position where the next record begins.
    pub(super) fn insert_lsn(&self) -> u64 {
        self.lsn
    }

    /// Transactions whose changes a new snapshot does not see yet.
    pub(super) fn running(&self) -> BTreeSet<u64> {
        self.open.iter().map(|transaction| transaction.xid).collect()
    }

    /// Whether a key ever had these values.
    pub(super) fn was(&self, table: usize, id: i64, cells: &Cells) -> bool {
        self.past[table].get(&id).into_iter().flatten().any(|row| row.cells() == *cells)
    }

    /// Whether a transaction holds `table` alone.
    pub(super) fn is_held(&self, table: usize) -> bool {
        self.open.iter().any(|transaction| transaction.truncated.contains(&table))
    }

    /// One step of the applications.
    pub(super) fn step(&mut self, rng: &mut Rng, faults: &Faults) {
        match rng.random_range(0..10) {
            0 | 1 if self.open.len() < 4 => {
                self.next += 1;
                self.open.push(Transaction { xid: self.next, ..Transaction::default() });
            }
            2 | 3 => self.end_one(rng),
            _ if self.open.is_empty() => {}
            _ => {
                let at = rng.random_range(0..self.open.len());
                if !self.open[at].logged {
                    self.change(at, rng, faults);
                }
            }
        }
    }

    fn end_one(&mut self, rng: &mut Rng) {
        if self.open.is_empty() {
            return;
        }
        let at = rng.random_range(0..self.open.len());
        if self.open[at].logged {
            self.show(at);
        } else if happens(rng, 120) {
            // Rolled back.
            self.open.remove(at);
        } else {
            self.write_commit(at, rng);
            if happens(rng, 700) {
                self.show(at);
            }
        }
    }

    /// Ends every transaction.
    pub(super) fn finish(&mut self, rng: &mut Rng) {
        while !self.open.is_empty() {
            if !self.open[0].logged {
                self.write_commit(0, rng);
            }
            self.show(0);
        }
    }

    /// The heartbeat's counter goes up.
    pub(super) fn beat(&mut self, rng: &mut Rng) {
        self.beats += 1;
        self.alone(Kind::Beat(self.beats), rng);
    }

    /// The marker of a load.
    pub(super) fn mark(&mut self, rng: &mut Rng) {
        self.alone(Kind::Marker, rng);
    }

    /// The slot is lost: what commits from now on is in no log, the heartbeat among it.
    pub(super) fn lose_slot(&mut self, rng: &mut Rng) {
        self.slot = false;
        self.beat(rng);
    }

    /// The log goes on, with the heartbeat first. `anew`: without knowledge of the commit before.
    pub(super) fn make_slot(&mut self, anew: bool, rng: &mut Rng) {
        self.slot = true;
        if anew {
            self.last_commit = None;
        }
        self.beat(rng);
    }

    fn alone(&mut self, kind: Kind, rng: &mut Rng) {
        self.next += 1;
        let lsn = self.record(rng);
        let changes = vec![Change { lsn, kind }];
        self.open.push(Transaction { xid: self.next, changes, ..Transaction::default() });
        let at = self.open.len() - 1;
        self.write_commit(at, rng);
        self.show(at);
    }

    fn record(&mut self, rng: &mut Rng) -> u64 {
        let begin = self.lsn;
        self.lsn += rng.random_range(8..100);
        begin
    }

    fn write_commit(&mut self, at: usize, rng: &mut Rng) {
        self.record(rng);
        let end = self.lsn;
        let transaction = &mut self.open[at];
        transaction.logged = true;
        if self.slot && !transaction.changes.is_empty() {
            let (xid, changes) = (transaction.xid, transaction.changes.clone());
            self.log.push(Logged { xid, last_commit: self.last_commit.replace(end), changes });
        }
    }

    fn show(&mut self, at: usize) {
        let transaction = self.open.remove(at);
        for table in transaction.truncated {
            self.visible[table].clear();
            self.truncations[table] += 1;
        }
        for ((table, id), row) in transaction.own {
            match row {
                Some(row) => drop(self.visible[table].insert(id, row)),
                None => drop(self.visible[table].remove(&id)),
            }
        }
    }

    fn seen(&self, at: usize, table: usize, id: i64) -> Option<Row> {
        let transaction = &self.open[at];
        match transaction.own.get(&(table, id)) {
            Some(row) => row.clone(),
            None if transaction.truncated.contains(&table) => None,
            None => self.visible[table].get(&id).cloned(),
        }
    }

    fn is_free(&self, at: usize, table: usize, id: i64) -> bool {
        let mut others = self.open.iter().enumerate().filter(|(other, _)| *other != at);
        others.all(|(_, other)| !other.own.contains_key(&(table, id)) && !other.truncated.contains(&table))
    }

    fn change(&mut self, at: usize, rng: &mut Rng, faults: &Faults) {
        let table = rng.random_range(0..TABLES.len());
        if happens(rng, faults.truncates) {
            return self.truncate(at, table, rng);
        }
        let id = rng.random_range(0..KEYS);
        if !self.is_free(at, table, id) {
            return;
        }
        let lsn = self.record(rng);
        match self.seen(at, table, id) {
            None => self.insert(at, table, id, lsn, rng, faults),
            Some(before) if rng.random_ratio(1, 5) => self.put(at, lsn, Kind::Delete(table, before)),
            Some(before) => self.update(at, table, before, lsn, rng, faults),
        }
    }

    fn truncate(&mut self, at: usize, table: usize, rng: &mut Rng) {
        let mut others = self.open.iter().enumerate().filter(|(other, _)| *other != at);
        if others.any(|(_, other)| other.touched.contains(&table)) || self.shared.contains(&table) {
            return;
        }
        let lsn = self.record(rng);
        let transaction = &mut self.open[at];
        transaction.own.retain(|(other, _), _| *other != table);
        transaction.truncated.insert(table);
        transaction.touched.insert(table);
        transaction.changes.push(Change { lsn, kind: Kind::Truncate(table) });
    }

    /// One row, or several that share a position as those of a COPY do.
    fn insert(&mut self, at: usize, table: usize, id: i64, lsn: u64, rng: &mut Rng, faults: &Faults) {
        let last = if rng.random_ratio(1, 4) { id + 2 } else { id };
        for id in id..=last.min(KEYS - 1) {
            if self.is_free(at, table, id) && self.seen(at, table, id).is_none() {
                let row = Row { id, note: None, big: None, n: None, at: Moment::Null };
                let row = self.altered(row, true, true, rng, faults);
                self.put(at, lsn, Kind::Upsert(table, None, row, true));
            }
        }
    }

    fn update(&mut self, at: usize, table: usize, before: Row, lsn: u64, rng: &mut Rng, faults: &Faults) {
        let large = rng.random_ratio(1, 4);
        let small = !large || rng.random_ratio(1, 2);
        let after = self.altered(before.clone(), large, small, rng, faults);
        let id = rng.random_range(0..KEYS);
        let moves = rng.random_ratio(1, 6) && self.is_free(at, table, id) && self.seen(at, table, id).is_none();
        if moves {
            // A key change: the old key goes, the new one comes, at one position.
            self.put(at, lsn, Kind::Delete(table, before));
            self.put(at, lsn, Kind::Upsert(table, None, Row { id, ..after }, large));
        } else {
            self.put(at, lsn, Kind::Upsert(table, Some(before), after, large));
        }
    }

    fn altered(&mut self, row: Row, large: bool, small: bool, rng: &mut Rng, faults: &Faults) -> Row {
        self.next += 1;
        let unique = self.next;
        let mut row = row;
        if large {
            let letter = if rng.random_ratio(3, 4) { 'B' } else { 's' };
            row.big = rng.random_ratio(5, 6).then(|| format!("{letter}{unique}"));
        }
        if small {
            row.note = rng.random_ratio(2, 3).then(|| format!("n{unique}"));
            row.n = rng.random_ratio(2, 3).then(|| rng.random_range(-3..1000));
            row.at = if rng.random_ratio(2, 3) { Moment::Day(rng.random_range(0..DAYS)) } else { Moment::Null };
            if happens(rng, faults.infinities) {
                row.at = Moment::Infinity;
            }
        }
        row
    }

    fn put(&mut self, at: usize, lsn: u64, kind: Kind) {
        let transaction = &mut self.open[at];
        match &kind {
            Kind::Upsert(table, _, row, _) => {
                self.past[*table].entry(row.id).or_default().push(row.clone());
                transaction.own.insert((*table, row.id), Some(row.clone()));
                transaction.touched.insert(*table);
            }
            Kind::Delete(table, row) => {
                transaction.own.insert((*table, row.id), None);
                transaction.touched.insert(*table);
            }
            Kind::Truncate(_) | Kind::Beat(_) | Kind::Marker => {}
        }
        transaction.changes.push(Change { lsn, kind });
    }
}
