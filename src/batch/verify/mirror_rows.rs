//! The rows of the mirror as people see them, fingerprinted by ClickHouse itself; answers come whole, never half.

use std::collections::HashMap;

use anyhow::Context as _;

use super::fingerprint::{Fingerprint, HALVES, Sum, bucket_expression};
use super::source::META;
use crate::batch::aggregates::failed;
use crate::catalog::{Block, Table, key_expression, mirror_columns, row_expression, take_bytes};
use crate::domain::quote_clickhouse;
use crate::store::clickhouse::{ClickHouse, Error};

/// Keys and buckets that are asked for; the advisory lock of the job makes them one job's.
const KEYS: &str = "platform.verify_keys";
const BUCKETS: &str = "platform.verify_buckets";
/// Buckets of one statement: a server takes 128 KiB a parameter.
const BUCKETS_AT_ONCE: usize = 10_000;

/// The mirror of one table.
#[derive(Debug)]
pub(super) struct MirrorRows<'a> {
    pub(super) clickhouse: &'a ClickHouse,
    pub(super) table: &'a Table,
}

/// What the mirror has of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// The highest version, a tombstone's among them.
    pub(super) version: Option<u128>,
    /// What people see.
    pub(super) row: Option<Fingerprint>,
}

impl MirrorRows<'_> {
    /// Current rows with their `key` and `hash`.
    fn current(&self, condition: &str) -> String {
        // Outside FINAL: a version below the floor must still hide the older ones of its key.
        format!(
            "select {} as key, SHA256({}) as hash from {} final where _deleted = 0 \
             and _version >= (select max(floor) from platform.floors where table = {{table:String}}) {condition}",
            key_expression(self.table),
            row_expression(self.table),
            self.target(),
        )
    }

    fn target(&self) -> String {
        self.table.name().quoted_clickhouse("mirror")
    }

    async fn fetch(&self, doing: &str, sql: &str) -> anyhow::Result<bytes::Bytes> {
        let name = self.table.name().mirror_name();
        let fetched = self.clickhouse.fetch_bytes(sql, &[("table", &name)], "RowBinary").await;
        fetched.map_err(|error| failed(doing, error))
    }

    async fn execute(&self, doing: &str, sql: &str) -> anyhow::Result<()> {
        self.clickhouse.execute(sql, &[]).await.map_err(|error| failed(doing, error))
    }

    /// The sums of all buckets that are not empty, in their order; and the number of rows.
    pub(super) async fn sums(&self) -> anyhow::Result<(Vec<(u32, Sum)>, u64)> {
        let [low, high] = HALVES;
        let sql = format!(
            "select {} as bucket, count(), sum({low}), sum({high}) from ({}) group by bucket order by bucket",
            bucket_expression(),
            self.current("")
        );
        let answer = self.fetch("summing up the mirror", &sql).await?;
        let (mut rest, mut sums, mut rows) = (&answer[..], Vec::new(), 0);
        while !rest.is_empty() {
            let bucket = u32::from_le_bytes(take(&mut rest)?);
            let sum = Sum { rows: take_u64(&mut rest)?, low: take_u64(&mut rest)?, high: take_u64(&mut rest)? };
            rows += sum.rows;
            sums.push((bucket, sum));
        }
        Ok((sums, rows))
    }

    /// Every row of some buckets.
    pub(super) async fn of_buckets(&self, buckets: &[u32]) -> anyhow::Result<Vec<(Vec<u8>, Fingerprint)>> {
        self.execute("making room for buckets", &format!("drop table if exists {BUCKETS}")).await?;
        self.execute("making room for buckets", &format!("create table {BUCKETS} (bucket UInt32) engine = Memory"))
            .await?;
        for some in buckets.chunks(BUCKETS_AT_ONCE) {
            let list = format!("{some:?}");
            let sql = format!("insert into {BUCKETS} select arrayJoin({{buckets:Array(UInt32)}})");
            let inserted = self.clickhouse.execute(&sql, &[("buckets", &list)]).await;
            inserted.map_err(|error| failed("naming buckets", error))?;
        }
        let sql = format!(
            "select key, {} from ({}) where {} in (select bucket from {BUCKETS})",
            HALVES.join(", "),
            self.current(""),
            bucket_expression()
        );
        let answer = self.fetch("reading the mirror", &sql).await?;
        let (mut rest, mut rows) = (&answer[..], Vec::new());
        while !rest.is_empty() {
            rows.push(take_row(&mut rest)?);
        }
        Ok(rows)
    }

    /// Names the keys that `seen`, `versions` and `remove` are about.
    pub(super) async fn name_keys(&self, keys: &[Vec<u8>]) -> anyhow::Result<()> {
        self.execute("making room for keys", &format!("drop table if exists {KEYS}")).await?;
        let create = format!("create table {KEYS} as {} engine = Memory", self.target());
        self.execute("making room for keys", &create).await?;
        let mut block = Block::new(self.table);
        for key in keys {
            block.push_key(self.table, key, META).context("a key in another form than its own")?;
        }
        insert(self.clickhouse, self.table, KEYS, &block).await.map_err(|error| failed("naming keys", error))
    }

    fn named(&self) -> String {
        let names: Vec<String> = self.table.key_columns().map(|column| quote_clickhouse(column.name())).collect();
        let names = names.join(", ");
        format!("({names}) in (select {names} from {KEYS})")
    }

    /// What the mirror has of the named keys; those that it has never heard of are left out. The versions are read last: when
    /// two reads of them are equal, the rows of the second one were complete at the first.
    pub(super) async fn seen(&self) -> anyhow::Result<HashMap<Vec<u8>, Seen>> {
        let current = self.current(&format!("and {}", self.named()));
        let sql = format!("select key, {} from ({current})", HALVES.join(", "));
        let answer = self.fetch("reading rows of the mirror", &sql).await?;
        let (mut rest, mut seen) = (&answer[..], HashMap::<Vec<u8>, Seen>::new());
        while !rest.is_empty() {
            let (key, row) = take_row(&mut rest)?;
            seen.insert(key, Seen { version: None, row: Some(row) });
        }
        for (key, version) in self.versions().await? {
            let entry = seen.entry(key).or_default();
            entry.version = entry.version.max(Some(version));
        }
        Ok(seen)
    }

    /// Every version that is stored of the named keys.
    pub(super) async fn versions(&self) -> anyhow::Result<Vec<(Vec<u8>, u128)>> {
        let sql = format!(
            "select distinct {} as key, _version from {} where {}",
            key_expression(self.table),
            self.target(),
            self.named()
        );
        let answer = self.fetch("reading versions of the mirror", &sql).await?;
        let (mut rest, mut versions) = (&answer[..], Vec::new());
        while !rest.is_empty() {
            let key = take_bytes(&mut rest).context("a key is cut")?.to_vec();
            versions.push((key, u128::from_le_bytes(take(&mut rest)?)));
        }
        Ok(versions)
    }

    /// Removes rows of the named keys that have one of `versions`.
    pub(super) async fn remove(&self, versions: &[u128]) -> anyhow::Result<()> {
        for some in versions.chunks(1000) {
            let list: Vec<String> = some.iter().map(|version| format!("toUInt128('{version}')")).collect();
            let sql =
                format!("delete from {} where {} and _version in ({})", self.target(), self.named(), list.join(", "));
            self.execute("removing rows with versions that the log has not reached", &sql).await?;
        }
        Ok(())
    }

    /// Forgets keys and buckets.
    pub(super) async fn clean_up(&self) -> anyhow::Result<()> {
        for table in [KEYS, BUCKETS] {
            self.execute("cleaning up", &format!("drop table if exists {table}")).await?;
        }
        Ok(())
    }
}

/// Inserts a block into `target`, which has the columns of the table's mirror.
pub(super) async fn insert(clickhouse: &ClickHouse, table: &Table, target: &str, block: &Block) -> Result<(), Error> {
    let mut native = Vec::new();
    block.write_native(table, &mut native);
    clickhouse.insert_native(target, &mirror_columns(table), native.into(), &[("insert_deduplicate", "0")]).await
}

fn take<const N: usize>(rest: &mut &[u8]) -> anyhow::Result<[u8; N]> {
    let (value, after) = rest.split_first_chunk::<N>().context("ClickHouse's answer is cut")?;
    *rest = after;
    Ok(*value)
}

fn take_u64(rest: &mut &[u8]) -> anyhow::Result<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take_row(rest: &mut &[u8]) -> anyhow::Result<(Vec<u8>, Fingerprint)> {
    let key = take_bytes(rest).context("ClickHouse's answer is cut")?.to_vec();
    Ok((key, Fingerprint::from_halves(take_u64(rest)?, take_u64(rest)?)))
}
