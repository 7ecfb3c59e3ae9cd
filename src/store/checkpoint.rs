//! Where a pipeline stands, as the sink left it in ClickHouse.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::clickhouse::{ClickHouse, Error};
use crate::domain::Lsn;

/// The newest checkpoint of a pipeline: everything below is durable in ClickHouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Writer's term; each take-over raises it.
    pub term: u64,
    /// Number of the batch, which only rises.
    pub batch: u64,
    /// Number of the log that the positions belong to.
    pub log: u16,
    /// Topic that `next_offset` counts in.
    pub topic: String,
    /// First offset that is not applied yet.
    pub next_offset: i64,
    /// Every transaction committed below is applied.
    pub watermark: Lsn,
    /// SHA-256 of the last record before `next_offset`, hexadecimal; empty before the first.
    pub record_hash: String,
    /// Last value of the heartbeat's counter; −1 before the first.
    pub heartbeat: i64,
    /// Commit time of the newest applied event, by PostgreSQL's clock.
    pub committed_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(with = "text")]
    term: u64,
    #[serde(with = "text")]
    batch: u64,
    log: u16,
    topic: String,
    #[serde(with = "text")]
    next_offset: i64,
    #[serde(with = "text")]
    watermark_lsn: u64,
    record_hash: String,
    #[serde(with = "text")]
    heartbeat: i64,
    committed_at: String,
}

/// 64-bit integers as JSON strings, which is how `ClickHouse::fetch_all` receives them.
pub mod text {
    use serde::{Deserialize as _, Deserializer, de::Error as _};

    /// Reads the text of a number.
    ///
    /// # Errors
    /// The text is no number of this type.
    pub fn deserialize<'de, D: Deserializer<'de>, T: std::str::FromStr>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("not a number of the expected type"))
    }
}

/// Reads a `DateTime64(n, 'UTC')` as ClickHouse prints it.
///
/// # Errors
/// `Error::Unreadable` when the text is no time.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, Error> {
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    time.map(|time| time.and_utc()).map_err(|_| Error::Unreadable(format!("{text:?} is not a time")))
}

/// The newest checkpoint of `pipeline`, or `None` before the first load.
///
/// # Errors
/// ClickHouse's, among them code 60 when the schema was never made.
pub async fn latest(clickhouse: &ClickHouse, pipeline: &str) -> Result<Option<Checkpoint>, Error> {
    let columns = "term, batch, log, topic, next_offset, watermark_lsn, record_hash, heartbeat, committed_at";
    let row: Option<Row> = newest(clickhouse, pipeline, columns).await?;
    row.map(|row| {
        Ok(Checkpoint {
            term: row.term,
            batch: row.batch,
            log: row.log,
            topic: row.topic,
            next_offset: row.next_offset,
            watermark: Lsn::new(row.watermark_lsn),
            record_hash: row.record_hash,
            heartbeat: row.heartbeat,
            committed_at: parse_time(&row.committed_at)?,
        })
    })
    .transpose()
}

async fn newest<T: DeserializeOwned>(
    clickhouse: &ClickHouse,
    pipeline: &str,
    columns: &str,
) -> Result<Option<T>, Error> {
    let sql = format!(
        "select {columns} from platform.checkpoints where pipeline = {{pipeline:String}} \
         order by position desc limit 1 settings max_threads = 1"
    );
    clickhouse.fetch_optional(&sql, &[("pipeline", pipeline)]).await
}

/// How far the mirror was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The writer's term: another one may have gone back in the log.
    pub term: u64,
    /// Last acknowledged batch of the sink.
    pub batch: u64,
    /// Every transaction committed below is in the mirror.
    pub lsn: Lsn,
}

/// Where a pipeline's newest checkpoint stands, or `None` before the first load: `latest` at half its cost.
///
/// # Errors
/// As `latest`.
pub async fn position(clickhouse: &ClickHouse, pipeline: &str) -> Result<Option<Position>, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        term: u64,
        #[serde(with = "text")]
        batch: u64,
        #[serde(with = "text")]
        watermark_lsn: u64,
    }
    let row: Option<Row> = newest(clickhouse, pipeline, "term, batch, watermark_lsn").await?;
    Ok(row.map(|Row { term, batch, watermark_lsn }| Position { term, batch, lsn: Lsn::new(watermark_lsn) }))
}

