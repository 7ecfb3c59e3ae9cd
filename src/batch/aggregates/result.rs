//! The tables of a build: the result, and the staging table that becomes one of its partitions.
//!
//! A staging table lives in the database `platform`, where no endpoint looks, and carries the day and the build in its
//! name. Whoever holds the day's lock may drop every other one of that day: its builder is dead.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio_postgres::Client;
use uuid::Uuid;

use super::lock::BucketLock;
use super::mirror_day::MirrorDay;
use super::{failed, failed_in};
use crate::catalog::{Aggregate, BucketUnit, CHECKPOINT_SETTINGS, SOURCE};
use crate::domain::{Failure, RunDate, quote_clickhouse};
use crate::store::builds::Build;
use crate::store::checkpoint::text;
use crate::store::clickhouse::{ClickHouse, Error, Parameter};

/// Rows of a day for which another thread pays, and their bytes. By ClickHouse's defaults (163,840 rows, 240 MiB) a day of 100,000 rows is
/// read and aggregated by one thread, in 93 ms instead of 82.
const THREAD_ROWS_MIN: u32 = 20_000;
const THREAD_BYTES_MIN: u32 = 1 << 20;

/// ClickHouse's codes of tables that are not there, have other columns, or other keys.
const UNKNOWN_TABLE: u32 = 60;
const INCOMPATIBLE_COLUMNS: u32 = 122;
const BAD_ARGUMENTS: u32 = 36;

/// What readers see of a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) rows: u64,
    /// The build that every row is of; `None` when there is no row, or several builds.
    pub(super) build_id: Option<Uuid>,
}

impl Content {
    /// Whether it is what `build` has put there.
    pub(super) fn shows(&self, build: &Build) -> bool {
        self.rows == build.rows_out && (self.rows == 0 || self.build_id == Some(build.build_id))
    }
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) rows_out: u64,
    /// The number of source rows, as the header says that the result tells it.
    pub(super) counted: Option<String>,
}

/// A day of a result on its way.
#[derive(Debug)]
pub(super) struct Staging<'a> {
    clickhouse: &'a ClickHouse,
    aggregate: &'a Aggregate,
    day: RunDate,
    build_id: Uuid,
    name: String,
    /// Whether `create` has begun.
    begun: AtomicBool,
    made: OnceCell<()>,
}

impl<'a> Staging<'a> {
    /// Names it; nothing is made yet.
    pub(super) fn of(clickhouse: &'a ClickHouse, aggregate: &'a Aggregate, day: RunDate, build_id: Uuid) -> Self {
        let name = format!("{}{}", prefix(aggregate, day), build_id.simple());
        Self { clickhouse, aggregate, day, build_id, name, begun: AtomicBool::new(false), made: OnceCell::new() }
    }

