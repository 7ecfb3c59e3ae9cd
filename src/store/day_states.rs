//! Which days of an aggregate are built, and of which the rows have changed since.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::checkpoint::{parse_time, text};
use super::clickhouse::{ClickHouse, Error};
use crate::catalog::Aggregate;
use crate::domain::{Lsn, RunDate, quote_clickhouse};

/// The build that readers see of a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayBuild {
    /// Also in every row of the day.
    pub build_id: String,
    /// Last batch of the sink that was acknowledged before the mirror was read.
    pub as_of_batch: u64,
    /// Every transaction committed below is in it.
    pub as_of_lsn: Lsn,
    /// When it was recorded.
    pub built_at: DateTime<Utc>,
    /// Rows of the mirror that went in.
    pub rows_in: u64,
    /// Rows of the result.
    pub rows_out: u64,
}

/// What is known of the days of a span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayStates {
    /// The builds.
    pub builds: BTreeMap<RunDate, DayBuild>,
    /// The newest batch that has touched a day.
    marks: BTreeMap<RunDate, u64>,
    /// The newest batch that has touched every day.
    whole: u64,
}

impl DayStates {
    /// Whether the day's build has everything that was marked.
    pub fn is_clean(&self, day: RunDate) -> bool {
        let newest = self.marks.get(&day).copied().unwrap_or_default().max(self.whole);
        self.builds.get(&day).is_some_and(|build| build.as_of_batch >= newest)
    }

    /// The days that have a build or a mark.
    pub fn known(&self) -> BTreeSet<RunDate> {
        self.builds.keys().chain(self.marks.keys()).copied().collect()
    }
}

/// Reads builds and marks of the days from `from` to the one before `to`, both as ClickHouse writes dates. The builds first: a
/// build that is recorded in between makes a day look changed that is not, never the other way round.
///
/// # Errors
/// ClickHouse's.
pub async fn read(clickhouse: &ClickHouse, aggregate: &Aggregate, from: &str, to: &str) -> Result<DayStates, Error> {
    let key = aggregate.key();
    let parameters = [("aggregate", key.as_str()), ("from", from), ("to", to)];
    let builds = builds(clickhouse, &parameters).await?;
    let parameters = [("aggregate", aggregate.name.as_str()), ("from", from), ("to", to)];
    #[derive(Deserialize)]
    struct Row {
        whole: u8,
        day: String,
        #[serde(with = "text")]
        newest: u64,
    }
    let sql = "select whole, toDate32(bucket) as day, max(batch) as newest from platform.dirty_buckets \
               where aggregate = {aggregate:String} \
               and (whole = 1 or toDate32(bucket) >= {from:Date32} and toDate32(bucket) < {to:Date32}) group by whole, day";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &parameters).await?;
    let whole = rows.iter().filter(|row| row.whole == 1).map(|row| row.newest).max().unwrap_or_default();
    let marks =
        rows.iter().filter(|row| row.whole == 0).filter_map(|row| Some((row.day.parse().ok()?, row.newest))).collect();
    Ok(DayStates { builds, marks, whole })
}

async fn builds(clickhouse: &ClickHouse, parameters: &[(&str, &str)]) -> Result<BTreeMap<RunDate, DayBuild>, Error> {
    #[derive(Deserialize)]
    struct Row {
        bucket: String,
        build_id: String,
        #[serde(with = "text")]
        as_of_batch: u64,
        #[serde(with = "text")]
        as_of_lsn: u64,
        built_at: String,
        #[serde(with = "text")]
        rows_in: u64,
        #[serde(with = "text")]
        rows_out: u64,
    }
    let sql = "select bucket, build_id, as_of_batch, as_of_lsn, built_at, rows_in, rows_out from platform.builds final \
               where aggregate = {aggregate:String} and bucket >= {from:Date32} and bucket < {to:Date32}";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, parameters).await?;
    let builds =
        rows.into_iter().filter_map(|row| Some((row.bucket.parse::<RunDate>().ok()?, row))).map(|(day, row)| {
            let build = DayBuild {
                build_id: row.build_id,
                as_of_batch: row.as_of_batch,
                as_of_lsn: Lsn::new(row.as_of_lsn),
                built_at: parse_time(&row.built_at)?,
                rows_in: row.rows_in,
                rows_out: row.rows_out,
            };
            Ok((day, build))
        });
    builds.collect()
}

