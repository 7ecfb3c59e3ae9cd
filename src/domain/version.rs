//! The version of a mirrored row: the event's place in the log.

use super::Lsn;

/// `log:16 | last_commit_lsn:56 | lsn:56`, ordered as the log is.
///
/// A pure function of the event, so that redelivery, reordering and replay give the same winner. 56 bits hold 64 PiB of
/// write-ahead log. Loaded rows have (log, L0, 0): see `docs/adr/0001-versions.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(u128);

const LSN_BITS: u32 = 56;
const LSN_MAX: u64 = (1 << LSN_BITS) - 1;

impl Version {
    /// Below every row of every log.
    pub const ZERO: Self = Self(0);

    /// Of an event of log number `log`, with the two halves of Debezium's `source.sequence`. `None` when a position does
    /// not fit into 56 bits, which no real log reaches.
    pub fn new(log: u16, last_commit: Lsn, lsn: Lsn) -> Option<Self> {
        if last_commit.get() > LSN_MAX || lsn.get() > LSN_MAX {
            return None;
        }
        Some(Self(
            (u128::from(log) << (2 * LSN_BITS)) | (u128::from(last_commit.get()) << LSN_BITS) | u128::from(lsn.get()),
        ))
    }

    /// Of the rows of a load that read `l0` before its snapshot.
    pub fn of_load(log: u16, l0: Lsn) -> Option<Self> {
        Self::new(log, l0, Lsn::ZERO)
    }

    /// As stored in the column `_version`.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// From the column `_version`.
    pub const fn from_raw(raw: u128) -> Self {
        Self(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_log_then_commit_then_position() {
        let v = |log, commit, lsn| Version::new(log, Lsn::new(commit), Lsn::new(lsn)).expect("fits");
        // A long transaction's early write commits late: its version is higher than a short one's later write.
        assert!(v(0, 500, 100) > v(0, 400, 450));
        assert!(v(1, 0, 0) > v(0, LSN_MAX, LSN_MAX));
        assert!(v(0, 7, 0) < v(0, 7, 1));
        assert!(Version::new(0, Lsn::new(LSN_MAX + 1), Lsn::ZERO).is_none());
    }
}
