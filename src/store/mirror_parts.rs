//! What the mirror of a table consists of. Parts never change: while a table has the same ones, every read of it sees the same rows.

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};
use super::mirror;
use crate::domain::{TableName, Version};

/// Seconds without a new part after which a table counts as one that nobody is writing to.
const IDLE_S: i64 = 2;

/// What a mirror table consists of, in one look, whose values are read in any order.
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
        struct Definition {
            sorting_key: String,
            engine: String,
            hash: String,
        }
        #[derive(Deserialize)]
        struct Parts {
            hash: String,
            #[serde(with = "text")]
            quiet_s: i64,
            #[serde(with = "text")]
            versions: u64,
        }
        // Side by side: as one statement it costs ClickHouse a third more.
        let (name, limit) = (table.mirror_name(), "settings max_threads = 1");
        let definition = format!(
            "select sorting_key, engine, hex(sipHash128(uuid, create_table_query)) as hash from system.tables \
             where database = 'mirror' and name = {{table:String}} {limit}"
        );
        let parts = format!(
            "select hex(sipHash128(arraySort(groupArray((name, hash_of_all_files))))) as hash, \
             toInt64(dateDiff('second', max(modification_time), now())) as quiet_s, toUInt64(sum(rows)) as versions \
             from system.parts where database = 'mirror' and table = {{table:String}} and active {limit}"
        );
        let parameters = [("table", name.as_str())];
        let (definition, parts, floor): (Option<Definition>, Option<Parts>, Version) = tokio::try_join!(
            clickhouse.fetch_optional(&definition, &parameters),
            clickhouse.fetch_optional(&parts, &parameters),
            mirror::floor_of(clickhouse, table),
        )?;
        let (Some(Definition { sorting_key: key, engine, hash }), Some(parts)) = (definition, parts) else {
            return Ok(None);
        };
        let Parts { hash: parts, quiet_s, versions } = parts;
        // Of an engine that shares or replicates its parts, another server may answer the next read.
        let parts = (engine == "ReplacingMergeTree").then(|| format!("{hash}:{parts}"));
        Ok(Some(Self { key, floor, versions, parts, quiet_s }))
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
