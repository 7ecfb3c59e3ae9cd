//! `cargo bench --bench api`: the API beside FastAPI, and beside a bare actix server, which is the limit.
//!
//! The peers (`benches/api/peers/`) have their queries and settings fixed; only addresses follow this run. All servers run at
//! once over the same PostgreSQL and are loaded one after the other, in turns.
//!
//! Arguments choose parts: `versus`, `growth`, `analytics`, `tokens`; none means all. The environment:
//! `PLATFORM_BENCH_REPETITIONS` (5), `PLATFORM_BENCH_POSTS` (1,000,000), `PLATFORM_BENCH_SECONDS` (5, of each turn),
//! `PLATFORM_BENCH_WRITES` (10,000 of the tokens).
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark ends by a panic")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod analytics;
#[path = "../peers/columns.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod columns;
#[path = "../peers/figures.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod figures;
mod growth;
mod inserts;
mod load_generator;
mod pipeline;
mod posts;
mod requests;
#[path = "../peers/rows.rs"]
#[allow(dead_code, reason = "each benchmark takes what it needs")]
mod rows;
mod servers;
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod tokens;
mod versus;

use pipeline::Pipeline;
use servers::{Peers, Server};
use support::{Options, Stack};

const PARTS: [&str; 4] = ["versus", "growth", "analytics", "tokens"];

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
    let peers = wanted("versus").then(Peers::install);
    println!("starting the stack");
    let parts = Some("postgres,kafka,connect,clickhouse,migrate,key,load");
    let stack = Stack::start_with(Options { parts, ..Options::default() });
    posts::fill(&stack).await;
    let ours = Server::ours(&stack).await;
    let mut table = Vec::new();
    if let Some(peers) = peers {
        let (bare, fast) = (peers.bare(&stack).await, peers.fast_api(&stack).await);
        table.extend(versus::measure(&stack, [&ours, &bare, &fast]));
        table.extend(inserts::measure(&stack).await);
    }
    if wanted("growth") {
        table.extend(growth::measure(&stack, &ours));
    }
    if wanted("analytics") || wanted("tokens") {
        // Only now: what was written above is no load on the same cores while it is measured.
        let _pipeline = Pipeline::start(&stack, &ours).await;
        if wanted("analytics") {
            table.extend(analytics::measure(&stack, &ours).await);
        }
        if wanted("tokens") {
            table.extend(tokens::measure(&stack, &ours).await);
        }
    }
    figures::print(&table);
}
