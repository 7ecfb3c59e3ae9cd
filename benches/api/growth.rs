//! How throughput and latency of point reads grow with connections, and what a connection costs in memory.

use std::net::TcpStream;
use std::time::Duration;

use crate::figures::{Line, knob, line, ms};
use crate::load_generator::load;
use crate::posts;
use crate::requests::{Scenario, request};
use crate::servers::Server;
use crate::support::Stack;

const CONNECTIONS: [usize; 5] = [1, 4, 16, 64, 256];
/// Connections that are open, each having been used.
const OPEN: usize = 1000;

pub(crate) fn measure(stack: &Stack, server: &Server) -> Vec<Line> {
    let span = Duration::from_secs(knob("PLATFORM_BENCH_SECONDS", 5));
    let (posts, key) = (posts::count(), stack.api_key());
    let make = |number| request(server.dialect, Scenario::Point, number, posts, server.address, key);
    let mut table = Vec::new();
    for connections in CONNECTIONS {
        let outcome = tokio::task::block_in_place(|| load(server.address, connections, span, &[200], 7, &make));
        let (p50, p99) = (ms(outcome.latency(0.5)), ms(outcome.latency(0.99)));
        let figure = format!("{:.0} requests/s, p50 {p50}, p99 {p99}", outcome.rate());
        table.push(line(format!("point read, {connections} connections"), figure, "", None));
    }
    let before = memory_mib(server.pid());
    let idle: Vec<TcpStream> = (0..OPEN).map(|_| TcpStream::connect(server.address).expect("connected")).collect();
    let outcome = tokio::task::block_in_place(|| load(server.address, OPEN, span, &[200], 7, &make));
    let after = memory_mib(server.pid());
    let figure = format!("{after:.0} MiB, {:.0} requests/s, p99 {}", outcome.rate(), ms(outcome.latency(0.99)));
    let peer = format!("before {before:.0} MiB");
    table.push(line(format!("{OPEN} connections that read, {} that are idle", idle.len()), figure, peer, None));
    table
}

/// Resident memory now, in MiB.
fn memory_mib(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
