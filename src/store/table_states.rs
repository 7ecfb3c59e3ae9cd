//! What each mirrored table is doing: `platform.tables` in ClickHouse. The newest row of a table counts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::checkpoint::parse_time;
use super::clickhouse::{ClickHouse, Error};
use crate::domain::{Lsn, TableName, Version};

/// What a mirrored table is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// It must be loaded, and the sink will see to it.
    Wanted,
    /// A load is copying it.
    Loading,
    /// Loaded; complete once the watermark has passed `snapshot`.
    Live,
    /// Stopped until somebody loads it.
    Halted,
    /// No longer in the publication: kept as it was.
    Left,
}

const STATES: [TableState; 5] =
    [TableState::Wanted, TableState::Loading, TableState::Live, TableState::Halted, TableState::Left];

impl TableState {
    /// The word for it in ClickHouse, logs and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Loading => "loading",
            Self::Live => "live",
            Self::Halted => "halted",
            Self::Left => "left",
        }
    }

    /// Whether events of the table are applied: not after some were left out, until a load has brought what they said.
    pub fn takes_events(self) -> bool {
        matches!(self, Self::Wanted | Self::Loading | Self::Live)
    }
}

/// What is stored of a table's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange<'a> {
    /// The pipeline that the table belongs to.
    pub pipeline: &'a str,
    /// The new state.
    pub state: TableState,
    /// Why, for people.
    pub reason: &'a str,
    /// Version of the rows of the load in question.
    pub load_version: Version,
    /// Position that the watermark must pass before the load's rows are complete.
    pub snapshot: Lsn,
    /// Rows copied.
    pub rows: u64,
}

impl<'a> StateChange<'a> {
    /// A state that has nothing to do with a load's rows.
    pub fn of(pipeline: &'a str, state: TableState, reason: &'a str) -> Self {
        Self { pipeline, state, reason, load_version: Version::ZERO, snapshot: Lsn::ZERO, rows: 0 }
    }
}

/// Stores a table's state.
///
/// # Errors
/// ClickHouse's.
pub async fn store(clickhouse: &ClickHouse, mirror_name: &str, change: &StateChange<'_>) -> Result<(), Error> {
    let sql = "insert into platform.tables (table, state, reason, load_version, snapshot_lsn, rows_loaded, changed_at, pipeline) \
               select {table:String}, {state:String}, {reason:String}, {version:UInt128}, {snapshot:UInt64}, {rows:UInt64}, now64(6), {pipeline:String}";
    let (version, snapshot, rows) =
        (change.load_version.get().to_string(), change.snapshot.get().to_string(), change.rows.to_string());
    let parameters = [
        ("table", mirror_name),
        ("state", change.state.name()),
        ("reason", change.reason),
        ("version", &version),
        ("snapshot", &snapshot),
        ("rows", &rows),
        ("pipeline", change.pipeline),
    ];
    clickhouse.execute(sql, &parameters).await
}

/// A table's state as it was stored last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The state.
    pub state: TableState,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// The states of a pipeline's tables, by the mirror's name.
///
/// # Errors
/// ClickHouse's.
pub async fn of_pipeline(clickhouse: &ClickHouse, pipeline: &str) -> Result<BTreeMap<String, Stored>, Error> {
    #[derive(Deserialize)]
    struct Row {
        table: String,
        state: String,
        reason: String,
        changed: String,
    }
    let sql = "select table, state, reason, toString(changed_at) as changed from platform.tables final where pipeline = {pipeline:String}";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &[("pipeline", pipeline)]).await?;
    let stored = rows.into_iter().filter_map(|row| {
        let state = STATES.into_iter().find(|state| state.name() == row.state)?;
        Some(parse_time(&row.changed).map(|since| (row.table, Stored { state, reason: row.reason, since })))
    });
    stored.collect()
}

/// Stores a state unless it stands already, with the same reason.
///
/// # Errors
/// ClickHouse's.
pub async fn mark(
    clickhouse: &ClickHouse,
    pipeline: &str,
    table: &TableName,
    state: TableState,
    reason: &str,
    before: Option<&Stored>,
) -> Result<(), Error> {
    if before.is_some_and(|stored| stored.state == state && stored.reason == reason) {
        return Ok(());
    }
    store(clickhouse, &table.mirror_name(), &StateChange::of(pipeline, state, reason)).await
}
