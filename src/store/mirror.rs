//! The mirror in ClickHouse: its tables, their floors, the logs that versions refer to, and rows that could not be applied.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};
use super::replication::LogIdentity;
use crate::catalog::{
    Block, Evolution, Mirror, MirrorColumn, Table, comment_relation, create_mirror, create_moments, create_view,
    drop_mirror, follow,
};
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

/// A row that could not be applied.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Where it came from: `cdc/offset/version`, `load/table/L0/page/number` or `repair/table/version/number`.
    pub id: String,
    /// The table.
    pub table: String,
    /// The row's primary key: a JSON array of PostgreSQL's texts, in the order of the key. Empty when it is not known.
    pub key: String,
    /// The row's version, under which a replay applies it.
    pub version: Version,
    /// The class of what is wrong.
    pub reason: &'static str,
    /// What is wrong, without values.
    pub detail: String,
    /// The raw message; of a load and a repair the row's cells as in a binary COPY, in base64.
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

/// Makes the mirror table and its view for a load. A mirror that cannot take the table's rows is dropped: the load fills the
/// new one whole.
///
/// # Errors
/// ClickHouse's.
pub async fn prepare_table(clickhouse: &ClickHouse, table: &Table) -> Result<(), Error> {
    let there = mirrors(clickhouse).await?.remove(&table.name().mirror_name()).unwrap_or_default();
    if let Ok(evolution) = follow(&there, table) {
        return evolve(clickhouse, &evolution).await;
    }
    failpoint!("load.before-drop");
    clickhouse.execute(&drop_mirror(table.name()), &[]).await?;
    failpoint!("load.mirror-dropped");
    clickhouse.execute(&create_mirror(table), &[]).await?;
    failpoint!("load.mirror-made");
    clickhouse.execute(&create_view(table), &[]).await?;
    clickhouse.execute(&create_moments(table), &[]).await?;
    failpoint!("load.view-made");
    Ok(())
}

/// Makes a mirror follow its table, and the view with it.
///
/// # Errors
/// ClickHouse's; a step that was done is not done again by the next comparison.
pub async fn evolve(clickhouse: &ClickHouse, evolution: &Evolution) -> Result<(), Error> {
    for statement in &evolution.statements {
        tracing::info!(table = %evolution.table.name(), statement, "the mirror follows a change of its table");
        failpoint!("structure.before-statement");
        clickhouse.execute(statement, &[]).await?;
        failpoint!("structure.after-statement");
    }
    failpoint!("structure.before-view");
    clickhouse.execute(&create_view(&evolution.table), &[]).await?;
    clickhouse.execute(&create_moments(&evolution.table), &[]).await?;
    failpoint!("structure.before-comment");
    // Last: what came before is compared again until this stands.
    clickhouse.execute(&comment_relation(&evolution.table), &[]).await?;
    failpoint!("structure.after-comment");
    Ok(())
}

/// Every mirror table, by its name.
///
/// # Errors
/// ClickHouse's.
pub async fn mirrors(clickhouse: &ClickHouse) -> Result<BTreeMap<String, Mirror>, Error> {
    #[derive(Deserialize)]
    struct TableRow {
        name: String,
        comment: String,
    }
    #[derive(Deserialize)]
    struct ColumnRow {
        table: String,
        name: String,
        r#type: String,
        comment: String,
    }
    let tables: Vec<TableRow> =
        clickhouse.fetch_all("select name, comment from system.tables where database = 'mirror'", &[]).await?;
    let columns: Vec<ColumnRow> = clickhouse
        .fetch_all(
            "select table, name, type, comment from system.columns where database = 'mirror' order by table, position",
            &[],
        )
        .await?;
    let mut mirrors: BTreeMap<String, Mirror> =
        tables.into_iter().map(|row| (row.name, Mirror { comment: row.comment, columns: Vec::new() })).collect();
    for row in columns {
        let column = MirrorColumn { name: row.name, kind: row.r#type, comment: row.comment };
        mirrors.entry(row.table).or_default().columns.push(column);
    }
    Ok(mirrors)
}

/// Raises a table's floor; a lower one changes nothing. Parked rows below it say nothing any more.
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
    let name = table.mirror_name();
    clickhouse.execute(sql, &[("table", &name), ("floor", &floor), ("reason", reason)]).await?;
    failpoint!("floor.stored");
    let superseded = "insert into platform.dead_letters \
                      (id, pipeline, table, key, version, reason, detail, message, state, changed_at, parked_at) \
                      select id, pipeline, table, key, version, reason, detail, message, 'superseded', now64(6), parked_at \
                      from platform.dead_letters final \
                      where table = {table:String} and state = 'parked' and version < {floor:UInt128}";
    clickhouse.execute(superseded, &[("table", &name), ("floor", &floor)]).await
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

/// The floors of all tables, by the mirror's name.
///
/// # Errors
/// ClickHouse's.
pub async fn floors(clickhouse: &ClickHouse) -> Result<BTreeMap<String, Version>, Error> {
    #[derive(Deserialize)]
    struct Row {
        table: String,
        #[serde(with = "text")]
        highest: u128,
    }
    let sql = "select table, max(floor) as highest from platform.floors group by table";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &[]).await?;
    Ok(rows.into_iter().map(|row| (row.table, Version::from_raw(row.highest))).collect())
}

/// The key of a row of `block` as letters carry it; empty when a key column's type has no text here.
pub fn key_json(block: &Block, table: &Table, row: usize) -> String {
    let texts = block.key_texts(table, row);
    texts.and_then(|texts| serde_json::to_string(&texts).ok()).unwrap_or_default()
}

/// Stores rows that could not be applied. One that is there keeps the time since which it waits; one that was closed stays
/// closed when its event comes again.
///
/// # Errors
/// ClickHouse's.
pub async fn store_dead_letters(clickhouse: &ClickHouse, pipeline: &str, letters: &[DeadLetter]) -> Result<(), Error> {
    let sql = "insert into platform.dead_letters \
               (id, pipeline, table, key, version, reason, detail, message, state, changed_at, parked_at) \
               select {id:String}, {pipeline:String}, {table:String}, {key:String}, {version:UInt128}, \
               {reason:String}, {detail:String}, {message:String}, 'parked', now64(6), \
               (select if(count() = 0, now64(6), min(parked_at)) from platform.dead_letters \
                where id = {id:String} and version = {version:UInt128}) \
               where (select count() from platform.dead_letters final \
                      where id = {id:String} and version = {version:UInt128} and state != 'parked') = 0";
    for letter in letters {
        let version = letter.version.get().to_string();
        let parameters = [
            ("id", letter.id.as_str()),
            ("pipeline", pipeline),
            ("table", &letter.table),
            ("key", &letter.key),
            ("version", &version),
            ("reason", letter.reason),
            ("detail", &letter.detail),
            ("message", &letter.message),
        ];
        clickhouse.execute(sql, &parameters).await?;
    }
    Ok(())
}
