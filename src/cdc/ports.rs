//! What the writer asks of the outside. The real stores answer in `adapters`; tests answer with models.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::catalog::{Block, RowError, RowMeta, Table};
use crate::domain::{TableName, Version};
use crate::store::checkpoint::Checkpoint;
use crate::store::clickhouse;
use crate::store::dirty_buckets::Marks;
use crate::store::mirror::DeadLetter;

/// Where rows, floors, parked rows and checkpoints go. Every call may be repeated.
#[async_trait]
pub(super) trait Store: Send + Sync {
    /// Raises a table's floor.
    async fn raise_floor(&self, table: &TableName, floor: Version) -> Result<(), clickhouse::Error>;
    /// Parks rows.
    async fn park(&self, letters: &[DeadLetter]) -> Result<(), clickhouse::Error>;
    /// Marks every bucket of an aggregate: the batch with this number changes them.
    async fn mark_whole(&self, aggregate: &str, batch: u64) -> Result<(), clickhouse::Error>;
    /// Marks buckets of an aggregate, and those of every stored version of the rows of the block that stand at these places.
    async fn mark(
        &self,
        table: &Table,
        marks: &Marks<'_>,
        rows: (&Block, &[usize]),
        batch: u64,
    ) -> Result<(), clickhouse::Error>;
    /// The tables, by their mirrors' names, that have parked rows.
    async fn tables_with_parked_rows(&self) -> Result<BTreeSet<String>, clickhouse::Error>;
    /// Inserts the rows of one table.
    async fn insert(&self, table: &Table, block: &Block) -> Result<(), clickhouse::Error>;
    /// Remembers where the log stands: after everything before it is durable.
    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), clickhouse::Error>;
}

/// Rows that were read again.
#[derive(Debug)]
pub(super) struct Reread {
    /// The rows, under no version of their own.
    pub(super) rows: Block,
    /// By key (`Block::key`): the place in `rows`, or why the row cannot be stored.
    pub(super) found: HashMap<Vec<u8>, Result<usize, RowError>>,
}

impl Reread {
    /// Nothing was read yet.
    pub(super) fn new(table: &Table) -> Self {
        Self { rows: Block::new(table), found: HashMap::new() }
    }
}

/// PostgreSQL, where what an event lacks is read again.
#[async_trait]
pub(super) trait Origin: Send + Sync {
    /// Waits until everybody sees what these transactions have written: an event may come before its own commit is visible.
    async fn until_visible(&self, _transactions: &BTreeSet<u32>) -> anyhow::Result<()> {
        Ok(())
    }
    /// The rows with these keys (texts, column by column), as they are now, once they are flushed.
    async fn reread(&self, table: &Arc<Table>, keys: &[Vec<String>], meta: RowMeta) -> anyhow::Result<Reread>;
}

/// The time that passes between two attempts.
#[async_trait]
pub(super) trait Clock: Send + Sync {
    /// Ends when `wait` has passed.
    async fn sleep(&self, wait: Duration);
}
