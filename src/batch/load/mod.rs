//! `platform load`: whole tables from PostgreSQL into the mirror, right at any time, while everything runs.
//!
//! ```text
//! slot ─► L0 ─► marker ─► wait for running transactions ─► snapshot ─► COPY ranges ─► Native blocks ─► floor
//! ```
//!
//! Loaded rows take the version (log, L0, 0). A change committed before L0 has a lower version and is in the snapshot; one
//! committed after the marker has a `last_commit_lsn` above L0 and wins; one in between is in the snapshot, because the
//! snapshot opens only after every transaction that ran at the marker has ended.

mod copy;
mod log;
pub(super) mod snapshot;
mod watch;
mod worker;

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio_postgres::Client;

use super::aggregates;
use crate::catalog::{Table, loosened};
use crate::config::Settings;
use crate::domain::{Failure, Lsn, TableName, Version};
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::clickhouse::ClickHouse;
use crate::store::kafka::Topic;
use crate::store::lease::Lease;
use crate::store::mirror::{self, Log};
use crate::store::table_states::{StateChange, TableState};
use crate::store::{advisory_lock, connector, dirty_buckets, postgres, replication, sinks, table_shapes, table_states};
pub use copy::Progress;
pub use watch::Watch;

/// Identifies the loads' advisory lock ("platload" in ASCII).
const LOCK: i64 = 0x706c_6174_6c6f_6164;

/// What a load did.
#[derive(Debug, Serialize)]
pub struct Report {
    job: &'static str,
    tables: Vec<Loaded>,
    rows: u64,
    parked: u64,
    l0: String,
    duration_ms: u128,
}

#[derive(Debug, Serialize)]
struct Loaded {
    table: String,
    rows: u64,
    parked: u64,
}

/// How often a load begins because a table's structure changed between its first look and its lock.
const ROUNDS_MAX: u32 = 10;

/// Loads `names`, or every published table when it is empty.
///
/// # Errors
/// `Failure::Busy` while another load runs, transactions do not end, or a table's structure keeps changing;
/// `Failure::Config` for a table that cannot be mirrored, `Failure::Unavailable` when a part does not answer. What an
/// interrupted load left is mended by running it again.
pub async fn run(settings: &Settings, names: &[TableName], progress: &Progress) -> anyhow::Result<Report> {
    let client = begin(settings).await?;
    locked(settings, &client, names, progress).await
}

/// A session that holds the loads' lock: no other load is under way while it lives.
async fn begin(settings: &Settings) -> anyhow::Result<Client> {
    let client = postgres::connect(&settings.postgres, "platform load").await?;
    client.batch_execute("set statement_timeout = 0").await?;
    lock(&client, Duration::from_secs(settings.load.wait_lock_timeout_s)).await?;
    failpoint!("load.locked");
    Ok(client)
}

/// As `run`, in a session that `begin` made.
async fn locked(
    settings: &Settings,
    client: &Client,
    names: &[TableName],
    progress: &Progress,
) -> anyhow::Result<Report> {
    let begun = std::time::Instant::now();
    let clickhouse = ClickHouse::new(&settings.clickhouse)?;
    let mut tables = choose(client, settings, names).await?;
    let prepared = log::prepare(settings, client, &clickhouse, names.is_empty()).await?;
    // Read before L0: whatever lies before it in the topic is committed before L0, and so in the snapshot.
    let end = end_of_topic(settings).await?;
    let mut round = Round {
        settings,
        client,
        clickhouse: &clickhouse,
        log: prepared.log,
        begins_anew: prepared.begins_anew,
        progress,
        l0: Lsn::ZERO,
    };
    let mut rounds = 1;
    let loaded = loop {
        match round.copy(&tables).await? {
            Some(loaded) => break loaded,
            None if rounds < ROUNDS_MAX => rounds += 1,
            None => {
                let text = format!("the structure of the tables changed in each of {ROUNDS_MAX} attempts to copy them");
                return Err(Failure::Busy(text).into());
            }
        }
        tables = choose(client, settings, names).await?;
    };
    if names.is_empty() {
        move_checkpoint(settings, &clickhouse, round.log.number, end, prepared.begins_anew).await?;
    }
    Ok(Report {
        job: "load",
        rows: loaded.iter().map(|table| table.rows).sum(),
        parked: loaded.iter().map(|table| table.parked).sum(),
        tables: loaded,
        l0: round.l0.to_string(),
        duration_ms: begun.elapsed().as_millis(),
    })
}

/// What a round of copying needs.
struct Round<'a> {
    settings: &'a Settings,
    client: &'a Client,
    clickhouse: &'a ClickHouse,
    log: Log,
    /// Whether its first event will not know the commit before it.
    begins_anew: bool,
    progress: &'a Progress,
    /// L0 of the last round.
    l0: Lsn,
}

