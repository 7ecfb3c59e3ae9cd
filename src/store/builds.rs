//! What the batch half remembers in ClickHouse: the build of each bucket, and the history of its runs.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};
use crate::domain::{Lsn, RunDate, TableName};

/// The build that readers see of one bucket of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Also in every row of the bucket.
    pub build_id: Uuid,
    /// Last batch of the sink that was acknowledged before the mirror was read.
    pub as_of_batch: u64,
    /// Every transaction committed below is in it.
    pub as_of_lsn: Lsn,
    /// Identifies the rows and the SQL text it was made of.
    pub fingerprint: String,
    /// Rows of the mirror in the bucket.
    pub rows_in: u64,
    /// Rows of the result.
    pub rows_out: u64,
}

/// One run of a job, for its history.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// Which job, such as `etl:sentiment_daily`.
    pub job: &'a str,
    /// What it worked on, such as a day.
    pub bucket: &'a str,
    /// `done`, `unchanged` or `failed`.
    pub status: &'a str,
    /// Why it failed; empty otherwise.
    pub detail: &'a str,
    /// Who called it, as JSON.
    pub context: &'a str,
    /// What it made, if anything.
    pub build: Option<&'a Build>,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// The build of a bucket that was recorded last.
///
/// # Errors
/// ClickHouse's.
pub async fn latest(clickhouse: &ClickHouse, aggregate: &str, bucket: RunDate) -> Result<Option<Build>, Error> {
    #[derive(Deserialize)]
    struct Row {
        build_id: Uuid,
        #[serde(with = "text")]
        as_of_batch: u64,
        #[serde(with = "text")]
        as_of_lsn: u64,
        fingerprint: String,
        #[serde(with = "text")]
        rows_in: u64,
        #[serde(with = "text")]
        rows_out: u64,
    }
    let sql = "select build_id, as_of_batch, as_of_lsn, fingerprint, rows_in, rows_out from platform.builds final \
               where aggregate = {aggregate:String} and bucket = {bucket:Date32} settings max_threads = 1";
    let parameters = [("aggregate", aggregate), ("bucket", &bucket.to_string())];
    let row: Option<Row> = clickhouse.fetch_optional(sql, &parameters).await?;
    Ok(row.map(|row| Build {
        build_id: row.build_id,
        as_of_batch: row.as_of_batch,
        as_of_lsn: Lsn::new(row.as_of_lsn),
        fingerprint: row.fingerprint,
        rows_in: row.rows_in,
        rows_out: row.rows_out,
    }))
}

/// Records a build; the newest stands.
///
/// # Errors
/// ClickHouse's.
pub async fn store(clickhouse: &ClickHouse, aggregate: &str, bucket: RunDate, build: &Build) -> Result<(), Error> {
    let sql = "insert into platform.builds select {aggregate:String}, {bucket:Date32}, {build_id:UUID}, {batch:UInt64}, \
               {lsn:UInt64}, {fingerprint:String}, {rows_in:UInt64}, {rows_out:UInt64}, now64(6)";
    let parameters = [
        ("aggregate", aggregate.to_owned()),
        ("bucket", bucket.to_string()),
        ("build_id", build.build_id.to_string()),
        ("batch", build.as_of_batch.to_string()),
        ("lsn", build.as_of_lsn.get().to_string()),
        ("fingerprint", build.fingerprint.clone()),
        ("rows_in", build.rows_in.to_string()),
        ("rows_out", build.rows_out.to_string()),
    ];
    clickhouse.execute(sql, &parameters.each_ref().map(|(name, value)| (*name, value.as_str()))).await
}

/// Adds a run to the history.
///
/// # Errors
/// ClickHouse's.
pub async fn store_run(clickhouse: &ClickHouse, run: &Run<'_>) -> Result<(), Error> {
    let sql = "insert into platform.runs select {run_id:UUID}, {job:String}, {bucket:String}, {status:String}, {detail:String}, \
               {context:String}, {build_id:UUID}, {rows_in:UInt64}, {rows_out:UInt64}, {lsn:UInt64}, \
               fromUnixTimestamp64Micro({started_at:Int64}, 'UTC'), now64(6)";
    let build = run.build;
    let number = |value: Option<u64>| value.unwrap_or(0).to_string();
    let parameters = [
        ("run_id", Uuid::now_v7().to_string()),
        ("job", run.job.to_owned()),
        ("bucket", run.bucket.to_owned()),
        ("status", run.status.to_owned()),
        ("detail", run.detail.to_owned()),
        ("context", run.context.to_owned()),
        ("build_id", build.map_or(Uuid::nil(), |build| build.build_id).to_string()),
        ("rows_in", number(build.map(|build| build.rows_in))),
        ("rows_out", number(build.map(|build| build.rows_out))),
        ("lsn", number(build.map(|build| build.as_of_lsn.get()))),
        ("started_at", run.started_at.timestamp_micros().to_string()),
    ];
    clickhouse.execute(sql, &parameters.each_ref().map(|(name, value)| (*name, value.as_str()))).await
}

/// What is known of a mirrored table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// `loading`, `live` or `halted`; empty before the first load.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Position that the watermark must pass before the last load is complete.
    pub snapshot: Lsn,
}

/// Reads them.
///
/// # Errors
/// ClickHouse's.
pub async fn table_facts(clickhouse: &ClickHouse, table: &TableName) -> Result<TableFacts, Error> {
    #[derive(Deserialize)]
    struct Row {
        state: String,
        reason: String,
        #[serde(with = "text")]
        snapshot: u64,
    }
    let sql = "select argMax(state, changed_at) as state, argMax(reason, changed_at) as reason, \
               argMax(snapshot_lsn, changed_at) as snapshot from platform.tables where table = {table:String}";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[("table", &table.mirror_name())]).await?;
    let row = row.ok_or_else(|| Error::Unreadable("an aggregate without a row".into()))?;
    Ok(TableFacts { state: row.state, reason: row.reason, snapshot: Lsn::new(row.snapshot) })
}

/// How many rows of a table are parked in `platform.dead_letters`.
///
/// # Errors
/// ClickHouse's.
pub async fn parked(clickhouse: &ClickHouse, table: &TableName) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        parked: u64,
    }
    let sql =
        "select count() as parked from platform.dead_letters final where table = {table:String} and state = 'parked'";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[("table", &table.mirror_name())]).await?;
    Ok(row.map_or(0, |row| row.parked))
}
