//! The current rows of one day out of the mirror: exactly, and at a cost that does not grow with the table.

use serde::Deserialize;
use serde_json::Value;

use super::aggregates::{failed, failed_in};
use super::clickhouse::{ClickHouse, Error};
use super::mirror;
use super::mirror_parts::MirrorParts;
use super::moments::{self, Moments};
use crate::catalog::{Aggregate, Check, SOURCE};
use crate::domain::{Failure, RunDate, TableName, Version, quote_clickhouse};

/// How to read days of an aggregate's table.
#[derive(Debug, Clone)]
pub struct MirrorTable {
    table: String,
    key: String,
    column: String,
    floor: Version,
}

impl MirrorTable {
    /// Looks up the mirror's key and the table's floor; `None` when there is no mirror, or this user may not see it.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn find(clickhouse: &ClickHouse, aggregate: &Aggregate) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Row {
            sorting_key: String,
        }
        let table = &aggregate.table;
        let sql = "select sorting_key from system.tables where database = 'mirror' and name = {table:String}";
        let name = table.mirror_name();
        let key = async { clickhouse.fetch_optional(sql, &[("table", &name)]).await };
        let (row, floor): (Option<Row>, Version) = tokio::try_join!(key, mirror::floor_of(clickhouse, table))?;
        let Some(Row { sorting_key: key }) = row else { return Ok(None) };
        Ok(Some(Self::of(aggregate, key, floor)))
    }

    fn of(aggregate: &Aggregate, key: String, floor: Version) -> Self {
        let column = quote_clickhouse(&aggregate.bucket_column);
        Self { table: aggregate.table.quoted_clickhouse("mirror"), key, column, floor }
    }

    /// The table with every version of every row.
    pub fn versions(&self) -> &str {
        &self.table
    }

    /// The table's floor.
    pub fn floor(&self) -> Version {
        self.floor
    }

    /// The current rows of a day as something to select from. The parameters `bucket_from`, `bucket_to` and `floor` have to be
    /// bound, each with `suffix` behind its name.
    pub fn rows(&self, suffix: &str) -> String {
        let Self { table, key, column, .. } = self;
        let bucket = bucket(column, suffix);
        // A row that is in the day now has a version in the day, and a condition on the key is safe under FINAL; the
        // rest of the conditions stands outside it.
        format!(
            "(select * from {table} final where ({key}) in (select {key} from {table} where {bucket}) \
             and {bucket} and _deleted = 0 and _version >= {{floor{suffix}:UInt128}})"
        )
    }
}

/// The same through the view, for users that may not read the mirror: exact too, and without `moments` at the cost of the table.
pub fn rows_of_view(aggregate: &Aggregate, moments: Option<&Moments>, suffix: &str) -> String {
    let bucket = bucket(&quote_clickhouse(&aggregate.bucket_column), suffix);
    moments::rows(&aggregate.table, moments, &aggregate.bucket_column, &bucket)
}

fn bucket(column: &str, suffix: &str) -> String {
    format!(
        "{column} >= {{bucket_from{suffix}:DateTime64(6, 'UTC')}} and {column} < {{bucket_to{suffix}:DateTime64(6, 'UTC')}}"
    )
}

/// The values of a day's parameters: the `bucket` itself and its ends, as `rows` and `rows_of_view` name them.
pub fn bucket_parameters(aggregate: &Aggregate, bucket: RunDate, suffix: &str) -> [(String, String); 3] {
    let moment = |time: chrono::DateTime<chrono::Utc>| time.format("%Y-%m-%d %H:%M:%S").to_string();
    [
        (format!("bucket{suffix}"), bucket.to_string()),
        (format!("bucket_from{suffix}"), moment(bucket.start())),
        (format!("bucket_to{suffix}"), moment(aggregate.unit.end(bucket))),
    ]
}

/// How to read one day of an aggregate's table.
#[derive(Debug, Clone)]
pub struct MirrorDay {
    table: MirrorTable,
    rows: String,
    bucket: [(String, String); 3],
    name: TableName,
    parts: MirrorParts,
}

/// What the rows of a day are, as far as anybody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Their number.
    pub rows: u64,
    /// Over their keys and versions, independent of their order.
    pub hash: String,
    /// The values of the checks that were asked for, in their order.
    pub checks: Vec<String>,
}