impl Round<'_> {
    /// Copies `tables` under one L0. `None`: one of them has changed before it was locked, and nothing was copied.
    ///
    /// A table that `ALTER TABLE` wrote anew after the snapshot looks empty to it, and one that was written anew in any way
    /// while it is copied has its rows on other pages than the ranges: so it is locked, as `pg_dump` does, and compared then.
    async fn copy(&mut self, tables: &[Table]) -> anyhow::Result<Option<Vec<Loaded>>> {
        self.renew_connector(tables).await?;
        self.l0 = replication::insert_lsn(self.client).await?;
        let version =
            Version::of_load(self.log.number, self.l0).context("the log's position does not fit into a version")?;
        if self.begins_anew {
            self.log = log::remember_first_load(self.clickhouse, &self.log, self.l0).await?;
        }
        for table in tables {
            // First: a mirror that was made anew, and filled by nobody, looks like one that has everything.
            self.store_state(table, TableState::Loading, version, Lsn::ZERO, 0).await?;
            failpoint!("load.loading-stored");
            mirror::prepare_table(self.clickhouse, table)
                .await
                .with_context(|| format!("making the mirror of {}", table.name()))?;
        }
        let snapshot = snapshot::open(self.client, &self.settings.postgres, &self.settings.load, self.l0).await?;
        failpoint!("load.snapshot-open");
        let guard = copy::lock(self.settings, tables, &snapshot).await;
        if let Some(table) = self.changed(tables).await? {
            tracing::warn!(table = %table, "the table has changed since the load began; it begins again");
            return Ok(None);
        }
        let guard = guard?;
        failpoint!("load.tables-locked");
        tracing::info!(log = self.log.number, l0 = %self.l0, snapshot = %snapshot.lsn, tables = tables.len(), "copying");
        let copied = match copy::tables(self.settings, tables, &guard, &snapshot, version, self.progress).await {
            Err(error) if error.is::<copy::Blocked>() => {
                tracing::warn!(error = %error, "the load makes way and begins again");
                return Ok(None);
            }
            copied => copied?,
        };
        failpoint!("load.copied");
        snapshot.close().await?;
        let mut loaded = Vec::new();
        let aggregates = aggregates::all(&self.settings.etl.aggregates_dir)?;
        for (table, counts) in tables.iter().zip(copied) {
            mirror::raise_floor(self.clickhouse, table.name(), version, "load").await.context("raising the floor")?;
            failpoint!("load.floor-raised");
            let marked =
                dirty_buckets::mark_table(self.clickhouse, &self.settings.sink.pipeline, &aggregates, table.name());
            marked.await.context("marking the statistics of the table")?;
            failpoint!("load.marked");
            self.store_state(table, TableState::Live, version, snapshot.lsn, counts.rows).await?;
            failpoint!("load.live-stored");
            loaded.push(Loaded { table: table.name().to_string(), rows: counts.rows, parked: counts.parked });
        }
        // Held until here: a change between the copy and `live` would be taken for one that this load has seen.
        guard.batch_execute("commit").await.context("unlocking the tables")?;
        Ok(Some(loaded))
    }

    /// Before L0: what the connector sends of columns that it takes for NOT NULL by mistake is below it, and it sends no more of that.
    async fn renew_connector(&self, tables: &[Table]) -> anyhow::Result<()> {
        let mirrors = mirror::mirrors(self.clickhouse).await?;
        for table in tables {
            let Some(mirror) = mirrors.get(&table.name().mirror_name()) else { continue };
            if let Some(column) = loosened(mirror, table).first() {
                tracing::info!(table = %table.name(), column, "a column may be NULL now; the connector begins anew to know it");
                let renewed = connector::renew_session(self.settings, self.client).await;
                return renewed.context("restarting the connector, which may write a column's default instead of NULL");
            }
        }
        Ok(())
    }

    /// One of `tables` that is not what it was when its shape was read. Another file alone is no harm before the copy:
    /// `VACUUM FULL` keeps what a snapshot sees, and what TRUNCATE hides from it is below the floor of its event.
    async fn changed(&self, tables: &[Table]) -> anyhow::Result<Option<TableName>> {
        let oids: Vec<u32> = tables.iter().map(Table::oid).collect();
        let now = table_shapes::relations(self.client, &self.settings.sink.pipeline, &oids).await?;
        let same = |table: &&Table| now.iter().any(|other| other.has_shape_of(table.relation()));
        Ok(tables.iter().find(|table| !same(table)).map(|table| table.name().clone()))
    }

    async fn store_state(
        &self,
        table: &Table,
        state: TableState,
        load_version: Version,
        snapshot: Lsn,
        rows: u64,
    ) -> anyhow::Result<()> {
        let pipeline = &self.settings.sink.pipeline;
        let change = StateChange { pipeline, state, reason: "load", load_version, snapshot, rows };
        let stored = table_states::store(self.clickhouse, &table.name().mirror_name(), &change).await;
        stored.context("storing the table's state")
    }
}

