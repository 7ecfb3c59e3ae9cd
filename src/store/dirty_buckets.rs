//! Which buckets of the aggregates have changed: marks in `platform.dirty_buckets`, each with the number of the batch whose
//! rows a build must have seen.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::checkpoint::{self, text};
use super::clickhouse::{ClickHouse, Error};
use crate::catalog::{Aggregate, Block, Table};
use crate::domain::{TableName, quote_clickhouse};

/// Bytes of keys in one statement: they travel in the address of the request.
const KEYS_BYTES_MAX: usize = 64 << 10;
/// Keys of one statement.
const KEYS_MAX: usize = 2_000;
/// Buckets of one statement.
const BUCKETS_MAX: usize = 4_000;

/// Buckets that change, of all aggregates over a table whose buckets are those of one column.
#[derive(Debug)]
pub struct Marks<'a> {
    /// The aggregates' names.
    pub aggregates: &'a [String],
    /// The column that decides where a row belongs: its place in the table.
    pub column: usize,
    /// First seconds of the buckets that are known, since 1970.
    pub buckets: &'a BTreeSet<i64>,
}

/// Marks every bucket of an aggregate.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn mark_whole(clickhouse: &ClickHouse, aggregate: &str, batch: u64) -> Result<(), Error> {
    let sql = "insert into platform.dirty_buckets select {aggregate:String}, 1, toDateTime64('1970-01-01', 0, 'UTC'), \
               {batch:UInt64}, now64(6)";
    clickhouse.execute(sql, &[("aggregate", aggregate), ("batch", &batch.to_string())]).await
}

/// Something that changes with every mark.
///
/// # Errors
/// ClickHouse's.
pub async fn state(clickhouse: &ClickHouse) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Row {
        state: String,
    }
    let sql = "select concat(toString(max(batch)), ' ', toString(max(marked_at))) as state from platform.dirty_buckets";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[]).await?;
    Ok(row.map(|row| row.state).unwrap_or_default())
}

/// A batch's number that no build of `aggregate` has reached yet which began before now: for rows that are stored apart from the
/// batches of the log. Builds that begin from now on reach it when the sink of `pipeline`, which the aggregate's table belongs
/// to, has gone on a little.
///
/// # Errors
/// ClickHouse's.
pub async fn next_number(clickhouse: &ClickHouse, pipeline: &str, aggregate: &str) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        number: u64,
    }
    let batch = checkpoint::latest(clickhouse, pipeline).await?.map_or(0, |checkpoint| checkpoint.batch);
    // After a rewind the newest checkpoint is not the highest number.
    let sql = "select greatest((select max(batch) from platform.dirty_buckets where aggregate = {aggregate:String}), \
               (select max(as_of_batch) from platform.builds where splitByChar('@', aggregate)[1] = {aggregate:String})) as number";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[("aggregate", aggregate)]).await?;
    Ok(row.map_or(0, |row| row.number).max(batch).saturating_add(1))
}

/// Marks every bucket of the aggregates over `table`, whose rows somebody else than the sink's batches has changed.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn mark_table(
    clickhouse: &ClickHouse,
    pipeline: &str,
    aggregates: &[Aggregate],
    table: &TableName,
) -> Result<(), Error> {
    for aggregate in aggregates.iter().filter(|aggregate| aggregate.table == *table) {
        let batch = next_number(clickhouse, pipeline, &aggregate.name).await?;
        mark_whole(clickhouse, &aggregate.name, batch).await?;
    }
    Ok(())
}

