//! Rows that could not be applied, for the people who look after them: `platform.dead_letters` in ClickHouse.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::checkpoint::{parse_time, text};
use super::clickhouse::{ClickHouse, Error};

/// Which letters are meant. The form in which requests carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Selection {
    /// Those with these ids.
    Ids(Vec<String>),
    /// Those of the table with this name in ClickHouse.
    Table(String),
    /// All of the pipeline.
    All,
}

/// A letter as it is stored.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    /// Where it came from.
    pub id: String,
    /// The table's name in ClickHouse.
    pub table: String,
    /// The primary key, a JSON array of PostgreSQL's texts; empty when it is not known.
    pub key: String,
    /// The row's version; a string in JSON.
    #[serde(serialize_with = "as_text")]
    pub version: u128,
    /// The class of what is wrong.
    pub reason: String,
    /// What is wrong.
    pub detail: String,
    /// parked, replayed, superseded or dropped.
    pub state: String,
    /// Since when it is or was parked.
    pub parked_at: DateTime<Utc>,
    /// Since when it has its state.
    pub changed_at: DateTime<Utc>,
    /// Who closed it; empty while it is parked.
    pub changed_by: String,
    /// The raw message, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn as_text<S: serde::Serializer>(version: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

#[derive(Deserialize)]
struct Row {
    id: String,
    table: String,
    key: String,
    #[serde(with = "text")]
    version: u128,
    reason: String,
    detail: String,
    state: String,
    parked: String,
    changed: String,
    changed_by: String,
    #[serde(default)]
    message: Option<String>,
}

impl Row {
    fn letter(self) -> Result<Letter, Error> {
        Ok(Letter {
            id: self.id,
            table: self.table,
            key: self.key,
            version: self.version,
            reason: self.reason,
            detail: self.detail,
            state: self.state,
            parked_at: parse_time(&self.parked)?,
            changed_at: parse_time(&self.changed)?,
            changed_by: self.changed_by,
            message: self.message,
        })
    }
}

const COLUMNS: &str = "id, table, key, version, reason, detail, state, toString(parked_at) as parked, toString(changed_at) as changed, changed_by";

/// Of which pipeline, table and state; empty means every one.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The table's name in ClickHouse.
    pub table: &'a str,
    /// The state.
    pub state: &'a str,
}

const FILTERED: &str = "from platform.dead_letters final where pipeline = {pipeline:String} \
                        and ({table:String} = '' or table = {table:String}) and ({state:String} = '' or state = {state:String})";

/// Letters without their messages, those that wait longest first, and how many there are in all.
///
/// # Errors
/// ClickHouse's.
pub async fn list(clickhouse: &ClickHouse, filter: Filter<'_>, limit: u32) -> Result<(Vec<Letter>, u64), Error> {
    #[derive(Deserialize)]
    struct Count {
        #[serde(with = "text")]
        letters: u64,
    }
    let letters = page(clickhouse, filter, None, limit).await?;
    let parameters = [("pipeline", filter.pipeline), ("table", filter.table), ("state", filter.state)];
    let count: Option<Count> =
        clickhouse.fetch_optional(&format!("select count() as letters {FILTERED}"), &parameters).await?;
    Ok((letters, count.map_or(0, |count| count.letters)))
}

/// A page of them, from the one behind `after` on: since when it is parked, in microseconds, and its id.
///
/// # Errors
/// ClickHouse's.
pub async fn page(
    clickhouse: &ClickHouse,
    filter: Filter<'_>,
    after: Option<(i64, &str)>,
    limit: u32,
) -> Result<Vec<Letter>, Error> {
    let (micros, id) = after.unwrap_or((i64::MIN, ""));
    let sql = format!(
        "select {COLUMNS} {FILTERED} and (toUnixTimestamp64Micro(parked_at), id) > ({{micros:Int64}}, {{id:String}}) \
         order by parked_at, id limit {limit}"
    );
    let micros = micros.to_string();
    let parameters = [
        ("pipeline", filter.pipeline),
        ("table", filter.table),
        ("state", filter.state),
        ("micros", &micros),
        ("id", id),
    ];
    let rows: Vec<Row> = clickhouse.fetch_all(&sql, &parameters).await?;
    rows.into_iter().map(Row::letter).collect()
}

