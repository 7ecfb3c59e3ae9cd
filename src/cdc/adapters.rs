//! The writer's ports on the real ClickHouse and PostgreSQL.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_postgres::Client;

use super::ports::{Clock, Origin, Reread, Store};
use crate::catalog::{Block, RowMeta, Table, mirror_columns};
use crate::config;
use crate::domain::{TableName, Version};
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::clickhouse::{ClickHouse, Error};
use crate::store::dirty_buckets::{self, Marks};
use crate::store::mirror::{self, DeadLetter};
use crate::store::{postgres, replication, rows_by_key};

/// How long rows that were read again wait until what they show is flushed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// ClickHouse.
#[derive(Debug)]
pub(super) struct ClickHouseStore {
    pub(super) clickhouse: ClickHouse,
    pub(super) pipeline: String,
    /// Position of the checkpoint that ClickHouse has acknowledged last: it must still be there.
    pub(super) acknowledged: Mutex<u128>,
    /// Rung behind every mark.
    pub(super) marked: Arc<Notify>,
}

#[async_trait]
impl Store for ClickHouseStore {
    async fn raise_floor(&self, table: &TableName, floor: Version) -> Result<(), Error> {
        mirror::raise_floor(&self.clickhouse, table, floor, "truncate").await
    }

    async fn park(&self, letters: &[DeadLetter]) -> Result<(), Error> {
        mirror::store_dead_letters(&self.clickhouse, &self.pipeline, letters).await
    }

    async fn mark_whole(&self, aggregate: &str, batch: u64) -> Result<(), Error> {
        dirty_buckets::mark_whole(&self.clickhouse, aggregate, batch).await?;
        self.marked.notify_one();
        Ok(())
    }

    async fn mark(&self, table: &Table, marks: &Marks<'_>, rows: (&Block, &[usize]), batch: u64) -> Result<(), Error> {
        dirty_buckets::mark(&self.clickhouse, table, marks, rows, batch).await?;
        self.marked.notify_one();
        Ok(())
    }

    async fn tables_with_parked_rows(&self) -> Result<BTreeSet<String>, Error> {
        dirty_buckets::tables_with_parked_rows(&self.clickhouse, &self.pipeline).await
    }

    async fn insert(&self, table: &Table, block: &Block) -> Result<(), Error> {
        let target = table.name().quoted_clickhouse("mirror");
        let buffers = self.clickhouse.buffers();
        let mut native = buffers.take();
        native.clear();
        block.write_native(table, &mut native);
        let length = native.len();
        let native = buffers.freeze(native, length);
        // A repeated batch must never be swallowed: equal blocks may be different moments.
        // Merges index the times of a part: a small one is read as fast without, and its insert would take a quarter longer.
        let settings = [("insert_deduplicate", "0"), ("materialize_skip_indexes_on_insert", "0")];
        self.clickhouse.insert_native(&target, &mirror_columns(table), native, &settings).await
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let previous = *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint::store_after(&self.clickhouse, &self.pipeline, checkpoint, previous).await?;
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint.position();
        Ok(())
    }
}

/// The runtime's clock.
#[derive(Debug)]
pub(super) struct RuntimeClock;

#[async_trait]
impl Clock for RuntimeClock {
    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }
}

/// PostgreSQL, over one connection that is opened when it is needed.
#[derive(Debug)]
pub(super) struct PostgresOrigin {
    pub(super) settings: config::Postgres,
    pub(super) client: tokio::sync::Mutex<Option<Client>>,
}

impl PostgresOrigin {
    async fn open(&self, held: Option<Client>) -> anyhow::Result<Client> {
        match held {
            Some(client) if !client.is_closed() => Ok(client),
            _ => postgres::connect(&self.settings, "platform sink").await,
        }
    }
}

#[async_trait]
impl Origin for PostgresOrigin {
    async fn until_visible(&self, transactions: &BTreeSet<u32>) -> anyhow::Result<()> {
        let mut held = self.client.lock().await;
        let client = self.open(held.take()).await?;
        replication::until_visible(&client, transactions).await?;
        *held = Some(client);
        Ok(())
    }

    async fn reread(&self, table: &Arc<Table>, keys: &[Vec<String>], meta: RowMeta) -> anyhow::Result<Reread> {
        let mut held = self.client.lock().await;
        let client = self.open(held.take()).await?;
        let rows = read(&client, table, keys, meta).await?;
        *held = Some(client);
        Ok(rows)
    }
}

async fn read(client: &Client, table: &Table, keys: &[Vec<String>], meta: RowMeta) -> anyhow::Result<Reread> {
    let rows = rows_by_key::read(client, table, keys).await?;
    wait_for_flush(client).await?;
    let mut reread = Reread::new(table);
    for row in &rows {
        let cells = rows_by_key::cells(row)?;
        let cells = || cells.iter().copied();
        let at = reread.rows.rows();
        match reread.rows.push_cells(table, cells(), meta) {
            Ok(()) => drop(reread.found.insert(reread.rows.key(table, at), Ok(at))),
            // It is there, so it is not to be taken for deleted.
            Err(error) => {
                reread.rows.push_key_cells(table, cells(), meta)?;
                reread.found.insert(reread.rows.key(table, at), Err(error));
                reread.rows.truncate(at);
            }
        }
    }
    Ok(reread)
}

/// A row that was read may be of a transaction that a crash would still undo: it is used once the log is flushed past it.
pub(super) async fn wait_for_flush(client: &Client) -> anyhow::Result<()> {
    let read_at = replication::insert_lsn(client).await?;
    let deadline = tokio::time::Instant::now() + FLUSH_TIMEOUT;
    loop {
        let flushed: String = client.query_one("select pg_current_wal_flush_lsn()::text", &[]).await?.try_get(0)?;
        if flushed.parse::<crate::domain::Lsn>()? >= read_at {
            return Ok(());
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "PostgreSQL does not flush its log");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
