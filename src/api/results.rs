//! ClickHouse's answers as ours: `{meta, data, rows, statistics}` with exact numbers, and plain NDJSON and CSV.

use std::time::Duration;

use actix_web::web::Bytes;
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::{ApiError, ApiResult};
use crate::store::clickhouse::ClickHouse;

/// Rows and bytes that an answer may have.
const ROWS_MAX: &str = "100000";
const BYTES_MAX: &str = "67108864";
/// Bytes that a statement may have; ClickHouse's own default is a quarter.
const QUERY_BYTES_MAX: &str = "1048576";

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Format {
    /// One JSON object with columns and types.
    Json,
    /// One JSON object a row.
    Ndjson,
    /// With a header line.
    Csv,
}

impl Format {
    /// All of them, the default first.
    pub(super) const ALL: [Self; 3] = [Self::Json, Self::Ndjson, Self::Csv];

    /// Value of the parameter `format`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    /// Media type in `Accept` and `Content-Type`.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }

    fn clickhouse(self) -> &'static str {
        match self {
            Self::Json => "JSONCompact",
            Self::Ndjson => "JSONEachRow",
            Self::Csv => "CSVWithNames",
        }
    }
}

/// A column of an answer.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(super) struct ColumnMeta {
    /// Its name.
    #[schema(example = "posts")]
    pub name: String,
    /// Its type in ClickHouse.
    #[serde(rename = "type")]
    #[schema(example = "UInt64")]
    pub kind: String,
}

/// What an answer cost.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct Statistics {
    /// Milliseconds from the question to the answer of ClickHouse.
    pub elapsed_ms: f64,
    /// Rows that ClickHouse read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_read: Option<u64>,
}

/// Answer of an analytics endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResultSet {
    /// The columns, in order.
    pub meta: Vec<ColumnMeta>,
    /// The rows, each an object with the columns' names. Decimals are strings; integers are numbers.
    #[schema(value_type = Vec<Object>)]
    pub data: Rows,
    /// How many rows there are.
    pub rows: u64,
    /// What it cost.
    pub statistics: Statistics,
}

/// Rows as ClickHouse wrote their values; written as objects.
#[derive(Debug)]
pub(super) struct Rows {
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Compact {
    meta: Vec<ColumnMeta>,
    data: Vec<Vec<Box<RawValue>>>,
    rows: u64,
    #[serde(default)]
    statistics: Option<Cost>,
}

#[derive(Deserialize)]
struct Cost {
    rows_read: Option<u64>,
}

/// Runs a SELECT with bound parameters and returns the answer in ClickHouse's own writing of `format`.
///
/// # Errors
/// Those of ClickHouse, as problems; 422 when the answer would be too large.
pub(super) async fn select(
    clickhouse: &ClickHouse,
    sql: &str,
    parameters: &[(&str, Option<&str>)],
    format: Format,
) -> ApiResult<Bytes> {
    // 64-bit integers are quoted only where we take the quotes away again: a float in between would round them.
    let quoted = if format == Format::Json { "1" } else { "0" };
    let settings = [
        ("max_result_rows", ROWS_MAX),
        ("max_result_bytes", BYTES_MAX),
        ("result_overflow_mode", "throw"),
        ("date_time_output_format", "iso"),
        ("output_format_json_quote_64bit_integers", quoted),
        ("output_format_json_quote_decimals", "1"),
        ("session_timezone", "UTC"),
        // A client that hangs up, or a request that is given up, ends its query.
        ("cancel_http_readonly_queries_on_client_close", "1"),
        // Statistics of many days that are computed at once are a long text.
        ("max_query_size", QUERY_BYTES_MAX),
    ];
    Ok(clickhouse.select(sql, parameters, format.clickhouse(), &settings).await?)
}

/// The answer of `select` in `Format::Json` as a result set.
///
/// # Errors
/// 500 when ClickHouse's answer cannot be read.
pub(super) fn result_set(bytes: &[u8], elapsed: Duration) -> ApiResult<ResultSet> {
    let compact: Compact = serde_json::from_slice(bytes).map_err(ApiError::internal)?;
    let columns = compact.meta.iter().map(|column| (column.name.clone(), is_integer(&column.kind))).collect();
    let statistics = Statistics {
        elapsed_ms: (elapsed.as_secs_f64() * 1e6).round() / 1e3,
        rows_read: compact.statistics.and_then(|cost| cost.rows_read),
    };
    Ok(ResultSet { meta: compact.meta, data: Rows { columns, rows: compact.data }, rows: compact.rows, statistics })
}

/// Types whose values ClickHouse quotes and we write as numbers: a JSON number is exact, only some readers round it.
fn is_integer(kind: &str) -> bool {
    let mut inner = kind;
    for wrapper in ["LowCardinality(", "Nullable("] {
        inner = inner.strip_prefix(wrapper).and_then(|rest| rest.strip_suffix(')')).unwrap_or(inner);
    }
    matches!(inner, "UInt64" | "Int64")
}

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.rows.len()))?;
        for row in &self.rows {
            rows.serialize_element(&RowObject { columns: &self.columns, row })?;
        }
        rows.end()
    }
}

struct RowObject<'a> {
    columns: &'a [(String, bool)],
    row: &'a [Box<RawValue>],
}

impl Serialize for RowObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.columns.len()))?;
        for ((name, integer), value) in self.columns.iter().zip(self.row) {
            let bare = value.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            match bare.filter(|_| *integer).and_then(|digits| serde_json::from_str::<&RawValue>(digits).ok()) {
                Some(number) => object.serialize_entry(name, number)?,
                None => object.serialize_entry(name, value)?,
            }
        }
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_lose_their_quotes_and_nothing_else() {
        let compact = br#"{"meta":[{"name":"n","type":"UInt64"},{"name":"d","type":"Nullable(Decimal(4, 3))"},{"name":"m","type":"Nullable(Int64)"},{"name":"s","type":"String"}],
            "data":[["18446744073709551615","0.100",null,"7"]],"rows":1,"statistics":{"elapsed":0.1,"rows_read":5,"bytes_read":6}}"#;
        let set = result_set(compact, Duration::from_micros(1500)).expect("readable");
        let json = serde_json::to_string(&set.data).expect("JSON");
        assert_eq!(json, r#"[{"n":18446744073709551615,"d":"0.100","m":null,"s":"7"}]"#);
        assert_eq!(set.statistics.rows_read, Some(5));
        assert!((set.statistics.elapsed_ms - 1.5).abs() < 1e-9);
    }
}
