//! A load, as `platform load` does it, with a pause wherever others may go on. Dropping it is its crash.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;

use super::super::ports::Store;
use super::bug::Bug;
use super::database::Database;
use super::row::{AGGREGATES, Row, TABLES};
use super::step::{Work, pause};
use super::world::{Shared, append};
use crate::catalog::{Block, RowMeta};
use crate::domain::{Lsn, Version};
use crate::store::checkpoint::Checkpoint;
use crate::store::clickhouse::Error;
use crate::store::mirror::DeadLetter;

/// Rows of a block.
const BLOCK: usize = 4;

/// What a load is asked for, and what it finds.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) tables: Vec<usize>,
    /// Every table: the checkpoint may be moved.
    pub(super) all: bool,
}

/// Begins a load. `leased`: whether a sink holds the lease when it ends is asked then.
pub(super) fn begin(shared: Shared, order: Order, leased: impl Fn() -> bool + Send + 'static) -> Work<()> {
    Box::pin(async move {
        let new_slot = !shared.world().database.slot;
        if new_slot {
            make_slot(&shared).await;
        }
        let end = shared.world().topic.end();
        pause().await;
        let bug = shared.world().bug;
        let l0 = mark(&shared).await;
        if bug != Some(Bug::SnapshotWithoutTheWait) {
            let running = shared.world().database.running();
            until(&shared, |database| database.running().is_disjoint(&running)).await;
        }
        let (seen, l0) = {
            let world = shared.world();
            let late = bug == Some(Bug::LoadVersionOfTheSnapshot);
            let l0 = if late { world.database.insert_lsn() } else { l0 };
            (world.database.visible.clone(), l0)
        };
        let truncations = shared.world().database.truncations;
        pause().await;
        let tables: BTreeSet<usize> = order.tables.iter().copied().collect();
        until(&shared, |database| !tables.iter().any(|table| database.is_held(*table))).await;
        shared.world().database.shared.clone_from(&tables);
        let version = Version::of_load(1, Lsn::new(l0)).expect("small positions");
        for table in &order.tables {
            // A snapshot sees a table that was written anew since as empty.
            let anew = shared.world().database.truncations[*table] != truncations[*table];
            let rows = if anew { Vec::new() } else { seen[*table].values().cloned().collect() };
            shared.world().warehouse.loading[*table] = true;
            copy(&shared, *table, &rows, version).await;
        }
        for table in &order.tables {
            if bug != Some(Bug::LoadWithoutFloor) {
                repeated(|| shared.raise_floor(TABLES[*table].name(), version)).await;
            }
            let batch = {
                let warehouse = &shared.world().warehouse;
                warehouse.statistics.next_number(warehouse.checkpoint.as_ref())
            };
            if bug != Some(Bug::LoadMarksNothing) {
                repeated(|| shared.mark_whole(&AGGREGATES[*table].name, batch)).await;
            }
            shared.world().warehouse.loading[*table] = false;
        }
        shared.world().database.shared.clear();
        if order.all && (new_slot || !leased()) {
            move_checkpoint(&shared, end).await;
        }
    })
}

/// A slot begins when the transactions of its time have ended.
async fn make_slot(shared: &Shared) {
    let running = shared.world().database.running();
    until(shared, |database| database.running().is_disjoint(&running)).await;
    let world = &mut *shared.world();
    world.database.make_slot(true, &mut world.rng);
}

/// Reads L0 and commits the marker.
async fn mark(shared: &Shared) -> u64 {
    let l0 = {
        let world = &mut *shared.world();
        let l0 = world.database.insert_lsn();
        if world.first_load == 0 {
            world.first_load = l0;
        }
        l0
    };
    pause().await;
    let world = &mut *shared.world();
    world.database.mark(&mut world.rng);
    l0
}

async fn until(shared: &Shared, condition: impl Fn(&Database) -> bool) {
    poll_fn(|_| if condition(&shared.world().database) { Poll::Ready(()) } else { Poll::Pending }).await;
}

async fn copy(shared: &Shared, table: usize, rows: &[Row], version: Version) {
    let shape = &TABLES[table];
    let meta = RowMeta { version, deleted: false, committed_at: 0, synced_at: 0 };
    for (number, rows) in rows.chunks(BLOCK).enumerate() {
        let mut block = Block::new(shape);
        let mut letters = Vec::new();
        for row in rows {
            if let Err(error) = append(&mut block, shape, row, meta) {
                letters.push(DeadLetter {
                    id: format!("load/{table}/{}/{number}/{}", version.get(), letters.len()),
                    table: shape.name().mirror_name(),
                    key: String::new(),
                    version,
                    reason: "not-representable",
                    detail: error.to_string(),
                    message: String::new(),
                });
            }
        }
        if !letters.is_empty() {
            repeated(|| shared.park(&letters)).await;
        }
        if block.rows() > 0 {
            repeated(|| shared.insert(shape, &block)).await;
        }
    }
}

async fn move_checkpoint(shared: &Shared, end: i64) {
    let latest = shared.world().warehouse.checkpoint.clone();
    let place = |offset: i64| u64::try_from(offset).expect("no negative offset");
    let (term, batch) = latest
        .map_or((1, place(end)), |latest| (latest.term + 2, latest.batch + place((end - latest.next_offset).max(0))));
    let checkpoint = at(term, batch, end);
    repeated(|| shared.checkpoint(&checkpoint)).await;
}

/// A checkpoint that nothing is known of but its place.
pub(super) fn at(term: u64, batch: u64, next_offset: i64) -> Checkpoint {
    Checkpoint {
        term,
        batch,
        log: 1,
        topic: String::new(),
        next_offset,
        watermark: Lsn::ZERO,
        record_hash: String::new(),
        heartbeat: -1,
        committed_at: chrono::DateTime::UNIX_EPOCH,
    }
}

async fn repeated<F, Fut>(call: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    while call().await.is_err() {}
}