impl MirrorDay {
    /// Looks up the mirror's key, the table's floor, and its parts.
    ///
    /// # Errors
    /// `Failure::Config` when the table has no mirror yet.
    pub async fn find(clickhouse: &ClickHouse, aggregate: &Aggregate, day: RunDate) -> anyhow::Result<Self> {
        let found = MirrorParts::read(clickhouse, &aggregate.table).await;
        match found.map_err(|error| failed("looking for the mirror", error))? {
            Some(parts) => {
                let table = MirrorTable::of(aggregate, parts.key.clone(), parts.floor);
                let (rows, bucket) = (table.rows(""), bucket_parameters(aggregate, day, ""));
                Ok(Self { rows, table, bucket, name: aggregate.table.clone(), parts })
            }
            None => {
                let text = format!("{} has no mirror yet; run `platform load`", aggregate.table);
                Err(Failure::Config(text).into())
            }
        }
    }

    /// Whether every read since it was found, and that has ended, saw the same rows. `false`: it is not known.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn is_as_found(&self, clickhouse: &ClickHouse) -> anyhow::Result<bool> {
        let now = MirrorParts::read(clickhouse, &self.name).await;
        let now = now.map_err(|error| failed("looking at the mirror's parts", error))?;
        Ok(now.is_some_and(|now| self.parts.is_same_as(&now)))
    }

    /// Whether nobody seemed to write to the table when it was found.
    pub fn was_idle(&self) -> bool {
        self.parts.is_idle()
    }

    /// A SELECT of the aggregate's columns, with the parameters that `parameters` gives.
    pub fn select(&self, aggregate: &Aggregate) -> String {
        aggregate.select.replace(SOURCE, &self.rows)
    }

    /// Values of the parameters of `select`, and the `bucket` itself.
    pub fn parameters(&self) -> [(String, String); 4] {
        let [bucket, from, to] = self.bucket.clone();
        [bucket, from, to, ("floor".to_owned(), self.table.floor.get().to_string())]
    }

    /// The statement that reads the day's facts: which rows there are, and the values of `checks`, which cost as much again.
    pub fn facts_sql(&self, checks: &[Check]) -> String {
        let checks: String = checks.iter().map(|check| format!(", {}", check.clickhouse)).collect();
        // Decimals with the zeros of their scale, as PostgreSQL prints them.
        format!(
            "select count(), sum(reinterpretAsUInt128(sipHash128({}, _version))){checks} from {} \
             settings output_format_decimal_trailing_zeros = 1",
            self.table.key, self.rows
        )
    }

    /// A statement that has everything in it that a header says of the result: its keys, and `rows`.
    pub fn judging(&self, aggregate: &Aggregate) -> String {
        let keys: Vec<String> = aggregate.keys.iter().map(|key| quote_clickhouse(key)).collect();
        let rows = aggregate.rows.as_deref().unwrap_or("count()");
        format!("select {rows}, uniqExact(tuple({})) from (\n{}\n)", keys.join(", "), self.select(aggregate))
    }

    /// Reads the day's facts in one statement, with some of the aggregate's checks.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn facts(
        &self,
        clickhouse: &ClickHouse,
        aggregate: &Aggregate,
        checks: &[Check],
    ) -> anyhow::Result<Facts> {
        let sql = self.facts_sql(checks);
        let parameters = self.parameters();
        let bytes = clickhouse
            .fetch_bytes(
                &sql,
                &parameters.each_ref().map(|(name, value)| (name.as_str(), value.as_str())),
                "JSONCompactEachRow",
            )
            .await
            .map_err(|error| failed_in(aggregate, "reading the day", error))?;
        let unreadable = || anyhow::anyhow!("the day's facts cannot be read");
        let row: Vec<Value> = serde_json::from_slice(&bytes)?;
        let mut texts = row.into_iter().map(|value| match value {
            Value::String(text) => text,
            // Small numbers, and `null`.
            other => other.to_string(),
        });
        let rows = texts.next().and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
        let hash = texts.next().ok_or_else(unreadable)?;
        Ok(Facts { rows, hash, checks: texts.collect() })
    }
}

impl Facts {
    /// Whether they are of the same rows, each in the same version.
    pub fn are_of_the_rows_of(&self, other: &Self) -> bool {
        (self.rows, &self.hash) == (other.rows, &other.hash)
    }

    /// Identifies the rows and the SQL text that a build is made of.
    pub fn fingerprint(&self, aggregate: &Aggregate) -> String {
        format!("{}:{}:{}", aggregate.definition, self.rows, self.hash)
    }
}
