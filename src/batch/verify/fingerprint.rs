//! What is compared of a row, and of many rows without regard to their order. Pure.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

/// Buckets: 2 to the power of this. 24 MiB of memory a side; a bucket of a table of 10 million rows has ten.
const BUCKET_BITS: u32 = 20;
/// Knuth's multiplier: CRC-32 is linear, and keys that count up would fill only some buckets.
const SPREAD: u32 = 2_654_435_769;

/// The first 128 bits of the SHA-256 of a row in `RowBinary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    low: u64,
    high: u64,
}

impl Fingerprint {
    /// Of a row's bytes.
    pub(super) fn of(row: &[u8]) -> Self {
        let hash = Sha256::digest(row);
        let half = |from| {
            let bytes = hash.iter().skip(from).take(8);
            bytes.rev().fold(0, |value: u64, byte| (value << 8) | u64::from(*byte))
        };
        Self { low: half(0), high: half(8) }
    }

    /// Of a row that PostgreSQL has and ClickHouse cannot hold: no row's.
    pub(super) fn unstorable() -> Self {
        Self::of(b"a row that cannot be stored")
    }

    /// From the halves that ClickHouse computed with `HALVES`.
    pub(super) const fn from_halves(low: u64, high: u64) -> Self {
        Self { low, high }
    }
}

/// ClickHouse's expressions for the two halves of `hash`, the SHA-256.
pub(super) const HALVES: [&str; 2] =
    ["reinterpretAsUInt64(substring(hash, 1, 8))", "reinterpretAsUInt64(substring(hash, 9, 8))"];

/// The bucket of a key in the form of `Block::write_key`.
pub(super) fn bucket_of(key: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(key);
    crc.sum().wrapping_mul(SPREAD) >> (u32::BITS - BUCKET_BITS)
}

/// ClickHouse's expression for `bucket_of(key)`.
pub(super) fn bucket_expression() -> String {
    format!("bitShiftRight(toUInt32(CRC32(key) * {SPREAD}), {})", u32::BITS - BUCKET_BITS)
}

/// What a bucket holds: a number of rows, and the sums of their fingerprints' halves modulo 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    pub(super) rows: u64,
    pub(super) low: u64,
    pub(super) high: u64,
}

/// All buckets of one side; many threads may add.
#[derive(Debug)]
pub(super) struct Buckets(Vec<[AtomicU64; 3]>);

impl Buckets {
    /// Empty ones.
    pub(super) fn new() -> Self {
        Self((0..1_u32 << BUCKET_BITS).map(|_| [0; 3].map(AtomicU64::new)).collect())
    }

    /// Adds a row.
    pub(super) fn add(&self, key: &[u8], row: Fingerprint) {
        let bucket = usize::try_from(bucket_of(key)).ok().and_then(|bucket| self.0.get(bucket));
        if let Some([rows, low, high]) = bucket {
            rows.fetch_add(1, Ordering::Relaxed);
            low.fetch_add(row.low, Ordering::Relaxed);
            high.fetch_add(row.high, Ordering::Relaxed);
        }
    }

    /// The buckets that are not as the other side has them, with the rows of both sides; and the rows of this side.
    pub(super) fn differing(&self, other: &[(u32, Sum)]) -> (Vec<(u32, u64)>, u64) {
        let mut theirs = other.iter().copied().peekable();
        let (mut differing, mut rows) = (Vec::new(), 0);
        for (bucket, values) in (0..).zip(&self.0) {
            let [here, low, high] = values.each_ref().map(|value| value.load(Ordering::Relaxed));
            let there = theirs.next_if(|(number, _)| *number == bucket).map(|(_, sum)| sum).unwrap_or_default();
            rows += here;
            if (Sum { rows: here, low, high }) != there {
                differing.push((bucket, here + there.rows));
            }
        }
        (differing, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_tell_rows_apart_and_not_their_order() {
        let rows: Vec<([u8; 8], Fingerprint)> =
            (0..5000_u64).map(|id| (id.to_le_bytes(), Fingerprint::of(&id.to_be_bytes()))).collect();
        let of = |rows: &mut dyn Iterator<Item = &([u8; 8], Fingerprint)>| {
            let buckets = Buckets::new();
            rows.for_each(|(key, row)| buckets.add(key, *row));
            buckets
        };
        let sums = |buckets: &Buckets| -> Vec<(u32, Sum)> {
            let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
            let sum = |[rows, low, high]: &[AtomicU64; 3]| Sum { rows: read(rows), low: read(low), high: read(high) };
            (0..).zip(buckets.0.iter().map(sum)).filter(|(_, sum)| sum.rows > 0).collect()
        };
        let all = of(&mut rows.iter());
        assert_eq!(all.differing(&sums(&of(&mut rows.iter().rev()))), (Vec::new(), 5000));
        assert!(sums(&all).len() > 4900, "keys that count up must spread");
        let one_less = sums(&of(&mut rows.iter().skip(1)));
        let bucket = bucket_of(&rows[0].0);
        assert_eq!(all.differing(&one_less).0.iter().map(|(bucket, _)| *bucket).collect::<Vec<_>>(), [bucket]);
    }
}
