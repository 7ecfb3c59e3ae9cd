//! Which buckets of the aggregates have to be built: marked since their build, or never built.

use std::collections::BTreeMap;

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

/// What is known of an aggregate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaleBuckets {
    /// The newest mark of all its buckets together; 0 without one.
    pub whole: u64,
    /// Those to build, the latest first.
    pub buckets: Vec<StaleBucket>,
}

/// A statement over the marks and builds of some aggregates, and its parameters.
struct Statement {
    /// Something to select from: a row for each aggregate that has a mark or a build, with its `name`, its mark of the `whole` table and
    /// when that was noted, and of each bucket that is to be built `(first day, mark, build, when noted)`.
    known: String,
    parameters: Vec<(String, String)>,
}

impl Statement {
    /// With the mirror of an aggregate those of its buckets too that have rows and neither a mark nor a build.
    fn of(aggregates: &[(&Aggregate, Option<&MirrorTable>)]) -> Self {
        let (mut parameters, mut by_unit) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
        let (mut keys, mut with_rows) = (Vec::new(), String::new());
        for (number, (aggregate, mirror)) in aggregates.iter().enumerate() {
            parameters.push((format!("name{number}"), aggregate.name.clone()));
            parameters.push((format!("key{number}"), aggregate.key()));
            let name = format!("{{name{number}:String}}");
            by_unit.entry(aggregate.unit.of_date32("toDate32(bucket)")).or_default().push(name.clone());
            keys.push(format!("{{key{number}:String}}"));
            with_rows.extend(mirror.map(|mirror| format!(" union all {}", first_days(aggregate, &name, mirror))));
        }
        let marks: Vec<String> = by_unit.into_iter().map(|(first_day, names)| marks(&first_day, &names)).collect();
        // A build counts from one, so that it is not taken for none.
        let known = format!(
            "select name, whole, whole_noted, arrayReverseSort(day -> day.1, arrayFilter(day -> day.3 <= greatest(day.2, whole), of_days)) \
             as days from ( \
             select name, maxIf(mark, is_whole = 1) as whole, maxIf(noted, is_whole = 1) as whole_noted, \
             groupArrayIf((first_day, mark, seen, noted), is_whole = 0) as of_days from ( \
             select name, is_whole, first_day, max(mark) as mark, max(seen) as seen, max(noted) as noted from ( \
             {} union all select splitByChar('@', aggregate)[1], toUInt8(0), bucket, toUInt64(0), as_of_batch + 1, \
             toDateTime64(0, 6, 'UTC') from platform.builds final where aggregate in ({}){with_rows}) as one \
             group by name, is_whole, first_day) as day group by name)",
            marks.join(" union all "),
            keys.join(", "),
        );
        Self { known, parameters }
    }

    fn parameters(&self) -> Vec<(&str, &str)> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// The marks of aggregates whose buckets begin on the same days.
fn marks(first_day: &str, names: &[String]) -> String {
    format!(
        "select aggregate as name, whole as is_whole, {first_day} as first_day, batch as mark, toUInt64(0) as seen, marked_at as noted \
         from platform.dirty_buckets where aggregate in ({})",
        names.join(", ")
    )
}

/// The buckets in which any version of a row is.
fn first_days(aggregate: &Aggregate, name: &str, mirror: &MirrorTable) -> String {
    let column = quote_clickhouse(&aggregate.bucket_column);
    let bucket = aggregate.unit.of_date32(&format!("toDate32(assumeNotNull({column}))"));
    format!(
        "select distinct {name}, toUInt8(0), {bucket}, toUInt64(0), toUInt64(0), toDateTime64(0, 6, 'UTC') from {} \
         where {column} is not null",
        mirror.versions()
    )
}

/// The stale buckets of each aggregate, at most `limit`, in one statement: it costs the engine more than what it reads.
///
/// # Errors
/// ClickHouse's.
pub async fn list(
    clickhouse: &ClickHouse,
    aggregates: &[(&Aggregate, Option<&MirrorTable>)],
    limit: usize,
) -> Result<Vec<StaleBuckets>, Error> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        #[serde(with = "text")]
        whole: u64,
        whole_noted: String,
        days: Vec<[String; 4]>,
    }
    if aggregates.is_empty() {
        return Ok(Vec::new());
    }
    let statement = Statement::of(aggregates);
    let (limit, mut parameters) = (limit.to_string(), statement.parameters());
    parameters.push(("limit", &limit));
    // A thread for each of several small reads costs more than it saves.
    let threads = if aggregates.iter().any(|(_, mirror)| mirror.is_some()) { "" } else { " settings max_threads = 1" };
    let sql = format!(
        "select name, whole, toString(whole_noted) as whole_noted, arrayMap(day -> [toString(day.1), toString(day.2), toString(day.3), \
         toString(day.4)], arraySlice(days, 1, {{limit:UInt64}})) as days from ({}){threads}",
        statement.known
    );
    let rows: Vec<Row> = clickhouse.fetch_all(&sql, &parameters).await?;
    let mut known = BTreeMap::new();
    for row in rows {
        let whole = (row.whole, row.whole_noted.as_str());
        let buckets: Result<Vec<Option<StaleBucket>>, Error> =
            row.days.iter().map(|day| stale_bucket(day, whole)).collect();
        known.insert(row.name, StaleBuckets { whole: row.whole, buckets: buckets?.into_iter().flatten().collect() });
    }
    Ok(aggregates.iter().map(|(aggregate, _)| known.remove(&aggregate.name).unwrap_or_default()).collect())
}

/// The same for one aggregate.
///
/// # Errors
/// ClickHouse's.
pub async fn of(
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
    mirror: Option<&MirrorTable>,
    limit: usize,
) -> Result<StaleBuckets, Error> {
    Ok(list(clickhouse, &[(aggregate, mirror)], limit).await?.pop().unwrap_or_default())
}

/// `None`: the last day that ClickHouse can hold has no end there, and is nobody's bucket.
fn stale_bucket(
    [first_day, mark, build, noted]: &[String; 4],
    (whole, whole_noted): (u64, &str),
) -> Result<Option<StaleBucket>, Error> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| Error::Unreadable(format!("{text:?} is not a number")));
    let Ok(bucket) = first_day.parse::<RunDate>() else { return Ok(None) };
    let (mark, build) = (number(mark)?, number(build)?);
    let noted = parse_time(if mark >= whole { noted } else { whole_noted })?;
    let noted_at = Some(noted).filter(|at| *at > DateTime::UNIX_EPOCH);
    Ok(Some(StaleBucket { bucket, mark: mark.max(whole), as_of: build.checked_sub(1), noted_at }))
}

/// How many there are among those that are marked or built, of all aggregates together.
///
/// # Errors
/// ClickHouse's.
pub async fn count(clickhouse: &ClickHouse, aggregates: &[&Aggregate]) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        stale: u64,
    }
    if aggregates.is_empty() {
        return Ok(0);
    }
    let aggregates: Vec<_> = aggregates.iter().map(|aggregate| (*aggregate, None)).collect();
    let statement = Statement::of(&aggregates);
    let sql = format!("select sum(length(days)) as stale from ({}) settings max_threads = 1", statement.known);
    let row: Option<Row> = clickhouse.fetch_optional(&sql, &statement.parameters()).await?;
    Ok(row.map_or(0, |row| row.stale))
}