/// ClickHouse's code for `throwIf`: `store_after` has found an older checkpoint than it builds on.
pub const RESTORED: u32 = 395;

impl Checkpoint {
    /// Its place among all checkpoints of the pipeline: by term, and by batch within one.
    pub fn position(&self) -> u128 {
        (u128::from(self.term) << 64) | u128::from(self.batch)
    }
}

/// Stores a checkpoint. Of two with the same position the later one stands; a lower position never replaces a higher one.
///
/// # Errors
/// ClickHouse's; after `TimedOut` and `Network` repeat it.
pub async fn store(clickhouse: &ClickHouse, pipeline: &str, checkpoint: &Checkpoint) -> Result<(), Error> {
    store_after(clickhouse, pipeline, checkpoint, 0).await
}

/// As `store`, unless ClickHouse has no checkpoint at `previous` or above: then it was restored to an earlier moment, and what
/// came after that moment is missing.
///
/// # Errors
/// As `store`; `Error::Server` with the code `RESTORED`.
pub async fn store_after(
    clickhouse: &ClickHouse,
    pipeline: &str,
    checkpoint: &Checkpoint,
    previous: u128,
) -> Result<(), Error> {
    let sql = "insert into platform.checkpoints select {pipeline:String}, {position:UInt128}, {term:UInt64}, {batch:UInt64}, \
               {log:UInt16}, {topic:String}, {next_offset:Int64}, {watermark:UInt64}, {record_hash:String}, {heartbeat:Int64}, \
               fromUnixTimestamp64Micro({committed_at:Int64}, 'UTC'), now64(6) \
               where throwIf((select max(position) from platform.checkpoints where pipeline = {pipeline:String}) < {previous:UInt128}, \
                             'the last checkpoint is gone') = 0";
    let parameters = [
        ("pipeline", pipeline),
        ("position", &checkpoint.position().to_string()),
        ("previous", &previous.to_string()),
        ("term", &checkpoint.term.to_string()),
        ("batch", &checkpoint.batch.to_string()),
        ("log", &checkpoint.log.to_string()),
        ("topic", &checkpoint.topic),
        ("next_offset", &checkpoint.next_offset.to_string()),
        ("watermark", &checkpoint.watermark.get().to_string()),
        ("record_hash", &checkpoint.record_hash),
        ("heartbeat", &checkpoint.heartbeat.to_string()),
        ("committed_at", &checkpoint.committed_at.timestamp_micros().to_string()),
    ];
    clickhouse.execute(sql, &parameters).await
}

/// Where a load has moved a pipeline's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStart {
    /// Number of the log that begins there.
    pub log: u16,
    /// The first offset that belongs to it and can be followed.
    pub offset: i64,
}

/// Remembers that the log which can be followed begins at `checkpoint`. Of several the one with the highest term counts.
///
/// # Errors
/// ClickHouse's.
pub async fn store_start(clickhouse: &ClickHouse, pipeline: &str, checkpoint: &Checkpoint) -> Result<(), Error> {
    let sql = "insert into platform.log_starts select {pipeline:String}, {term:UInt64}, {log:UInt16}, {topic:String}, \
               {offset:Int64}, now64(6)";
    let parameters = [
        ("pipeline", pipeline),
        ("term", &checkpoint.term.to_string()),
        ("log", &checkpoint.log.to_string()),
        ("topic", &checkpoint.topic),
        ("offset", &checkpoint.next_offset.to_string()),
    ];
    clickhouse.execute(sql, &parameters).await
}

/// Where the log that can be followed begins; `None` for a pipeline whose loads were all made before this was remembered.
///
/// # Errors
/// ClickHouse's.
pub async fn start(clickhouse: &ClickHouse, pipeline: &str) -> Result<Option<LogStart>, Error> {
    #[derive(Deserialize)]
    struct Row {
        log: u16,
        #[serde(with = "text")]
        first_offset: i64,
    }
    let sql = "select log, first_offset from platform.log_starts where pipeline = {pipeline:String} order by term desc limit 1";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[("pipeline", pipeline)]).await?;
    Ok(row.map(|row| LogStart { log: row.log, offset: row.first_offset }))
}
