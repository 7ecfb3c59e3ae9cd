//! `cargo bench --bench peers`: the change-data path beside its peers, both sides of every ratio in one run.
//!
//! The peers: ClickHouse's Kafka engine with the fastest view that was found, `INSERT … SELECT FROM postgresql(…)`,
//! `COPY … TO STDOUT (FORMAT binary)` into nothing, Debezium's own snapshot. Their statements, settings and data are
//! fixed; only addresses and names follow this run.
//!
//! Arguments choose parts: `drain`, `load`, `snapshot`, `freshness`; none means all. The environment:
//! `PLATFORM_BENCH_REPETITIONS` (5), `PLATFORM_BENCH_MESSAGES` (1,000,000), `PLATFORM_BENCH_ROWS` (3,000,000),
//! `PLATFORM_BENCH_SNAPSHOT_ROWS` (600,000), `PLATFORM_BENCH_SECONDS` (20, of each rate of changes).
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark ends by a panic")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod columns;
mod drain;
mod engine;
mod figures;
mod freshness;
mod kafka_engine;
mod load;
mod rows;
mod sink;
mod snapshot;
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod topic;

use support::{Options, Stack};

const PARTS: [&str; 4] = ["drain", "load", "snapshot", "freshness"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this with `--test`: there is nothing to check without measuring.
    if arguments.iter().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let chosen: Vec<&str> = arguments.iter().map(String::as_str).filter(|name| !name.starts_with('-')).collect();
    for name in &chosen {
        assert!(PARTS.contains(name), "{name} is no part; there are {PARTS:?}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(run(&chosen));
}

async fn run(chosen: &[&str]) {
    let wanted = |part| chosen.is_empty() || chosen.contains(&part);
    println!("starting the stack");
    let mut stack = Stack::prepared(Options {
        parts: Some("postgres,kafka,connect,clickhouse,migrate,key,load,connector"),
        ..Options::default()
    });
    engine::allow_peers(stack.data_dir());
    stack.start_again();
    let mut table = Vec::new();
    if wanted("freshness") {
        table.extend(freshness::measure(&stack, 100, 1).await);
        table.extend(freshness::measure(&stack, 2_000, 10).await);
    }
    if wanted("drain") {
        table.extend(drain::measure(&stack).await);
    }
    if wanted("load") || wanted("snapshot") {
        rows::generate(&stack, rows::count()).await;
    }
    if wanted("load") {
        table.extend(load::measure(&stack).await);
    }
    if wanted("snapshot") {
        table.extend(snapshot::measure(&stack, load::rate(&table)).await);
    }
    figures::print(&table);
}