/// Days of the span in which some row of `table` lies, at most `limit`: the view of the aggregate's table, or something that has every
/// version of every row, in which they may be more than the days of the current rows.
///
/// # Errors
/// ClickHouse's.
pub async fn days_with_rows(
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
    table: &str,
    (from, to): (&str, &str),
    limit: usize,
) -> Result<BTreeSet<RunDate>, Error> {
    #[derive(Deserialize)]
    struct Row {
        day: String,
    }
    let column = quote_clickhouse(&aggregate.bucket_column);
    let sql = format!(
        "select distinct toDate32({column}) as day from {table} where {column} >= toDateTime64({{from:Date32}}, 6, 'UTC') \
         and {column} < toDateTime64({{to:Date32}}, 6, 'UTC') order by day limit {{limit:UInt64}}"
    );
    let limit = limit.to_string();
    let rows: Vec<Row> = clickhouse.fetch_all(&sql, &[("from", from), ("to", to), ("limit", &limit)]).await?;
    // The last day that ClickHouse can hold has no end there, and is nobody's bucket.
    Ok(rows.iter().filter_map(|row| row.day.parse().ok()).collect())
}

/// How an aggregate stands as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// Days with a build.
    pub built: u64,
    /// Days whose rows have changed since their build, or that were never built.
    pub dirty: u64,
    /// When the oldest of those changes was noted.
    pub oldest_mark: Option<DateTime<Utc>>,
    /// When the newest build was recorded.
    pub newest_build: Option<DateTime<Utc>>,
}

/// Reads it.
///
/// # Errors
/// ClickHouse's.
pub async fn freshness(clickhouse: &ClickHouse, aggregate: &Aggregate) -> Result<Freshness, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        built: u64,
        #[serde(with = "text")]
        dirty: u64,
        oldest: Option<String>,
        newest: Option<String>,
    }
    let marked = aggregate.unit.of_date32("toDate32(bucket)");
    let sql = format!(
        "with (select (toInt128(max(batch)), argMax(marked_at, batch)) from platform.dirty_buckets \
                     where aggregate = {{name:String}} and whole = 1) as whole, \
                    toDateTime64('2299-01-01 00:00:00', 6, 'UTC') as never \
               select countIf(isNotNull(as_of)) as built, countIf(is_dirty) as dirty, \
                      minOrNullIf(since, is_dirty) as oldest, maxOrNull(built_at) as newest from (\
                   select as_of, built_at, ifNull(as_of, -1) as seen, ifNull(newest_mark, -1) > seen or (whole.1 > 0 and whole.1 > seen) or isNull(as_of) as is_dirty, \
                          least(if(ifNull(newest_mark, -1) > seen, assumeNotNull(noted_at), never), \
                                if(whole.1 > greatest(seen, 0), whole.2, never)) as since \
                   from (select bucket as day, toInt128(as_of_batch) as as_of, built_at from platform.builds final \
                         where aggregate = {{key:String}}) as b \
                   full outer join (select {marked} as day, toInt128(max(batch)) as newest_mark, argMax(marked_at, batch) as noted_at \
                         from platform.dirty_buckets where aggregate = {{name:String}} and whole = 0 group by day) as m \
                   using day) settings join_use_nulls = 1"
    );
    let row: Option<Row> =
        clickhouse.fetch_optional(&sql, &[("name", &aggregate.name), ("key", &aggregate.key())]).await?;
    let row = row.ok_or_else(|| Error::Unreadable("an aggregate without a row".into()))?;
    let time = |text: Option<String>| text.as_deref().map(parse_time).transpose();
    Ok(Freshness {
        built: row.built,
        dirty: row.dirty,
        oldest_mark: time(row.oldest)?,
        newest_build: time(row.newest)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> RunDate {
        text.parse().expect("a day")
    }

    #[test]
    fn a_day_is_clean_when_its_build_has_its_newest_mark() {
        let build = |as_of_batch| DayBuild {
            build_id: String::new(),
            as_of_batch,
            as_of_lsn: Lsn::ZERO,
            built_at: DateTime::UNIX_EPOCH,
            rows_in: 0,
            rows_out: 0,
        };
        let [one, two, three] = ["2014-01-01", "2014-01-02", "2014-01-03"].map(day);
        let mut states = DayStates {
            builds: BTreeMap::from([(one, build(7)), (two, build(6))]),
            marks: BTreeMap::from([(one, 7), (two, 7), (three, 1)]),
            whole: 0,
        };
        assert_eq!([one, two, three].map(|day| states.is_clean(day)), [true, false, false]);
        assert_eq!(states.known().len(), 3);
        states.marks.clear();
        assert_eq!([one, two, three].map(|day| states.is_clean(day)), [true, true, false]);
        states.whole = 7;
        assert_eq!([one, two, three].map(|day| states.is_clean(day)), [true, false, false]);
    }
}
