//! The history of jobs: `platform.runs` in ClickHouse.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::checkpoint::{parse_time, text};
use super::clickhouse::{ClickHouse, Error};
use crate::domain::Lsn;

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// A UUID.
    pub id: String,
    /// Which job, such as `etl:sentiment_daily` or `verify`.
    pub job: String,
    /// What it worked on, such as a day or a table.
    pub bucket: String,
    /// How it ended.
    pub status: String,
    /// Why it failed, or what was found.
    pub detail: String,
    /// Who called it, as JSON.
    pub context: String,
    /// The build that it made, if any.
    pub build_id: Option<String>,
    /// Rows that went in.
    pub rows_in: u64,
    /// Rows that came out.
    pub rows_out: u64,
    /// What it had seen of the log.
    pub as_of_lsn: Lsn,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
}

/// Which runs; empty means every one.
#[derive(Debug, Clone, Copy)]
pub struct RunFilter<'a> {
    /// The first word of the job: `etl` or `verify`.
    pub job: &'a str,
    /// The status.
    pub status: &'a str,
    /// What it worked on.
    pub bucket: &'a str,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    job: String,
    bucket: String,
    status: String,
    detail: String,
    context: String,
    build_id: String,
    #[serde(with = "text")]
    rows_in: u64,
    #[serde(with = "text")]
    rows_out: u64,
    #[serde(with = "text")]
    as_of_lsn: u64,
    started: String,
    finished: String,
}

const COLUMNS: &str = "toString(run_id) as id, job, bucket, status, detail, context, \
                       if(build_id = toUUID('00000000-0000-0000-0000-000000000000'), '', toString(build_id)) as build_id, rows_in, rows_out, \
                       as_of_lsn, toString(started_at) as started, toString(finished_at) as finished";

impl Row {
    fn run(self) -> Result<StoredRun, Error> {
        Ok(StoredRun {
            id: self.id,
            job: self.job,
            bucket: self.bucket,
            status: self.status,
            detail: self.detail,
            context: self.context,
            build_id: (!self.build_id.is_empty()).then_some(self.build_id),
            rows_in: self.rows_in,
            rows_out: self.rows_out,
            as_of_lsn: Lsn::new(self.as_of_lsn),
            started_at: parse_time(&self.started)?,
            finished_at: parse_time(&self.finished)?,
        })
    }
}

/// Runs, the newest first, from the one behind `after` on: its start in microseconds and its id.
///
/// # Errors
/// ClickHouse's.
pub async fn list(
    clickhouse: &ClickHouse,
    filter: RunFilter<'_>,
    after: Option<(i64, &str)>,
    limit: u32,
) -> Result<Vec<StoredRun>, Error> {
    let (micros, id) = after.unwrap_or((i64::MAX, "ffffffff-ffff-ffff-ffff-ffffffffffff"));
    let sql = format!(
        "select {COLUMNS} from platform.runs final \
         where splitByChar(':', job)[1] = {{job:String}} and ({{status:String}} = '' or status = {{status:String}}) \
         and ({{bucket:String}} = '' or bucket = {{bucket:String}}) \
         and (toUnixTimestamp64Micro(started_at), run_id) < ({{micros:Int64}}, {{id:UUID}}) \
         order by started_at desc, run_id desc limit {limit}"
    );
    let micros = micros.to_string();
    let parameters =
        [("job", filter.job), ("status", filter.status), ("bucket", filter.bucket), ("micros", &micros), ("id", id)];
    let rows: Vec<Row> = clickhouse.fetch_all(&sql, &parameters).await?;
    rows.into_iter().map(Row::run).collect()
}

/// One run.
///
/// # Errors
/// ClickHouse's.
pub async fn get(clickhouse: &ClickHouse, job: &str, id: uuid::Uuid) -> Result<Option<StoredRun>, Error> {
    let sql = format!(
        "select {COLUMNS} from platform.runs final where splitByChar(':', job)[1] = {{job:String}} and run_id = {{id:UUID}}"
    );
    let row: Option<Row> = clickhouse.fetch_optional(&sql, &[("job", job), ("id", &id.to_string())]).await?;
    row.map(Row::run).transpose()
}
