//! Whether keys that seemed to differ really do, exactly, while both sides change.
//!
//! A round is: barrier, wait, read the mirror's rows and then their versions, read PostgreSQL's. A key whose rows are equal is
//! settled. It really differs when the mirror has the same row and version as a round before, and PostgreSQL's row of the round
//! before is another: everything that PostgreSQL's reader saw was committed before the second barrier, so the mirror has it,
//! and as its version did not change, it had it at the first look. A key that changes all the time is looked at again.

use std::collections::HashMap;

use anyhow::Context as _;

use super::fingerprint::Fingerprint;
use super::mirror_rows::{MirrorRows, Seen};
use super::{Fence, source};
use crate::catalog::{Block, Table};

/// Keys of one round: one query a side.
const KEYS_AT_ONCE: usize = 20_000;

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// PostgreSQL has it, the mirror does not.
    Missing,
    /// The mirror has it, PostgreSQL does not.
    Extra,
    /// Both have it, with other values.
    Different,
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// In the form of `Block::write_key`.
    pub(super) key: Vec<u8>,
    pub(super) kind: Kind,
    /// The highest version that the mirror has of it.
    pub(super) version: Option<u128>,
    /// Whether ClickHouse can hold PostgreSQL's row at all.
    pub(super) storable: bool,
}

/// What the rounds found.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) differences: Vec<Difference>,
    /// Keys that changed between every two looks.
    pub(super) restless: u64,
}

/// PostgreSQL's row of a key: `Some(None)` is one that ClickHouse cannot hold.
type Origin = Option<Option<Fingerprint>>;

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    Differs(Kind),
    Unknown,
}

/// Looks at `keys` until each is settled, `verify.rounds_max` times at most.
pub(super) async fn settle(
    fence: &Fence<'_>,
    mirror: &MirrorRows<'_>,
    table: &Table,
    keys: &[Vec<u8>],
) -> anyhow::Result<Settled> {
    let mut settled = Settled::default();
    for some in keys.chunks(KEYS_AT_ONCE) {
        let mut before: HashMap<Vec<u8>, Option<(Seen, Origin)>> = some.iter().map(|key| (key.clone(), None)).collect();
        for _ in 0..fence.settings.verify.rounds_max.max(2) {
            if before.is_empty() {
                break;
            }
            fence.pass().await?;
            let left: Vec<Vec<u8>> = before.keys().cloned().collect();
            mirror.name_keys(&left).await?;
            let seen = mirror.seen().await?;
            let origin = source::by_keys(fence.client, table, &texts(table, &left)?).await?;
            for key in left {
                let now = (seen.get(&key).copied().unwrap_or_default(), origin.get(&key).copied());
                let then = before.get(&key).copied().flatten();
                match judge(then, now) {
                    Verdict::Equal => drop(before.remove(&key)),
                    Verdict::Unknown => drop(before.insert(key, Some(now))),
                    Verdict::Differs(kind) => {
                        before.remove(&key);
                        let storable = then.is_none_or(|(_, origin)| origin != Some(None));
                        settled.differences.push(Difference { key, kind, version: now.0.version, storable });
                    }
                }
            }
        }
        settled.restless += u64::try_from(before.len())?;
    }
    settled.differences.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(settled)
}

fn judge(before: Option<(Seen, Origin)>, now: (Seen, Origin)) -> Verdict {
    let same = |origin: Origin, seen: Seen| match origin {
        None => seen.row.is_none(),
        Some(None) => false,
        Some(row) => seen.row == row,
    };
    let (seen, origin) = now;
    if same(origin, seen) {
        return Verdict::Equal;
    }
    let Some((seen_before, origin_before)) = before else { return Verdict::Unknown };
    if same(origin_before, seen) {
        return Verdict::Equal;
    }
    if seen_before != seen {
        return Verdict::Unknown;
    }
    Verdict::Differs(match (origin_before, seen.row) {
        (Some(_), None) => Kind::Missing,
        (None, _) => Kind::Extra,
        (Some(_), Some(_)) => Kind::Different,
    })
}

/// Keys as PostgreSQL's texts.
pub(super) fn texts(table: &Table, keys: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<String>>> {
    let mut block = Block::new(table);
    let text = |(at, key): (usize, &Vec<u8>)| {
        block.push_key(table, key, source::META).context("a key in another form than its own")?;
        block.key_texts(table, at).context("a key without a text")
    };
    keys.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_move_is_called_different() {
        let print = |text: &str| Some(Fingerprint::of(text.as_bytes()));
        let seen = |version, text: &str| Seen { version, row: print(text) };
        let gone = |version| Seen { version, row: None };
        let there = |text: &str| Some(print(text));
        // One look says nothing; a second one with the same version does.
        assert_eq!(judge(None, (seen(Some(1), "a"), there("b"))), Verdict::Unknown);
        let before = Some((seen(Some(1), "a"), there("b")));
        assert_eq!(judge(before, (seen(Some(1), "a"), there("c"))), Verdict::Differs(Kind::Different));
        // The mirror is where PostgreSQL was.
        assert_eq!(judge(before, (seen(Some(2), "b"), there("c"))), Verdict::Equal);
        assert_eq!(judge(before, (seen(Some(2), "d"), there("c"))), Verdict::Unknown);
        // Inserted and deleted again in between: the tombstone's version tells.
        let before = Some((gone(Some(1)), there("b")));
        assert_eq!(judge(before, (gone(Some(2)), there("c"))), Verdict::Unknown);
        assert_eq!(judge(before, (gone(Some(1)), there("b"))), Verdict::Differs(Kind::Missing));
        assert_eq!(judge(Some((seen(Some(1), "a"), None)), (seen(Some(1), "a"), None)), Verdict::Differs(Kind::Extra));
        // A row that cannot be stored is equal to nothing, not even to nothing.
        let parked = (gone(None), Some(None));
        assert_eq!(judge(Some(parked), parked), Verdict::Differs(Kind::Missing));
        assert_eq!(judge(None, (gone(Some(3)), None)), Verdict::Equal);
    }
}