/// One letter with its message.
///
/// # Errors
/// ClickHouse's.
pub async fn get(clickhouse: &ClickHouse, pipeline: &str, id: &str) -> Result<Option<Letter>, Error> {
    let sql = format!(
        "select {COLUMNS}, message from platform.dead_letters final where pipeline = {{pipeline:String}} and id = {{id:String}}"
    );
    let row: Option<Row> = clickhouse.fetch_optional(&sql, &[("pipeline", pipeline), ("id", id)]).await?;
    row.map(Row::letter).transpose()
}

/// Parked letters with their messages, in the order of their ids, from the one after `last`.
///
/// # Errors
/// ClickHouse's.
pub async fn parked(
    clickhouse: &ClickHouse,
    pipeline: &str,
    selection: &Selection,
    last: &str,
    limit: u32,
) -> Result<Vec<Letter>, Error> {
    let (chosen, value) = match selection {
        Selection::Ids(ids) => ("has(JSONExtract({chosen:String}, 'Array(String)'), id)", json(ids)),
        Selection::Table(table) => ("table = {chosen:String}", table.clone()),
        Selection::All => ("{chosen:String} = ''", String::new()),
    };
    let sql = format!(
        "select {COLUMNS}, message from platform.dead_letters final where pipeline = {{pipeline:String}} \
         and state = 'parked' and id > {{last:String}} and {chosen} order by id limit {limit}"
    );
    let parameters = [("pipeline", pipeline), ("last", last), ("chosen", value.as_str())];
    let rows: Vec<Row> = clickhouse.fetch_all(&sql, &parameters).await?;
    rows.into_iter().map(Row::letter).collect()
}

/// Gives parked letters another state. Those that are not parked any more stay as they are.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn close(clickhouse: &ClickHouse, ids: &[&str], state: &str, by: &str) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = "insert into platform.dead_letters \
               (id, pipeline, table, key, version, reason, detail, message, state, changed_at, parked_at, changed_by) \
               select id, pipeline, table, key, version, reason, detail, message, {state:String}, now64(6), parked_at, {by:String} \
               from platform.dead_letters final \
               where state = 'parked' and has(JSONExtract({ids:String}, 'Array(String)'), id)";
    clickhouse.execute(sql, &[("state", state), ("by", by), ("ids", &json(ids))]).await
}

/// Says of letters that stay parked what is wrong now, by their ids.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn note(clickhouse: &ClickHouse, details: &BTreeMap<&str, &str>) -> Result<(), Error> {
    if details.is_empty() {
        return Ok(());
    }
    let sql = "insert into platform.dead_letters \
               (id, pipeline, table, key, version, reason, detail, message, state, changed_at, parked_at) \
               select id, pipeline, table, key, version, reason, \
               JSONExtract({details:String}, 'Map(String, String)')[id], message, state, now64(6), parked_at \
               from platform.dead_letters final \
               where state = 'parked' and mapContains(JSONExtract({details:String}, 'Map(String, String)'), id)";
    clickhouse.execute(sql, &[("details", &json(details))]).await
}

/// How many letters of a table are parked.
#[derive(Debug, Serialize, Deserialize)]
pub struct ParkedRows {
    /// The table's name in ClickHouse.
    pub table: String,
    /// Letters.
    #[serde(deserialize_with = "text::deserialize")]
    pub letters: u64,
    /// Seconds that the oldest one waits.
    #[serde(deserialize_with = "text::deserialize")]
    pub oldest_s: i64,
}

/// Parked letters by table.
///
/// # Errors
/// ClickHouse's.
pub async fn parked_by_table(clickhouse: &ClickHouse, pipeline: &str) -> Result<Vec<ParkedRows>, Error> {
    let sql = "select table, count() as letters, dateDiff('second', min(parked_at), now64(6)) as oldest_s \
               from platform.dead_letters final where pipeline = {pipeline:String} and state = 'parked' \
               group by table order by table";
    clickhouse.fetch_all(sql, &[("pipeline", pipeline)]).await
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    // Strings and maps of strings are always JSON.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_one_form_in_requests() {
        for (selection, text) in [
            (Selection::Ids(vec!["cdc/1/2".into()]), r#"{"ids":["cdc/1/2"]}"#),
            (Selection::Table("orders".into()), r#"{"table":"orders"}"#),
            (Selection::All, r#""all""#),
        ] {
            assert_eq!(serde_json::to_string(&selection).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<Selection>(text).expect("valid"), selection);
        }
        assert!(serde_json::from_str::<Selection>(r#"{"everything":1}"#).is_err());
    }
}
