//! What goes wrong in a run, and how often: drawn from the seed, so that rare mixes come up.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// The only source of chance.
pub(super) type Rng = ChaCha8Rng;

/// Chances in a thousand.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    /// Of a call of the store: done, but the answer is lost.
    pub(super) lost_replies: u32,
    /// Of a call of the store: no answer, and done later.
    pub(super) late: u32,
    /// Of a call of the store: a part of its rows is stored, and then an error.
    pub(super) partial: u32,
    /// Of a call of the store: refused.
    pub(super) refused: u32,
    /// The following of a step of the run.
    pub(super) crashes: u32,
    pub(super) twins: u32,
    pub(super) resends: u32,
    pub(super) rewinds: u32,
    pub(super) loads: u32,
    pub(super) crashed_loads: u32,
    pub(super) foreign_snapshots: u32,
    pub(super) holes: u32,
    /// Of a change: TRUNCATE, or a value that cannot be stored.
    pub(super) truncates: u32,
    pub(super) infinities: u32,
}

impl Faults {
    /// Draws which faults are on, and their rates.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut rate = |highest: u32| if rng.random_ratio(1, 2) { rng.random_range(1..=highest) } else { 0 };
        Self {
            lost_replies: rate(200),
            late: rate(200),
            partial: rate(200),
            refused: rate(200),
            crashes: rate(40),
            twins: rate(20),
            resends: rate(30),
            rewinds: rate(15),
            loads: rate(30),
            crashed_loads: rate(30),
            foreign_snapshots: rate(15),
            holes: rate(5),
            truncates: rate(80),
            infinities: rate(120),
        }
    }

    /// Nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        (self.lost_replies, self.late, self.partial, self.refused) = (0, 0, 0, 0);
    }
}

/// Whether something of this chance happens.
pub(super) fn happens(rng: &mut Rng, per_thousand: u32) -> bool {
    per_thousand > 0 && rng.random_ratio(per_thousand.min(1000), 1000)
}
