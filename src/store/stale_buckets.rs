//! Which buckets of an aggregate have to be built: marked since their build, or never built.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::checkpoint::{parse_time, text};
use super::clickhouse::{ClickHouse, Error};
use super::mirror_day::MirrorTable;
use crate::catalog::Aggregate;
use crate::domain::{RunDate, quote_clickhouse};

/// A bucket that readers see as it was, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleBucket {
    /// Its first day.
    pub bucket: RunDate,
    /// The batch that its build must have seen.
    pub mark: u64,
    /// The batch that its build has seen; `None` without a build.
    pub as_of: Option<u64>,
    /// When the newest mark was noted; `None` for a bucket that is only not built yet.
    pub noted_at: Option<DateTime<Utc>>,
}

/// Something to select the buckets from, with `mirror` those too that have rows and neither a mark nor a build.
fn statement(aggregate: &Aggregate, mirror: Option<&MirrorTable>) -> String {
    let marked = aggregate.unit.of_date32("toDate32(bucket)");
    let with_rows = mirror.map_or_else(String::new, |mirror| {
        let column = quote_clickhouse(&aggregate.bucket_column);
        let bucket = aggregate.unit.of_date32(&format!("toDate32(assumeNotNull({column}))"));
        format!(
            " union all select distinct {bucket}, toUInt64(0), toUInt64(0), toDateTime64(0, 6, 'UTC') from {} \
             where {column} is not null",
            mirror.versions()
        )
    });
    // A build counts from one, so that it is not taken for none.
    format!(
        "select first_day, greatest(max(mark), any(of_all.1)) as newest, max(seen) as built, \
         if(max(mark) >= any(of_all.1), max(noted), any(of_all.2)) as noted_at from ( \
         select {marked} as first_day, batch as mark, toUInt64(0) as seen, marked_at as noted from platform.dirty_buckets \
         where aggregate = {{name:String}} and whole = 0 \
         union all select bucket, toUInt64(0), as_of_batch + 1, toDateTime64(0, 6, 'UTC') from platform.builds final \
         where aggregate = {{key:String}}{with_rows}) as known \
         cross join (select (max(batch), max(marked_at)) as of_all from platform.dirty_buckets \
         where aggregate = {{name:String}} and whole = 1) as all_of_them \
         group by first_day having built <= newest"
    )
}

/// The stale buckets, the latest first, at most `limit`.
///
/// # Errors
/// ClickHouse's.
pub async fn list(
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
    mirror: Option<&MirrorTable>,
    limit: usize,
) -> Result<Vec<StaleBucket>, Error> {
    #[derive(Deserialize)]
    struct Row {
        first_day: String,
        #[serde(with = "text")]
        newest: u64,
        #[serde(with = "text")]
        built: u64,
        noted_at: String,
    }
    let sql = format!("{} order by first_day desc limit {{limit:UInt64}}", statement(aggregate, mirror));
    let (key, limit) = (aggregate.key(), limit.to_string());
    let rows: Vec<Row> =
        clickhouse.fetch_all(&sql, &[("name", &aggregate.name), ("key", &key), ("limit", &limit)]).await?;
    // The last day that ClickHouse can hold has no end there, and is nobody's bucket.
    let known = rows.into_iter().filter_map(|row| Some((row.first_day.parse::<RunDate>().ok()?, row)));
    known
        .map(|(bucket, row)| {
            let noted_at = Some(parse_time(&row.noted_at)?).filter(|at| *at > DateTime::UNIX_EPOCH);
            Ok(StaleBucket { bucket, mark: row.newest, as_of: row.built.checked_sub(1), noted_at })
        })
        .collect()
}

/// How many there are among those that are marked or built.
///
/// # Errors
/// ClickHouse's.
pub async fn count(clickhouse: &ClickHouse, aggregate: &Aggregate) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        stale: u64,
    }
    let sql = format!("select count() as stale from ({})", statement(aggregate, None));
    let parameters = [("name", aggregate.name.as_str()), ("key", &aggregate.key())];
    let row: Option<Row> = clickhouse.fetch_optional(&sql, &parameters).await?;
    Ok(row.map_or(0, |row| row.stale))
}
