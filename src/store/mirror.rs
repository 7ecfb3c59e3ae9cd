//! The mirror's own tables in ClickHouse: logs, floors, states of tables, dead letters.

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};
use super::replication::LogIdentity;
use crate::catalog::{Table, create_mirror, create_view};
use crate::domain::{Lsn, TableName, Version};

/// A log that versions and tokens refer to by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its number; 1 is the first.
    pub number: u16,
    /// Which database it is.
    pub identity: LogIdentity,
    /// L0 of its first load: earlier events may lack the first half of their sequence.
    pub first_load: Lsn,
}

/// What a mirrored table is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// A load is copying it.
    Loading,
    /// Loaded; complete once the watermark has passed `snapshot`.
    Live,
    /// Stopped, with a reason.
    Halted,
}

impl TableState {
    fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Live => "live",
            Self::Halted => "halted",
        }
    }
}

/// A row that could not be applied.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Where it came from: `topic/partition/offset`, or `load/table/L0/number`.
    pub id: String,
    /// The table.
    pub table: String,
    /// The row's version, under which a replay applies it.
    pub version: Version,
    /// The class of what is wrong.
    pub reason: &'static str,
    /// What is wrong, without values.
    pub detail: String,
    /// The raw message.
    pub message: String,
}

/// The newest log, or `None` before the first load.
///
/// # Errors
/// ClickHouse's.
pub async fn newest_log(clickhouse: &ClickHouse) -> Result<Option<Log>, Error> {
    #[derive(Deserialize)]
    struct Row {
        log: u16,
        system_identifier: String,
        timeline: u32,
        #[serde(with = "text")]
        first_load_lsn: u64,
    }
    let sql =
        "select log, system_identifier, timeline, first_load_lsn from platform.logs final order by log desc limit 1";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[]).await?;
    Ok(row.map(|row| Log {
        number: row.log,
        identity: LogIdentity { system_identifier: row.system_identifier, timeline: row.timeline },
        first_load: Lsn::new(row.first_load_lsn),
    }))
}

/// Remembers a log.
///
/// # Errors
/// ClickHouse's.
pub async fn store_log(clickhouse: &ClickHouse, log: &Log) -> Result<(), Error> {
    let sql =
        "insert into platform.logs select {log:UInt16}, {id:String}, {timeline:UInt32}, {first_load:UInt64}, now64(6)";
    let parameters = [
        ("log", log.number.to_string()),
        ("id", log.identity.system_identifier.clone()),
        ("timeline", log.identity.timeline.to_string()),
        ("first_load", log.first_load.get().to_string()),
    ];
    clickhouse.execute(sql, &parameters.each_ref().map(|(name, value)| (*name, value.as_str()))).await
}

/// Makes the mirror table and its view for a load. A mirror of another shape is dropped: the load fills the new one whole.
///
/// # Errors
/// ClickHouse's.
pub async fn prepare_table(clickhouse: &ClickHouse, table: &Table) -> Result<(), Error> {
    let there = columns_of(clickhouse, table.name()).await?;
    if !there.is_empty() && !has_shape(&there, table) {
        clickhouse.execute(&format!("drop table {} sync", table.name().quoted_clickhouse("mirror")), &[]).await?;
    }
    clickhouse.execute(&create_mirror(table), &[]).await?;
    clickhouse.execute(&create_view(table), &[]).await
}

/// Names and types of the mirror table's columns, in order; empty when there is no such table.
///
/// # Errors
/// ClickHouse's.
pub async fn columns_of(clickhouse: &ClickHouse, table: &TableName) -> Result<Vec<(String, String)>, Error> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        r#type: String,
    }
    let sql =
        "select name, type from system.columns where database = 'mirror' and table = {table:String} order by position";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &[("table", &table.mirror_name())]).await?;
    Ok(rows.into_iter().map(|row| (row.name, row.r#type)).collect())
}

/// Whether a mirror with these columns (`columns_of`) takes rows of `table` as it is now.
pub fn has_shape(there: &[(String, String)], table: &Table) -> bool {
    let own = table.columns().iter();
    own.clone().all(|column| {
        there.iter().any(|(name, kind)| name == column.name() && *kind == column.codec().clickhouse_type())
    }) && there.len() == own.len() + crate::catalog::META_COLUMNS.len()
}

/// Raises a table's floor; a lower one changes nothing.
///
/// # Errors
/// ClickHouse's.
pub async fn raise_floor(
    clickhouse: &ClickHouse,
    table: &TableName,
    floor: Version,
    reason: &str,
) -> Result<(), Error> {
    let sql = "insert into platform.floors select {table:String}, {floor:UInt128}, {reason:String}, now64(6)";
    let floor = floor.get().to_string();
    clickhouse.execute(sql, &[("table", &table.mirror_name()), ("floor", &floor), ("reason", reason)]).await
}

/// A table's floor.
///
/// # Errors
/// ClickHouse's.
pub async fn floor_of(clickhouse: &ClickHouse, table: &TableName) -> Result<Version, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        floor: u128,
    }
    let sql = "select max(floor) as floor from platform.floors where table = {table:String}";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[("table", &table.mirror_name())]).await?;
    Ok(row.map_or(Version::ZERO, |row| Version::from_raw(row.floor)))
}

/// What is stored of a table's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange<'a> {
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

/// Stores a table's state; the newest stands.
///
/// # Errors
/// ClickHouse's.
pub async fn store_state(clickhouse: &ClickHouse, table: &TableName, change: &StateChange<'_>) -> Result<(), Error> {
    let sql = "insert into platform.tables select {table:String}, {state:String}, {reason:String}, {version:UInt128}, \
               {snapshot:UInt64}, {rows:UInt64}, now64(6)";
    let (version, snapshot, rows) =
        (change.load_version.get().to_string(), change.snapshot.get().to_string(), change.rows.to_string());
    let parameters = [
        ("table", table.mirror_name()),
        ("state", change.state.name().to_owned()),
        ("reason", change.reason.to_owned()),
        ("version", version),
        ("snapshot", snapshot),
        ("rows", rows),
    ];
    clickhouse.execute(sql, &parameters.each_ref().map(|(name, value)| (*name, value.as_str()))).await
}

/// Marks a table as halted: its rows are not kept up to date until it is loaded again.
///
/// # Errors
/// ClickHouse's.
pub async fn store_halted(clickhouse: &ClickHouse, table: &TableName, reason: &str) -> Result<(), Error> {
    let (load_version, snapshot) = (Version::ZERO, Lsn::ZERO);
    store_state(clickhouse, table, &StateChange { state: TableState::Halted, reason, load_version, snapshot, rows: 0 })
        .await
}

/// Stores rows that could not be applied.
///
/// # Errors
/// ClickHouse's.
pub async fn store_dead_letters(clickhouse: &ClickHouse, pipeline: &str, letters: &[DeadLetter]) -> Result<(), Error> {
    let sql = "insert into platform.dead_letters select {id:String}, {pipeline:String}, {table:String}, '', {version:UInt128}, \
               {reason:String}, {detail:String}, {message:String}, 'parked', now64(6)";
    for letter in letters {
        let version = letter.version.get().to_string();
        let parameters = [
            ("id", letter.id.as_str()),
            ("pipeline", pipeline),
            ("table", &letter.table),
            ("version", &version),
            ("reason", letter.reason),
            ("detail", &letter.detail),
            ("message", &letter.message),
        ];
        clickhouse.execute(sql, &parameters).await?;
    }
    Ok(())
}
