//! What is written at once: rows by table, floors, parked rows, and where the log stands afterwards. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::buckets::Left;
use crate::catalog::{Block, RowMeta, Table};
use crate::domain::{Lsn, TableName, Version};
use crate::store::kafka::Record;
use crate::store::mirror::DeadLetter;

/// Changes of one table.
#[derive(Debug)]
pub(super) struct TableBatch {
    pub(super) table: Arc<Table>,
    pub(super) block: Block,
    /// Rows that lack values, as far as their events have them; `deferred` says what each lacks, in the order of the log.
    pub(super) incomplete: Block,
    pub(super) deferred: Vec<Deferred>,
    /// Where the newest row of each key stands; kept only for tables whose events may lack values.
    pub(super) newest: HashMap<Vec<u8>, Newest>,
    /// What the events say of the buckets that rows leave; noted only for tables with aggregates.
    pub(super) left: Left,
    /// Rows of the block below this are in `newest`; the others are looked at when a row lacks values.
    indexed: usize,
}

impl TableBatch {
    fn new(table: &Arc<Table>) -> Self {
        Self {
            table: Arc::clone(table),
            block: Block::new(table),
            incomplete: Block::new(table),
            deferred: Vec::new(),
            newest: HashMap::new(),
            left: Left::default(),
            indexed: 0,
        }
    }

    /// Brings `newest` up to the block's end: most batches never need it.
    pub(super) fn index(&mut self) {
        for row in std::mem::replace(&mut self.indexed, self.block.rows())..self.block.rows() {
            let key = self.block.key(&self.table, row);
            if self.block.version_of(row).is_some_and(|(_, deleted)| deleted) {
                self.newest.remove(&key);
            } else {
                self.newest.insert(key, Newest::Row(row));
            }
        }
    }

    /// Forgets where the newest rows stand: what follows takes no values from them.
    pub(super) fn forget_newest(&mut self) {
        self.newest.clear();
        self.indexed = self.block.rows();
    }
}

/// Where a key's newest row in the batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newest {
    /// Row of the block.
    Row(usize),
    /// Position in `deferred`.
    Deferred(usize),
}

/// A row that lacks values.
#[derive(Debug)]
pub(super) struct Deferred {
    /// Its place in `TableBatch::incomplete`.
    pub(super) row: usize,
    pub(super) missing: Vec<usize>,
    pub(super) meta: RowMeta,
    /// The key's row before, in the same batch.
    pub(super) before: Option<Newest>,
    /// The event, for a row that must be parked after all. It shares the memory that came with it.
    pub(super) record: Record,
}

/// Everything between two checkpoints.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) tables: BTreeMap<TableName, TableBatch>,
    pub(super) floors: Vec<(TableName, Version)>,
    pub(super) letters: Vec<DeadLetter>,
    /// Rows that lack values, of all tables.
    pub(super) incomplete: usize,
    /// Messages taken in, rows or not.
    pub(super) events: u64,
    /// Bytes of their values.
    pub(super) bytes: usize,
    pub(super) next_offset: i64,
    pub(super) watermark: Lsn,
    pub(super) heartbeat: i64,
    /// Commit time of the newest event, microseconds since 1970.
    pub(super) committed_at: i64,
    /// SHA-256 of the last record, hexadecimal; set when the batch is sent.
    pub(super) record_hash: String,
    /// Whether something must be written: a row, a floor, a parked row, or progress of the watermark.
    pub(super) progress: bool,
}

impl Batch {
    /// An empty batch that follows `previous`.
    pub(super) fn after(previous: &Self) -> Self {
        let hash = previous.record_hash.clone();
        Self::at(previous.next_offset, previous.watermark, previous.heartbeat, previous.committed_at, hash)
    }

    /// An empty batch at the beginning.
    pub(super) fn at(next_offset: i64, watermark: Lsn, heartbeat: i64, committed_at: i64, record_hash: String) -> Self {
        Self {
            tables: BTreeMap::new(),
            floors: Vec::new(),
            letters: Vec::new(),
            incomplete: 0,
            events: 0,
            bytes: 0,
            next_offset,
            watermark,
            heartbeat,
            committed_at,
            record_hash,
            progress: false,
        }
    }

    /// Changes of `table`.
    pub(super) fn table(&mut self, table: &Arc<Table>) -> &mut TableBatch {
        // The name is copied only when the table is new in this batch.
        if !self.tables.contains_key(table.name()) {
            self.tables.insert(table.name().clone(), TableBatch::new(table));
        }
        self.tables.entry(table.name().clone()).or_insert_with(|| TableBatch::new(table))
    }

    /// Rows to be written.
    pub(super) fn rows(&self) -> usize {
        self.tables.values().map(|table| table.block.rows() + table.deferred.len()).sum()
    }

    /// Moves past `record`.
    pub(super) fn advance(&mut self, record: &Record) {
        self.events += 1;
        self.bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
        self.next_offset = record.offset.saturating_add(1);
    }

    /// Takes the watermark of a streamed event; it never falls.
    pub(super) fn raise(&mut self, watermark: Lsn) {
        if watermark > self.watermark {
            self.watermark = watermark;
            self.progress = true;
        }
    }
}

/// Identifies a record: what a checkpoint remembers of the last one.
pub(super) fn record_hash(record: &Record) -> String {
    let mut hash = Sha256::new();
    for part in [&record.key, &record.value] {
        let bytes = part.as_deref().unwrap_or_default();
        hash.update(bytes.len().to_le_bytes());
        hash.update(bytes);
    }
    hex::encode(hash.finalize())
}
