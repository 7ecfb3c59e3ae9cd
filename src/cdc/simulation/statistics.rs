//! A model of whoever builds statistics: one build at a time, of any day, in two steps as a real one: first how far the sink
//! is, then the rows. A build that has seen the newest mark of its day counts as fresh.

use std::collections::BTreeMap;

use rand::RngExt as _;

use super::faults::Rng;
use super::row::{AGGREGATES, Cells, DAYS, TABLES};
use super::warehouse::Warehouse;
use crate::store::checkpoint::Checkpoint;

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// A day of a table.
pub(super) type Day = (usize, i64);

/// What was built, and what is marked.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    /// The newest mark of each day.
    marks: BTreeMap<Day, u64>,
    /// The newest mark of each whole table.
    whole: [u64; 2],
    built: BTreeMap<Day, (u64, BTreeMap<i64, Cells>)>,
    /// The day in work, and how far the sink was when it began: its term and its batch.
    pending: Option<(Day, (u64, u64))>,
    /// Builds that are finished.
    pub(super) builds: usize,
}

/// The day of a row, by the first second; `None` for rows that are of none.
pub(super) fn day_of(cells: &Cells) -> Option<i64> {
    let date = cells[3].as_deref()?.get(8..10)?.parse::<i64>().ok()?;
    Some((date - 1) * DAY_S)
}

/// The table of an aggregate.
pub(super) fn table_of(aggregate: &str) -> usize {
    AGGREGATES.iter().position(|known| known.name == aggregate).expect("an aggregate of the model")
}

impl Statistics {
    pub(super) fn mark(&mut self, table: usize, days: impl IntoIterator<Item = i64>, batch: u64) {
        for day in days {
            let mark = self.marks.entry((table, day)).or_default();
            *mark = batch.max(*mark);
        }
    }

    pub(super) fn mark_whole(&mut self, table: usize, batch: u64) {
        self.whole[table] = batch.max(self.whole[table]);
    }

    /// A day to build: one that is not fresh, as the refresher takes them, or any.
    fn draw(&self, rng: &mut Rng) -> Day {
        let is_dirty =
            |(day, _): &(&Day, &u64)| !self.built.get(day).is_some_and(|(as_of, _)| self.is_fresh(**day, *as_of));
        let dirty: Vec<Day> = self.marks.iter().filter(is_dirty).map(|(day, _)| *day).collect();
        match dirty.len() {
            0 => (rng.random_range(0..TABLES.len()), i64::from(rng.random_range(0..DAYS)) * DAY_S),
            count => dirty[rng.random_range(0..count)],
        }
    }

    /// A number that no build has reached yet which began before now.
    pub(super) fn next_number(&self, checkpoint: Option<&Checkpoint>) -> u64 {
        let marks = self.marks.values().chain(&self.whole).copied();
        let built = self.built.values().map(|(as_of, _)| *as_of);
        marks.chain(built).chain(checkpoint.map(|checkpoint| checkpoint.batch)).max().unwrap_or_default() + 1
    }

    fn is_fresh(&self, day: Day, as_of: u64) -> bool {
        as_of >= self.marks.get(&day).copied().unwrap_or_default() && as_of >= self.whole[day.0]
    }
}

/// The next step of the builder.
pub(super) fn go_on(warehouse: &mut Warehouse, rng: &mut Rng) {
    let Some(now) = warehouse.checkpoint.as_ref().map(|at| (at.term, at.batch)) else { return };
    match warehouse.statistics.pending.take() {
        None => {
            warehouse.statistics.pending = Some((warehouse.statistics.draw(rng), now));
        }
        // The sink may have gone back meanwhile.
        Some((_, (term, _))) if term != now.0 => {}
        Some((day, (_, as_of))) => {
            let rows = rows_of(warehouse, day);
            warehouse.statistics.built.insert(day, (as_of, rows));
            warehouse.statistics.builds += 1;
        }
    }
}

fn rows_of(warehouse: &Warehouse, (table, day): Day) -> BTreeMap<i64, Cells> {
    let shown = warehouse.shown(table);
    shown.into_iter().filter(|(_, cells)| day_of(cells) == Some(day)).map(|(id, cells)| (id, cells.clone())).collect()
}

/// A day that counts as fresh and is not what the mirror shows.
pub(super) fn stale(warehouse: &Warehouse) -> Option<String> {
    let statistics = &warehouse.statistics;
    let fresh = statistics.built.iter().filter(|(day, (as_of, _))| statistics.is_fresh(**day, *as_of));
    for (day, (as_of, rows)) in fresh {
        let shown = rows_of(warehouse, *day);
        if *rows != shown {
            let differs = |id: &&i64| rows.get(id) != shown.get(id);
            let key = rows.keys().chain(shown.keys()).find(differs);
            let (mark, whole) = (statistics.marks.get(day), statistics.whole[day.0]);
            return Some(format!("{day:?} built as of {as_of} (marks {mark:?}, {whole}) differs at key {key:?}"));
        }
    }
    None
}