/// Takes the lock that loads share; the sink's own loads are short, so one that runs is waited for.
pub(super) async fn lock(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut said = false;
    loop {
        if advisory_lock::try_lock(client, LOCK).await? {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::Busy("another load is running on this database".into()).into());
        }
        if !std::mem::replace(&mut said, true) {
            tracing::info!(wait_s_max = limit.as_secs(), "another load is running; waiting for its end");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(super) async fn choose(client: &Client, settings: &Settings, names: &[TableName]) -> anyhow::Result<Vec<Table>> {
    let publication = &settings.sink.pipeline;
    let published = table_shapes::published(client, publication, &settings.tables).await?;
    for (name, refusal) in &published.refused {
        if names.contains(name) {
            return Err(Failure::Config(format!("{name} cannot be mirrored: {refusal}")).into());
        }
        tracing::warn!(table = %name, reason = %refusal, "not mirrored");
    }
    let missing = names.iter().find(|name| published.tables.iter().all(|table| table.name() != *name));
    if let Some(name) = missing {
        let text = format!(
            "{name} is not in the publication {publication}; run: alter publication {publication} add table {name}"
        );
        return Err(Failure::Config(text).into());
    }
    let mut tables = published.tables;
    tables.retain(|table| names.is_empty() || names.contains(table.name()));
    if tables.is_empty() {
        return Err(Failure::Config(format!(
            "the publication {publication} has no table that can be mirrored; run `platform migrate` first"
        ))
        .into());
    }
    Ok(tables)
}

async fn end_of_topic(settings: &Settings) -> anyhow::Result<i64> {
    let mut topic = Topic::new(&settings.kafka, &settings.sink.topic)?;
    let (_, end) = topic.bounds().await.map_err(|error| Failure::Unavailable(error.to_string()))?;
    Ok(end)
}

/// After every table is loaded the log needs to be followed only from `end`: a hole before it does not matter any more. A
/// sink that has halted, or is down, goes on from here. One that runs is left alone, unless the log begins anew: then the
/// hole is still ahead of it. It sees the higher term and begins again.
async fn move_checkpoint(
    settings: &Settings,
    clickhouse: &ClickHouse,
    log: u16,
    end: i64,
    begins_anew: bool,
) -> anyhow::Result<()> {
    let pipeline = &settings.sink.pipeline;
    let lease = lease(settings).await?;
    if lease.is_none() && !begins_anew {
        return Ok(());
    }
    let (term, batch) = match checkpoint::latest(clickhouse, pipeline).await? {
        // Two above: a sink that runs in the term above may not have written in it yet.
        // The number grows by the records that are passed over: a number is a place in the log. In another topic it only rises.
        Some(checkpoint) => {
            let passed = u64::try_from(end.saturating_sub(checkpoint.next_offset)).unwrap_or(1);
            (checkpoint.term + 2, checkpoint.batch.saturating_add(passed))
        }
        None => (1, 0),
    };
    let checkpoint = Checkpoint {
        term,
        batch,
        log,
        topic: settings.sink.topic.clone(),
        next_offset: end,
        watermark: Lsn::ZERO,
        record_hash: String::new(),
        heartbeat: -1,
        committed_at: chrono::DateTime::UNIX_EPOCH,
    };
    // First: what lies before is not to be read again, whether or not the checkpoint arrives.
    failpoint!("load.before-start");
    checkpoint::store_start(clickhouse, pipeline, &checkpoint).await.context("storing where the log begins")?;
    failpoint!("load.before-checkpoint");
    checkpoint::store(clickhouse, pipeline, &checkpoint).await.context("storing the checkpoint")?;
    failpoint!("load.after-checkpoint");
    Ok(())
}

/// The pipeline's lease, unless a sink that runs or is paused holds it. A halted one holds it only while it serves a request.
async fn lease(settings: &Settings) -> anyhow::Result<Option<Lease>> {
    let pipeline = &settings.sink.pipeline;
    let client = postgres::connect(&settings.postgres, "platform load").await?;
    let deadline = tokio::time::Instant::now() + sinks::HALTED_LEASE_WAIT;
    loop {
        let lease = Lease::try_take(&settings.postgres, pipeline).await?;
        let halted = sinks::state(&client, pipeline).await?.is_some_and(|sink| sink.state == "halted");
        if lease.is_some() || !halted || tokio::time::Instant::now() >= deadline {
            return Ok(lease);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
