//! What goes wrong in a run under random faults: drawn from a seed, so that a plan can be had again.

use std::time::Duration;

use rand::RngExt as _;
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

/// Draws the next fault, and how long nothing else goes wrong after it.
pub(super) fn draw(random: &mut ChaCha8Rng) -> (Fault, Duration) {
    let mut millis = |from: u64, to: u64| Duration::from_millis(random.random_range(from..to));
    let (short, calm, zombie) = (millis(200, 4000), millis(100, 2500), millis(3000, 6000));
    let mut one = |limit: usize| random.random_range(0..limit);
    let mode = [Mode::Closed, Mode::Stalled, Mode::Slow][one(3)];
    let fault = match one(20) {
        0..3 => Fault::Kill(PARTS[one(PARTS.len())]),
        3..5 => Fault::Pause(PARTS[one(PARTS.len())], short),
        5 => Fault::RestartPostgres,
        6 | 7 => Fault::KillSink(one(2)),
        8 => Fault::PauseSink(one(2), short),
        9 => Fault::Zombie(one(2), zombie),
        10 | 11 => Fault::ClickHouse(mode, short),
        12 => Fault::Postgres(mode, short),
        13..16 => Fault::Lies([100, 300, 600][one(3)], short),
        16 => Fault::EndSessions,
        17 => Fault::Load([None, Some("notes"), Some("shifting")][one(3)]),
        18 => [Fault::NewColumn, Fault::DropColumn][one(2)],
        _ => Fault::NewTable,
    };
    (fault, calm)
}
