//! What the mirror of a table consists of. Parts never change: while a table has the same ones, every read of it sees the same rows.

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};
use crate::domain::{TableName, Version};

/// Seconds without a new part after which a table counts as one that nobody is writing to.
const IDLE_S: i64 = 2;

/// A mirror table in one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorParts {
    /// Its sorting key, as ClickHouse writes it.
    pub key: String,
    /// The table's lowest living version.
    pub floor: Version,
    /// Its rows in all versions.
    pub versions: u64,
    /// Over its definition and its active parts; `None` where parts say nothing of what another read sees.
    parts: Option<String>,
    /// Seconds since its newest part was made, by ClickHouse's clock.
    quiet_s: i64,
}

impl MirrorParts {
    /// Looks at it; `None` when there is no mirror, or this user may not see it.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn read(clickhouse: &ClickHouse, table: &TableName) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Row {
            sorting_key: String,
            engine: String,
            #[serde(with = "text")]
            floor: u128,
            #[serde(with = "text")]
            versions: u64,
            parts: String,
            #[serde(with = "text")]
            quiet_s: i64,
        }
        let sql = "with (select (arraySort(groupArray((name, hash_of_all_files))), max(modification_time), sum(rows)) from system.parts \
                   where database = 'mirror' and table = {table:String} and active) as those \
                   select sorting_key, engine, (select toString(max(floor)) from platform.floors where table = {table:String}) as floor, \
                   hex(sipHash128(uuid, create_table_query, those.1)) as parts, \
                   toInt64(dateDiff('second', those.2, now())) as quiet_s, toUInt64(those.3) as versions \
                   from system.tables where database = 'mirror' and name = {table:String}";
        let row: Option<Row> = clickhouse.fetch_optional(sql, &[("table", &table.mirror_name())]).await?;
        Ok(row.map(|row| Self {
            key: row.sorting_key,
            floor: Version::from_raw(row.floor),
            versions: row.versions,
            // Of an engine that shares or replicates its parts, another server may answer the next read.
            parts: (row.engine == "ReplacingMergeTree").then_some(row.parts),
            quiet_s: row.quiet_s,
        }))
    }

    /// Whether every read that began after `self` was looked at and ended before `later` was saw the same rows. `false`: it is not known.
    pub fn is_same_as(&self, later: &Self) -> bool {
        self.parts.is_some() && (&self.parts, &self.key, self.floor) == (&later.parts, &later.key, later.floor)
    }

    /// Whether it is likely to stay as it is for a moment. Nothing may depend on it but speed.
    pub fn is_idle(&self) -> bool {
        self.parts.is_some() && self.quiet_s >= IDLE_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_the_same() {
        let parts = |parts: Option<&str>, floor| MirrorParts {
            key: "id".into(),
            floor: Version::from_raw(floor),
            versions: 1,
            parts: parts.map(str::to_owned),
            quiet_s: 9,
        };
        assert!(parts(Some("a"), 1).is_same_as(&parts(Some("a"), 1)));
        assert!(!parts(Some("a"), 1).is_same_as(&parts(Some("b"), 1)));
        assert!(!parts(Some("a"), 1).is_same_as(&parts(Some("a"), 2)));
        assert!(!parts(None, 1).is_same_as(&parts(None, 1)));
        assert!(parts(Some("a"), 1).is_idle() && !parts(None, 1).is_idle());
    }
}
