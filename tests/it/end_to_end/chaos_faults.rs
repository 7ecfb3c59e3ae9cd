//! What goes wrong in a run under random faults: drawn from a seed, so that a plan can be had again.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::support::proxy::Mode;

/// Parts that `platform up` starts again.
pub(super) const PARTS: [&str; 4] = ["postgres", "kafka", "connect", "clickhouse"];

/// One thing that goes wrong, or that somebody does at a bad time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// `kill -9` of a part.
    Kill(&'static str),
    /// SIGSTOP of a part and its children, and SIGCONT after a time.
    Pause(&'static str, Duration),
    /// PostgreSQL ends in order, and is started again.
    RestartPostgres,
    /// `kill -9` of one of the two sinks.
    KillSink(usize),
    /// SIGSTOP of one of the two sinks, and SIGCONT after a time.
    PauseSink(usize, Duration),
    /// As `PauseSink`, and PostgreSQL ends its sessions meanwhile, as it does when it notices: the other one takes over.
    Zombie(usize, Duration),
    /// Between the sinks and ClickHouse.
    ClickHouse(Mode, Duration),
    /// Between the sinks and PostgreSQL.
    Postgres(Mode, Duration),
    /// ClickHouse lies to so many of a thousand requests.
    Lies(u32, Duration),
    /// PostgreSQL ends every session but the writers'.
    EndSessions,
    /// Somebody loads one table, or all.
    Load(Option<&'static str>),
    /// A column comes.
    NewColumn,
    /// A column goes.
    DropColumn,
    /// A table joins, and an older one leaves.
    NewTable,
}

/// Every fault in a shuffled order, again and again: each of them in every minute or two.
#[derive(Debug)]
pub(super) struct Plan {
    random: ChaCha8Rng,
    left: Vec<Fault>,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), left: Vec::new() }
    }

    /// The next fault, and how long nothing else goes wrong after it.
    pub(super) fn next(&mut self) -> (Fault, Duration) {
        if self.left.is_empty() {
            self.left = self.all();
            self.left.shuffle(&mut self.random);
        }
        let calm = self.millis(100, 1500);
        (self.left.pop().expect("just filled"), calm)
    }

    fn all(&mut self) -> Vec<Fault> {
        let mut faults = vec![
            Fault::RestartPostgres,
            Fault::KillSink(0),
            Fault::KillSink(1),
            Fault::EndSessions,
            Fault::Load(None),
            Fault::Load(Some("notes")),
            Fault::Load(Some("shifting")),
            Fault::NewColumn,
            Fault::DropColumn,
            Fault::NewTable,
        ];
        for part in PARTS {
            faults.push(Fault::Kill(part));
            faults.push(Fault::Pause(part, self.short()));
        }
        for sink in 0..2 {
            faults.push(Fault::PauseSink(sink, self.short()));
            faults.push(Fault::Zombie(sink, self.millis(3000, 5000)));
        }
        for mode in [Mode::Closed, Mode::Stalled, Mode::Slow] {
            faults.push(Fault::ClickHouse(mode, self.short()));
            faults.push(Fault::Postgres(mode, self.short()));
        }
        for per_mille in [100, 300, 600] {
            faults.push(Fault::Lies(per_mille, self.short()));
        }
        faults
    }

    fn short(&mut self) -> Duration {
        self.millis(200, 2500)
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..to))
    }
}
