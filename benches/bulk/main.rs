//! `cargo bench --bench bulk`: the batch half beside its peers, both sides of every ratio in one run.
//!
//! Arguments choose parts: `copies` (`generate` and `import` against COPY), `etl` (a day against a pandas job), `growth` (a
//! bucket out of ever larger tables), `refresh` (from a change to the statistic that has it); none means all. The environment:
//! `PLATFORM_BENCH_REPETITIONS` (5), `PLATFORM_BENCH_POSTS` (500,000), `PLATFORM_BENCH_ROWS` (1,000,000, of the peer's table),
//! `PLATFORM_BENCH_MILLIONS` (50, the largest table of `growth`), `PLATFORM_BENCH_SECONDS` (60, of `refresh`).
//!
//! Figures of different runs or machines do not compare; the ratios do.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark ends by a panic")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../peers/columns.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod columns;
mod copies;
#[path = "../peers/engine.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod engine;
mod etl;
#[path = "../peers/figures.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod figures;
mod growth;
mod process;
mod refresh;
#[path = "../peers/rows.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod rows;
#[path = "../peers/sink.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod sink;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use sink::Sink;
use support::{Options, Stack};

const PARTS: [&str; 4] = ["copies", "etl", "growth", "refresh"];

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
    let mut table = Vec::new();
    if wanted("copies") {
        table.extend(copies::measure().await);
    }
    if wanted("etl") || wanted("growth") {
        // A sink without its refresher: the mirror follows, and nobody else builds.
        let parts = Some("postgres,kafka,connect,clickhouse,migrate,key,load,connector");
        let stack = Stack::start_with(Options { parts, ..Options::default() });
        let sink = Sink::start(&stack, &[("PLATFORM__ETL__REFRESH_INTERVAL_MS", "0")]);
        if wanted("etl") {
            table.extend(etl::measure(&stack).await);
        }
        if wanted("growth") {
            table.extend(growth::measure(&stack).await);
        }
        sink.stop();
    }
    if wanted("refresh") {
        table.extend(refresh::measure().await);
    }
    figures::print(&table);
}
