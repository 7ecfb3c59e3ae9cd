//! The current rows of one day out of the mirror: exactly, and at a cost that does not grow with the table.

use serde::Deserialize;
use serde_json::Value;

use super::aggregates::{failed, failed_in};
use super::clickhouse::{ClickHouse, Error, Parameter};
use super::key_range::KeyRange;
use super::mirror;
use super::mirror_parts::MirrorParts;
use super::moments::{self, Moments};
use crate::catalog::{Aggregate, Check, SOURCE};
use crate::domain::{Failure, RunDate, Version, quote_clickhouse};

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
        let keys = format!("({key}) in (select {key} from {table} where {})", bucket(column, suffix));
        self.rows_of(&keys, suffix)
    }

    /// The same for a day whose keys are those from `key_first` to `key_last`, which have to be bound too.
    pub(super) fn rows_between(&self, key_type: &str) -> String {
        self.rows_of(&self.between(key_type), "")
    }

    fn rows_of(&self, keys: &str, suffix: &str) -> String {
        let Self { table, column, .. } = self;
        // A row that is in the day now has a version in the day, and a condition on the key is safe under FINAL; the
        // rest of the conditions stands outside it.
        format!(
            "(select * from {table} final where {keys} and {} and _deleted = 0 and _version >= {{floor{suffix}:UInt128}})",
            bucket(column, suffix)
        )
    }

    /// A statement about a day's keys, if they are those of a column, with the parameters of `rows("")`: the first and the last of all
    /// versions in the day, their type, and the number of these versions.
    pub(super) fn key_range_sql(&self) -> String {
        let Self { table, key, column, .. } = self;
        format!(
            "select toString(min({key})) as first, toString(max({key})) as last, toTypeName(assumeNotNull(min({key}))) as key_type, \
             count() as versions from {table} where {}",
            bucket(column, "")
        )
    }

    /// A statement that counts the versions of a range of keys, of any day, with the parameters of `rows_between`.
    pub(super) fn versions_between_sql(&self, key_type: &str) -> String {
        format!("select count() as versions from {} where {}", self.table, self.between(key_type))
    }

    fn between(&self, key_type: &str) -> String {
        let key = &self.key;
        format!("{key} >= {{key_first:{key_type}}} and {key} <= {{key_last:{key_type}}}")
    }
}

/// The same through the view, for users that may not read the mirror: exact too, and without `moments` at the cost of the table.
pub fn rows_of_view(aggregate: &Aggregate, moments: Option<&Moments>, suffix: &str) -> String {
    let bucket = bucket(&quote_clickhouse(&aggregate.bucket_column), suffix);
    moments::rows(&aggregate.table, moments, &aggregate.bucket_column, &bucket)
}

/// Whether a sorting key as ClickHouse writes it, `(id)` or `id`, is a single column: of several it is not searched for a range of all.
fn is_one_column(key: &str) -> bool {
    let inner = key.strip_prefix('(').and_then(|key| key.strip_suffix(')')).unwrap_or(key);
    !inner.contains([',', '(', ')'])
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

/// Versions of a table below which looking for a range of keys would cost more than it saves. Of 160,000, all of one day, it costs 20 ms of
/// CPU and spares the hash 40, and each SELECT as much.
const SEARCHED_MIN: u64 = 100_000;

/// How to read one day of an aggregate's table.
#[derive(Debug, Clone)]
pub struct MirrorDay {
    table: MirrorTable,
    rows: String,
    parameters: Vec<(String, String)>,
    parts: MirrorParts,
}

/// What the rows of a day are, as far as anybody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Their number.
    pub rows: u64,
    /// Over their keys and versions, independent of their order: the sum of a hash of 64 bits of each. Two looks at a day are compared,
    /// so that other rows are taken for the same ones once in 2^64 times.
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
        let Some(parts) = found.map_err(|error| failed("looking for the mirror", error))? else {
            let text = format!("{} has no mirror yet; run `platform load`", aggregate.table);
            return Err(Failure::Config(text).into());
        };
        let table = MirrorTable::of(aggregate, parts.key.clone(), parts.floor);
        let mut parameters = Vec::from(bucket_parameters(aggregate, day, ""));
        parameters.push(("floor".to_owned(), parts.floor.get().to_string()));
        Ok(Self { rows: table.rows(""), table, parameters, parts })
    }

    /// The same day by the range of its keys, where they stand close together in a large table, as they do where both count up with
    /// time: that spares the engine a set of all of them. A row that is in the day now has a version in the day, so its key is in
    /// their range; a row that comes into the day after this look may be missed like one that comes after the read.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn narrowed(mut self, clickhouse: &ClickHouse) -> anyhow::Result<Self> {
        if self.parts.versions >= SEARCHED_MIN && is_one_column(&self.table.key) {
            let found = KeyRange::find(clickhouse, &self.table, &self.parameters()).await;
            if let Some(range) = found.map_err(|error| failed("looking for the day's keys", error))? {
                self.rows = self.table.rows_between(&range.key_type);
                self.parameters.extend([("key_first".to_owned(), range.first), ("key_last".to_owned(), range.last)]);
            }
        }
        Ok(self)
    }

    /// Whether every read that began after it was found, and ended before `later` was, saw the same rows. `false`: it is not known.
    pub fn is_same_as(&self, later: &Self) -> bool {
        self.parts.is_same_as(&later.parts)
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
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// The statement that reads the day's facts: which rows there are, and the values of `checks`, which cost as much again.
    pub fn facts_sql(&self, checks: &[Check]) -> String {
        let checks: String = checks.iter().map(|check| format!(", {}", check.clickhouse)).collect();
        // Decimals with the zeros of their scale, as PostgreSQL prints them.
        format!(
            "select count(), sum(xxh3({}, _version)){checks} from {} \
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
        let bytes = clickhouse
            .fetch_bytes(&self.facts_sql(checks), &self.parameters(), "JSONCompactEachRow")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_column_has_a_range() {
        assert!(is_one_column("(id)") && is_one_column("id") && is_one_column("(`a b`)"));
        assert!(!is_one_column("(tenant, id)") && !is_one_column("(lower(id))") && !is_one_column("lower(id)"));
    }
}
