//! The current rows of one day out of the mirror: exactly, and at a cost that does not grow with the table.

use serde::Deserialize;
use serde_json::Value;

use super::{failed, failed_in};
use crate::catalog::{Aggregate, SOURCE};
use crate::domain::{Failure, RunDate, Version, quote_clickhouse};
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror;

/// How to read one day of an aggregate's table.
#[derive(Debug, Clone)]
pub struct MirrorDay {
    rows: String,
    key: String,
    floor: Version,
    day: RunDate,
}

/// What the rows of a day are, as far as anybody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Their number.
    pub rows: u64,
    /// Over their keys and versions, independent of their order.
    pub hash: String,
    /// The values of the aggregate's checks, in their order.
    pub checks: Vec<String>,
}

impl MirrorDay {
    /// Looks up the mirror's key and the table's floor.
    ///
    /// # Errors
    /// `Failure::Config` when the table has no mirror yet.
    pub async fn find(clickhouse: &ClickHouse, aggregate: &Aggregate, day: RunDate) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            sorting_key: String,
        }
        let table = &aggregate.table;
        let sql = "select sorting_key from system.tables where database = 'mirror' and name = {table:String}";
        let row: Option<Row> = clickhouse
            .fetch_optional(sql, &[("table", &table.mirror_name())])
            .await
            .map_err(|error| failed("looking for the mirror", error))?;
        let Some(Row { sorting_key: key }) = row else {
            return Err(Failure::Config(format!("{table} has no mirror yet; run `platform load`")).into());
        };
        let floor = mirror::floor_of(clickhouse, table).await.map_err(|error| failed("reading the floor", error))?;
        let mirror = table.quoted_clickhouse("mirror");
        let column = quote_clickhouse(&aggregate.bucket_column);
        let bucket = format!(
            "{column} >= {{bucket_from:DateTime64(6, 'UTC')}} and {column} < {{bucket_to:DateTime64(6, 'UTC')}}"
        );
        // A row that is in the day now has a version in the day, and a condition on the key is safe under FINAL; the
        // rest of the conditions stands outside it.
        let rows = format!(
            "(select * from {mirror} final where ({key}) in (select {key} from {mirror} where {bucket}) \
             and {bucket} and _deleted = 0 and _version >= {{floor:UInt128}})"
        );
        Ok(Self { rows, key, floor, day })
    }

    /// A SELECT of the aggregate's columns, with the parameters that `parameters` gives.
    pub fn select(&self, aggregate: &Aggregate) -> String {
        aggregate.select.replace(SOURCE, &self.rows)
    }

    /// Values of the parameters of `select`, and the `bucket` itself.
    pub fn parameters(&self) -> [(&'static str, String); 4] {
        let moment = |time: chrono::DateTime<chrono::Utc>| time.format("%Y-%m-%d %H:%M:%S").to_string();
        [
            ("bucket", self.day.to_string()),
            ("bucket_from", moment(self.day.start())),
            ("bucket_to", moment(self.day.end())),
            ("floor", self.floor.get().to_string()),
        ]
    }

    /// Reads the day's facts in one statement.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn facts(&self, clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<Facts> {
        let checks: String = aggregate.checks.iter().map(|check| format!(", {}", check.clickhouse)).collect();
        // Decimals with the zeros of their scale, as PostgreSQL prints them.
        let sql = format!(
            "select count(), sum(reinterpretAsUInt128(sipHash128({}, _version))){checks} from {} \
             settings output_format_decimal_trailing_zeros = 1",
            self.key, self.rows
        );
        let parameters = self.parameters();
        let bytes = clickhouse
            .fetch_bytes(
                &sql,
                &parameters.each_ref().map(|(name, value)| (*name, value.as_str())),
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
    /// Identifies the rows and the SQL text that a build is made of.
    pub fn fingerprint(&self, aggregate: &Aggregate) -> String {
        let sql = aggregate.sha256.get(..16).unwrap_or(&aggregate.sha256);
        format!("{sql}:{}:{}", self.rows, self.hash)
    }
}
