//! `cargo bench --bench spine`: what the API answers a second, as ratios against a limit of the same run.
//!
//! Starts the real stack on free ports, fills it with synthetic posts, and prints one table. Figures of different runs or
//! machines do not compare; the ratios do.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark ends by a panic")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../peers/figures.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod figures;
mod requests;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use support::{Options, Stack};

/// Posts to read; `PLATFORM_BENCH_POSTS` changes it.
fn posts() -> u64 {
    figures::knob("PLATFORM_BENCH_POSTS", 1_000_000)
}

fn main() {
    // `cargo test --benches` runs this with `--test`: there is nothing to check without measuring.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(run());
}

async fn run() {
    println!("starting the stack, filling it with {} posts", posts());
    let parts = Some("postgres,kafka,connect,clickhouse,migrate,key,load,connector");
    let stack = Stack::start_with(Options { parts, ..Options::default() });
    let generated =
        stack.platform(&["generate", "--rows", &posts().to_string(), "--date", "2026-01-01", "--seed", "7"]).json();
    println!("generate: {generated}");

    assert_eq!(stack.platform(&["load", "sentiment_social"]).code, Some(0));
    figures::print(&requests::measure(&stack).await);
}