    /// Drops what dead builders of this day left.
    async fn clear(&self) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
        }
        let prefix = prefix(self.aggregate, self.day);
        let sql = "select name from system.tables where database = 'platform' and startsWith(name, {prefix:String}) \
                   and length(name) = length({prefix:String}) + 32 and name != {own:String}";
        let stale: Vec<Row> = self
            .clickhouse
            .fetch_all(sql, &[("prefix", &prefix), ("own", &self.name)])
            .await
            .map_err(|error| failed("looking for what a dead builder left", error))?;
        for Row { name } in stale {
            tracing::info!(table = name, "dropping what a dead builder left");
            drop_table(self.clickhouse, &name).await?;
        }
        Ok(())
    }

    /// The build that it is made for.
    pub(super) fn build_id(&self) -> Uuid {
        self.build_id
    }

    fn quoted(&self) -> String {
        format!("platform.{}", quote_clickhouse(&self.name))
    }

    /// The aggregate's SELECT with the columns that every result has.
    fn select(&self, select: &str) -> String {
        let column = self.aggregate.unit.column();
        // Day and build stand outside the file's SELECT: whatever it says, its rows are of this day and this build.
        format!("select {{bucket:Date32}} as {column}, q.*, {{build_id:UUID}} as build_id from (\n{select}\n) as q")
    }

    /// Makes the table, unless it has been made; drops what dead builders of this day left.
    pub(super) async fn create(&self) -> anyhow::Result<()> {
        let create = async {
            self.begun.store(true, Ordering::Relaxed);
            // Both to their end, so that what is made is known to be made.
            let (cleared, made) = tokio::join!(self.clear(), self.make());
            made.and(cleared)
        };
        self.made.get_or_try_init(|| create).await.map(drop)
    }

    /// With the columns that the SELECT has now.
    async fn make(&self) -> anyhow::Result<()> {
        // Of whichever rows: only their types count.
        let any_rows = format!("(select * from {})", self.aggregate.table.quoted_clickhouse("mirror"));
        let select = self.select(&self.aggregate.select.replace(SOURCE, &any_rows));
        let keys: Vec<String> = self.aggregate.keys.iter().map(|key| quote_clickhouse(key)).collect();
        let sql = format!(
            "create table {} engine = MergeTree partition by {} order by ({}) settings allow_nullable_key = 1, \
             {CHECKPOINT_SETTINGS} empty as {select}",
            self.quoted(),
            self.aggregate.unit.column(),
            keys.join(", "),
        );
        let bucket = self.day.to_string();
        self.run(&sql, vec![("bucket", &bucket)], "making the staging table").await?;
        failpoint!("build.staging-made");
        Ok(())
    }

    /// Builds the day.
    pub(super) async fn fill(&self, source: &MirrorDay) -> anyhow::Result<()> {
        let select = self.select(&source.select(self.aggregate));
        let sql = format!(
            "insert into {} settings insert_deduplicate = 0, merge_tree_min_rows_for_concurrent_read = {THREAD_ROWS_MIN}, \
             merge_tree_min_bytes_for_concurrent_read = {THREAD_BYTES_MIN} {select}",
            self.quoted()
        );
        self.run(&sql, source.parameters(), "building the day").await
    }

    /// Leaves what was built as one part: swapping in a single part is atomic, also when the server dies. Gives its size, and how
    /// many rows it says that went in.
    pub(super) async fn settle(&self) -> anyhow::Result<Staged> {
        if let Some(staged) = self.judge().await? {
            return Ok(staged);
        }
        let sql = format!("optimize table {} final", self.quoted());
        self.clickhouse.execute(&sql, &[]).await.map_err(|error| failed("merging the staging table", error))?;
        let staged = self.judge().await?;
        staged.ok_or_else(|| Failure::Unavailable("the staging table still has several parts".into()).into())
    }

    /// Counts what was built: rows, distinct keys, parts. `None`: it has several parts.
    async fn judge(&self) -> anyhow::Result<Option<Staged>> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(with = "text")]
            rows_out: u64,
            #[serde(with = "text")]
            keys: u64,
            #[serde(with = "text")]
            parts: u64,
            #[serde(with = "text")]
            strays: u64,
            counted: Option<String>,
        }
        let keys: Vec<String> = self.aggregate.keys.iter().map(|key| quote_clickhouse(key)).collect();
        let strays = match self.aggregate.unit {
            BucketUnit::Hour => "countIf(not ifNull(toDate32(hour) = day, false))",
            BucketUnit::Day | BucketUnit::Month => "toUInt64(0)",
        };
        let counted = self.aggregate.rows.as_deref().unwrap_or("NULL");
        // Without names of its own, beside which those of the file's columns would mean something else.
        let sql = format!(
            "select count(), uniqExact(tuple({})), uniqExact(_part), {strays}, toString({counted}) from {}",
            keys.join(", "),
            self.quoted()
        );
        let bytes = self.clickhouse.fetch_bytes(&sql, &[], "JSONCompactEachRow").await;
        let bytes = bytes.map_err(|error| failed_in(self.aggregate, "counting what was built", error))?;
        let row: Row = serde_json::from_slice(&bytes).context("ClickHouse's counts cannot be read")?;
        let Row { rows_out, keys, parts, strays, counted } = row;
        if keys != rows_out {
            return Err(Failure::DataCheck(format!(
                "{rows_out} rows have only {keys} distinct keys; the header's `keys` must tell them apart"
            ))
            .into());
        }
        if strays > 0 {
            let text = format!("{strays} rows have an hour outside of their day; write {{hour}} as hour");
            return Err(Failure::DataCheck(text).into());
        }
        Ok((parts <= 1).then_some(Staged { rows_out, counted }))
    }

    /// Puts the day in the place of the one before, in one step for every reader. The first day makes the place.
    pub(super) async fn swap(&self, staged: &Staged) -> anyhow::Result<()> {
        let swapped = match self.replace(staged).await {
            Err(error) if error.code() == Some(UNKNOWN_TABLE) => {
                let sql = format!("create table if not exists {} as {}", self.aggregate.result_table(), self.quoted());
                self.clickhouse.execute(&sql, &[]).await.map_err(|error| failed("making the result table", error))?;
                self.replace(staged).await
            }
            swapped => swapped,
        };
        swapped.map_err(|error| match error.code() {
            Some(INCOMPATIBLE_COLUMNS | BAD_ARGUMENTS) => self.incompatible(&error),
            _ => failed("putting the day in its place", error),
        })
    }

    async fn replace(&self, staged: &Staged) -> Result<(), Error> {
        let target = self.aggregate.result_table();
        let sql = if staged.rows_out == 0 {
            // Replacing from nothing is refused, or erases in silence, by version.
            format!("alter table {target} drop partition {{bucket:Date32}}")
        } else {
            format!("alter table {target} replace partition {{bucket:Date32}} from {}", self.quoted())
        };
        let bucket = self.day.to_string();
        self.clickhouse.execute(&sql, &[("bucket", &bucket)]).await
    }

    /// ClickHouse compares the tables' columns, keys and partitions before it replaces anything.
    fn incompatible(&self, error: &Error) -> anyhow::Error {
        let (name, table) = (&self.aggregate.name, self.aggregate.result_table());
        Failure::Config(format!(
            "{table} has other columns than sql/aggregates/{name}.sql makes now: a column of the table has another type; run `drop table` on it \
             in ClickHouse, then `platform etl --dirty --force` ({error})"
        ))
        .into()
    }

    /// Drops the staging table, if it was made. If that fails, the next builder of this day drops what is left.
    pub(super) async fn discard(&self) {
        if !self.begun.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = drop_table(self.clickhouse, &self.name).await {
            tracing::warn!(error = %format!("{error:#}"), "the staging table is still there");
        }
    }

    async fn run(&self, sql: &str, mut parameters: Vec<Parameter<'_>>, doing: &str) -> anyhow::Result<()> {
        let build_id = self.build_id.to_string();
        parameters.push(("build_id", &build_id));
        self.clickhouse.execute(sql, &parameters).await.map_err(|error| failed_in(self.aggregate, doing, error))
    }
}

