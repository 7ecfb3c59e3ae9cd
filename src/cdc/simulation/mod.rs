//! A deterministic simulation of the sink: the real decoder, batches, outbox and writer between models of PostgreSQL, the
//! connector, the topic and ClickHouse. Everything random comes from the seed, which a failure prints.
//!
//! ```text
//! database ─► topic ─► sink (real) ─► warehouse
//!     └──────── load ────────────────────┘
//! ```
//!
//! `run` draws who goes on next; work is moved from pause to pause by hand (`step`), so that a crash may be anywhere, and
//! several writers may be at work at once. `bug` plants mistakes that the simulation has to find.

mod bug;
mod database;
mod faults;
mod load;
mod reread_tests;
mod row;
mod run;
mod sink;
mod statistics;
mod step;
mod topic;
mod warehouse;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use bug::{BUGS, Bug};
use run::{Seen, run};

/// Seeds of a run of the tests.
const SEEDS: u64 = 1_000;
/// Runs at once.
const THREADS: usize = 4;

/// Goes through the seeds until one fails; returns it with what was wrong.
fn first_failure(bug: Option<Bug>, seen: impl Fn(Seen) + Sync) -> Option<(u64, String)> {
    let next = AtomicU64::new(1);
    let failures = std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed > SEEDS {
                    return None;
                }
                match run(seed, bug) {
                    Ok(what) => seen(what),
                    Err(wrong) => {
                        next.store(SEEDS + 1, Ordering::Relaxed);
                        return Some((seed, wrong));
                    }
                }
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("no run panics")).collect::<Vec<_>>()
    });
    failures.into_iter().min()
}

#[test]
fn a_thousand_seeds_end_in_what_postgres_has() {
    let sum = std::sync::Mutex::new(Seen::default());
    let failure = first_failure(None, |seen| {
        let mut sum = sum.lock().expect("nobody panics");
        sum.add(seen);
    });
    if let Some((seed, wrong)) = failure {
        panic!("seed {seed}: {wrong}");
    }
    let sum = sum.into_inner().expect("nobody panics");
    println!("{sum:?}");
    assert!(sum.is_rich(), "something never happened: {sum:?}");
}

#[test]
fn every_planted_bug_is_found() {
    for bug in BUGS {
        let found = first_failure(Some(bug), |_| ());
        let Some((seed, wrong)) = found else { panic!("{bug:?} is not found within {SEEDS} seeds") };
        println!("{bug:?}: seed {seed}: {wrong}");
    }
}

#[test]
fn a_seed_always_runs_in_the_same_way() {
    for seed in [1, 77, 500] {
        assert_eq!(format!("{:?}", run(seed, None)), format!("{:?}", run(seed, None)));
    }
}
