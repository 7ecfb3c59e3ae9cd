//! How far behind the mirror was: `platform.lag_history` in ClickHouse, a sample every few seconds, kept for some days.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::checkpoint::{parse_time, text};
use super::clickhouse::{ClickHouse, Error};

/// What was measured at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: DateTime<Utc>,
    /// Milliseconds from the newest applied commit.
    pub lag_ms: i64,
    /// Bytes of PostgreSQL's log that are not applied.
    pub lag_bytes: u64,
    /// Bytes of log that PostgreSQL keeps for the connector.
    pub retained_bytes: u64,
}

/// Stores a sample.
///
/// # Errors
/// ClickHouse's.
pub async fn store(clickhouse: &ClickHouse, pipeline: &str, sample: &Sample) -> Result<(), Error> {
    let sql = "insert into platform.lag_history select {pipeline:String}, fromUnixTimestamp64Milli({at:Int64}, 'UTC'), \
               {lag_ms:Int64}, {lag_bytes:UInt64}, {retained_bytes:UInt64}";
    let parameters = [
        ("pipeline", pipeline),
        ("at", &sample.at.timestamp_millis().to_string()),
        ("lag_ms", &sample.lag_ms.to_string()),
        ("lag_bytes", &sample.lag_bytes.to_string()),
        ("retained_bytes", &sample.retained_bytes.to_string()),
    ];
    clickhouse.execute(sql, &parameters).await
}

/// The greatest figures of each step of `step_s` seconds, of the last `seconds`; the oldest first.
///
/// # Errors
/// ClickHouse's.
pub async fn read(clickhouse: &ClickHouse, pipeline: &str, seconds: u32, step_s: u32) -> Result<Vec<Sample>, Error> {
    #[derive(Deserialize)]
    struct Row {
        step: String,
        #[serde(with = "text")]
        lag: i64,
        #[serde(with = "text")]
        bytes: u64,
        #[serde(with = "text")]
        retained: u64,
    }
    let sql = "select toString(toStartOfInterval(at, toIntervalSecond({step:UInt32}))) as step, max(lag_ms) as lag, \
               max(lag_bytes) as bytes, max(retained_bytes) as retained from platform.lag_history \
               where pipeline = {pipeline:String} and at >= now64(3) - toIntervalSecond({seconds:UInt32}) group by step order by step";
    let (seconds, step_s) = (seconds.to_string(), step_s.to_string());
    let parameters = [("pipeline", pipeline), ("seconds", &seconds), ("step", &step_s)];
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &parameters).await?;
    let sample = |row: Row| {
        let at = parse_time(&row.step)?;
        Ok(Sample { at, lag_ms: row.lag, lag_bytes: row.bytes, retained_bytes: row.retained })
    };
    rows.into_iter().map(sample).collect()
}