/// Marks the buckets of `marks`, and those of every stored version of the rows of `block` that stand at `rows`: where they
/// are shown now.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn mark(
    clickhouse: &ClickHouse,
    table: &Table,
    marks: &Marks<'_>,
    (block, rows): (&Block, &[usize]),
    batch: u64,
) -> Result<(), Error> {
    let known: Vec<i64> = marks.buckets.iter().copied().collect();
    for some in known.chunks(BUCKETS_MAX) {
        let buckets = "select arrayJoin(JSONExtract({buckets:String}, 'Array(Int64)')) as bucket";
        insert(clickhouse, marks, batch, buckets, ("buckets", &format!("{some:?}"))).await?;
    }
    let Some(stored) = stored_buckets(table, marks.column) else {
        return mark_all_whole(clickhouse, marks, batch).await;
    };
    let mut keys = KeyTexts::default();
    for row in rows {
        let Some(key) = block.key_texts(table, *row) else {
            return mark_all_whole(clickhouse, marks, batch).await;
        };
        keys.push(&key);
        if keys.is_full() {
            insert(clickhouse, marks, batch, &stored, ("keys", &keys.take())).await?;
        }
    }
    if keys.count > 0 {
        insert(clickhouse, marks, batch, &stored, ("keys", &keys.take())).await?;
    }
    Ok(())
}

async fn mark_all_whole(clickhouse: &ClickHouse, marks: &Marks<'_>, batch: u64) -> Result<(), Error> {
    for aggregate in marks.aggregates {
        mark_whole(clickhouse, aggregate, batch).await?;
    }
    Ok(())
}

/// One statement for all aggregates: each is a part on the disk, and looks the keys up.
async fn insert(
    clickhouse: &ClickHouse,
    marks: &Marks<'_>,
    batch: u64,
    buckets: &str,
    values: (&str, &str),
) -> Result<(), Error> {
    let sql = format!(
        "insert into platform.dirty_buckets select arrayJoin(JSONExtract({{aggregates:String}}, 'Array(String)')), 0, \
         fromUnixTimestamp64Second(bucket, 'UTC'), {{batch:UInt64}}, now64(6) from ({buckets})"
    );
    let aggregates = serde_json::Value::from(marks.aggregates).to_string();
    clickhouse.execute(&sql, &[("aggregates", &aggregates), ("batch", &batch.to_string()), values]).await
}

/// The buckets of all stored versions of the keys in `{keys}`; `None` when the column has no buckets.
fn stored_buckets(table: &Table, column: usize) -> Option<String> {
    let bucket = table.columns().get(column)?.bucket_expression()?;
    let names: Vec<String> = table.key_columns().map(|column| quote_clickhouse(column.name())).collect();
    let values: Vec<String> = (1..)
        .zip(table.key_columns())
        .map(|(number, column)| column.from_text_in_clickhouse(&format!("k[{number}]")))
        .collect();
    let (names, values) = (names.join(", "), values.join(", "));
    Some(format!(
        "select distinct assumeNotNull({bucket}) as bucket from {} where ({names}) in \
         (select {values} from (select arrayJoin(JSONExtract({{keys:String}}, 'Array(Array(String))')) as k)) \
         and {bucket} is not null",
        table.name().quoted_clickhouse("mirror")
    ))
}

/// Keys as a JSON array of arrays of texts.
#[derive(Debug, Default)]
struct KeyTexts {
    json: String,
    count: usize,
}

impl KeyTexts {
    fn push(&mut self, key: &[String]) {
        self.json.push(if self.count == 0 { '[' } else { ',' });
        self.json.push_str(&serde_json::Value::from(key).to_string());
        self.count += 1;
    }

    fn is_full(&self) -> bool {
        self.count >= KEYS_MAX || self.json.len() >= KEYS_BYTES_MAX
    }

    fn take(&mut self) -> String {
        let mut json = std::mem::take(&mut self.json);
        json.push(']');
        self.count = 0;
        json
    }
}

/// The tables that have parked rows: of those the mirror may show older rows than the log's before-images say.
///
/// # Errors
/// ClickHouse's.
pub async fn tables_with_parked_rows(clickhouse: &ClickHouse, pipeline: &str) -> Result<BTreeSet<String>, Error> {
    #[derive(Deserialize)]
    struct Row {
        table: String,
    }
    let sql = "select distinct table from platform.dead_letters final \
               where pipeline = {pipeline:String} and state = 'parked'";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &[("pipeline", pipeline)]).await?;
    Ok(rows.into_iter().map(|row| row.table).collect())
}