/// Drops what dead builders left of buckets that nobody builds again, because their builds were recorded. Those that somebody is
/// at work on are left alone.
///
/// # Errors
/// Those of the databases.
pub(in crate::batch) async fn sweep(
    client: &Client,
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        day: String,
    }
    let prefix = format!("_staging_{}_", aggregate.name);
    let sql = "select name, substring(name, length({prefix:String}) + 1, 8) as day from system.tables \
               where database = 'platform' and startsWith(name, {prefix:String}) \
               and match(substring(name, length({prefix:String}) + 1), '^[0-9]{8}_[0-9a-f]{32}$')";
    let left: Vec<Row> = clickhouse
        .fetch_all(sql, &[("prefix", &prefix)])
        .await
        .map_err(|error| failed("looking for what dead builders left", error))?;
    for Row { name, day } in left {
        let Ok(day) = chrono::NaiveDate::parse_from_str(&day, "%Y%m%d") else { continue };
        let day: RunDate = day.to_string().parse()?;
        let Some(lock) = BucketLock::acquire(client, &aggregate.name, day).await? else { continue };
        tracing::info!(table = name, "dropping what a dead builder left");
        let dropped = drop_table(clickhouse, &name).await;
        lock.release().await?;
        dropped?;
    }
    Ok(())
}

/// Whether there is a table for the result of this definition.
pub(in crate::batch) async fn has_result(clickhouse: &ClickHouse, aggregate: &Aggregate) -> anyhow::Result<bool> {
    let sql = "select 1 as one from system.tables where database = 'platform' and name = {name:String}";
    let found: Result<Option<serde_json::Value>, _> =
        clickhouse.fetch_optional(sql, &[("name", &aggregate.result_name())]).await;
    Ok(found.map_err(|error| failed("looking for the result", error))?.is_some())
}

/// What there is of a day; `None` when there is no result table yet.
pub(super) async fn content(
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
    day: RunDate,
) -> anyhow::Result<Option<Content>> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "text")]
        row_count: u64,
        builds: Vec<Uuid>,
    }
    let sql = format!(
        "select count() as row_count, groupUniqArray(2)(build_id) as builds from {} where {} = {{bucket:Date32}}",
        aggregate.result_table(),
        aggregate.unit.column()
    );
    let row: Option<Row> = match clickhouse.fetch_optional(&sql, &[("bucket", &day.to_string())]).await {
        Ok(row) => row,
        Err(error) if error.code() == Some(UNKNOWN_TABLE) => return Ok(None),
        Err(error) => return Err(failed("reading the day as it is", error)),
    };
    Ok(row.map(|row| Content {
        rows: row.row_count,
        build_id: match row.builds.as_slice() {
            [one] => Some(*one),
            _ => None,
        },
    }))
}

/// What the names of a day's staging tables begin with; the build comes behind it.
fn prefix(aggregate: &Aggregate, day: RunDate) -> String {
    format!("_staging_{}_{}_", aggregate.name, day.naive().format("%Y%m%d"))
}

async fn drop_table(clickhouse: &ClickHouse, name: &str) -> anyhow::Result<()> {
    let sql = format!("drop table if exists platform.{} sync", quote_clickhouse(name));
    clickhouse.execute(&sql, &[]).await.map_err(|error| failed("dropping a staging table", error))
}
