//! `make bench`: what the platform does a second, as ratios against a peer or a limit of the same run.
//!
//! Starts the real stack on free ports, fills it with synthetic posts, and prints one table. Figures of different runs or
//! machines do not compare; the ratios do.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark ends by a panic")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod drain;
mod freshness;
mod load;
mod requests;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::time::Duration;

use support::{Options, Stack};

/// How often each figure is taken; the median is printed.
const REPETITIONS: usize = 3;

/// Rows that `load` copies; `PLATFORM_BENCH_ROWS` changes it.
fn rows() -> u64 {
    let text = platform::config::environment().remove("PLATFORM_BENCH_ROWS");
    text.map_or(1_000_000, |text| text.parse().expect("PLATFORM_BENCH_ROWS is a number"))
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
    println!("starting the stack, filling it with {} posts", rows());
    let parts = Some("postgres,kafka,connect,clickhouse,migrate,key,load,connector");
    let stack = Stack::start_with(Options { parts, ..Options::default() });
    let generated =
        stack.platform(&["generate", "--rows", &rows().to_string(), "--date", "2026-01-01", "--seed", "7"]).json();
    println!("generate: {generated}");

    let mut table = Vec::new();
    table.extend(load::measure(&stack).await);
    table.extend(drain::measure(&stack).await);
    table.extend(freshness::measure(&stack).await);
    table.extend(requests::measure(&stack).await);
    println!("\n| what | figure | compared with | ratio |\n|---|---|---|---|");
    for Line { what, figure, peer, ratio } in table {
        println!("| {what} | {figure} | {peer} | {} |", ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
    }
}

/// One line of the result.
struct Line {
    what: String,
    figure: String,
    peer: String,
    ratio: Option<f64>,
}

fn line(what: impl Into<String>, figure: impl Into<String>, peer: impl Into<String>, ratio: Option<f64>) -> Line {
    Line { what: what.into(), figure: figure.into(), peer: peer.into(), ratio }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the samples")]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// CPU seconds that a process has used so far, all threads (`/proc/PID/stat`, fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Milliseconds for people.
fn ms(seconds: f64) -> String {
    format!("{:.1} ms", Duration::from_secs_f64(seconds).as_secs_f64() * 1000.0)
}
