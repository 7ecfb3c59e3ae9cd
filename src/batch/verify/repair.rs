//! Mends keys as a load of just those keys does, so that whatever the log brings later still wins.
//!
//! L0, marker, wait for the transactions of that moment, snapshot: the rows are read there and stored under (log, L0, 0), and
//! keys without a row become tombstones under it: `docs/adr/0001-versions.md` says why that is right while everything runs.
//! A row that stands in the mirror with a version that the log had not reached at L0 was written by nobody who follows the log;
//! no later event could beat it, so it is removed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use tokio_postgres::Row;

use super::mirror_rows::{MirrorRows, insert};
use super::settle::texts;
use super::{Fence, source};
use crate::batch::aggregates::{self, failed};
use crate::batch::load;
use crate::catalog::{Block, RowMeta, Table};
use crate::domain::{Failure, Version};
use crate::store::mirror::{self, DeadLetter};
use crate::store::{dirty_buckets, postgres, replication, rows_by_key, table_shapes};

/// Keys of one statement.
const KEYS_AT_ONCE: usize = 10_000;

/// Mends `keys`, each once.
pub(super) async fn repair(
    fence: &Fence<'_>,
    mirror: &MirrorRows<'_>,
    table: &Table,
    keys: &[Vec<u8>],
) -> anyhow::Result<()> {
    let settings = fence.settings;
    // No load may raise the floor above what is stored here.
    let client = postgres::connect(&settings.postgres, "platform verify repair").await?;
    client.batch_execute("set statement_timeout = 0").await?;
    load::lock(&client, Duration::from_secs(settings.load.wait_lock_timeout_s)).await?;
    let log = mirror::newest_log(fence.clickhouse).await.map_err(|error| failed("reading the log's number", error))?;
    let log = log.context("the mirror was never loaded")?.number;
    mark(fence, table).await?;
    for some in keys.chunks(KEYS_AT_ONCE) {
        mirror.name_keys(some).await?;
        // Read before L0: what was applied by then is below it.
        let versions: BTreeSet<u128> = mirror.versions().await?.into_iter().map(|(_, version)| version).collect();
        let l0 = replication::insert_lsn(&client).await?;
        let version = Version::of_load(log, l0).context("the log's position does not fit into a version")?;
        let impossible: Vec<u128> = versions.range(version.get()..).copied().collect();
        if !impossible.is_empty() {
            tracing::warn!(table = %table.name(), versions = impossible.len(), "rows with versions that the log has not reached are removed");
            mirror.remove(&impossible).await?;
        }
        let snapshot = load::snapshot::open(&client, &settings.postgres, &settings.load, l0).await?;
        let reader = source::join(settings, &snapshot.name).await?;
        let now = table_shapes::published(&client, &settings.sink.pipeline, &settings.tables).await?;
        if !now.tables.iter().any(|other| other.relation().has_shape_of(table.relation())) {
            return Err(Failure::Busy(format!("{} has changed while it was mended", table.name())).into());
        }
        let rows = rows_by_key::read(&reader, table, &texts(table, some)?).await?;
        store(fence, table, some, &rows, version).await?;
    }
    mark(fence, table).await
}

/// Marks the statistics of the table: before the rows, lest a repair that dies leaves them unmarked, and behind them.
async fn mark(fence: &Fence<'_>, table: &Table) -> anyhow::Result<()> {
    let aggregates = aggregates::all(&fence.settings.etl.aggregates_dir)?;
    let pipeline = &fence.settings.sink.pipeline;
    let marked = dirty_buckets::mark_table(fence.clickhouse, pipeline, &aggregates, table.name()).await;
    marked.map_err(|error| failed("marking the statistics of the table", error))
}

async fn store(
    fence: &Fence<'_>,
    table: &Table,
    keys: &[Vec<u8>],
    rows: &[Row],
    version: Version,
) -> anyhow::Result<()> {
    let now = chrono::Utc::now().timestamp_micros();
    let meta = RowMeta { version, deleted: false, committed_at: now, synced_at: now };
    let mut block = Block::new(table);
    let (mut found, mut letters) = (BTreeSet::new(), Vec::new());
    for row in rows {
        let cells = rows_by_key::cells(row)?;
        let at = block.rows();
        if let Err(error) = block.push_cells(table, cells.iter().copied(), meta) {
            // As a load does: parked, and not shown in an older form.
            block.push_key_cells(table, cells.iter().copied(), meta)?;
            let key = mirror::key_json(&block, table, at);
            letters.push(DeadLetter { key, ..letter(table, version, letters.len(), &error.to_string(), &cells) });
        }
        let mut key = Vec::new();
        block.write_key(table, at, &mut key).context("a row without its key")?;
        found.insert(key);
    }
    for key in keys.iter().filter(|key| !found.contains(*key)) {
        block.push_key(table, key, meta).context("a key in another form than its own")?;
    }
    let pipeline = &fence.settings.sink.pipeline;
    let parked = mirror::store_dead_letters(fence.clickhouse, pipeline, &letters).await;
    parked.map_err(|error| failed("parking rows", error))?;
    let target = table.name().quoted_clickhouse("mirror");
    insert(fence.clickhouse, table, &target, &block).await.map_err(|error| failed("storing rows", error))
}

fn letter(table: &Table, version: Version, number: usize, detail: &str, cells: &[Option<&[u8]>]) -> DeadLetter {
    let mut tuple = Vec::new();
    for cell in cells {
        // Lengths as in a tuple of COPY; −1 is NULL.
        let length = cell.map_or(-1, |cell| i32::try_from(cell.len()).unwrap_or(i32::MAX));
        tuple.extend_from_slice(&length.to_be_bytes());
        tuple.extend_from_slice(cell.unwrap_or_default());
    }
    let name = table.name().mirror_name();
    DeadLetter {
        id: format!("repair/{name}/{}/{number}", version.get()),
        table: name,
        key: String::new(),
        version,
        reason: "not-representable",
        detail: detail.to_owned(),
        message: base64::engine::general_purpose::STANDARD.encode(tuple),
    }
}
