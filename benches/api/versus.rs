//! The same work by every server: requests a second, CPU a request and the 99th percentile, at 64 connections.

use std::time::Duration;

use crate::figures::{Line, knob, line, median, ms, repetitions};
use crate::load_generator::{Outcome, load};
use crate::posts;
use crate::requests::{Scenario, request};
use crate::servers::Server;
use crate::support::Stack;

const CONNECTIONS: usize = 64;

/// One server's turns.
#[derive(Default)]
struct Turns {
    rates: Vec<f64>,
    /// CPU seconds of the server for a request.
    costs: Vec<f64>,
    p99s: Vec<f64>,
}

pub(crate) fn measure(stack: &Stack, servers: [&Server; 3]) -> Vec<Line> {
    let mut table = Vec::new();
    // No request of one turn comes again in another.
    let mut first = 0;
    for scenario in Scenario::ALL {
        let mut turns = [(); 3].map(|()| Turns::default());
        for turn in 0..=repetitions() {
            for (server, turns) in servers.iter().zip(&mut turns) {
                let cpu = server.cpu_seconds();
                let outcome = go(stack, server, scenario, first);
                first += 100_000_000;
                // The first turn warms up.
                if turn > 0 {
                    turns.rates.push(outcome.rate());
                    turns.costs.push((server.cpu_seconds() - cpu) / outcome.requests);
                    turns.p99s.push(outcome.latency(0.99));
                }
            }
        }
        table.extend(lines(scenario, &servers, &turns));
    }
    table
}

fn go(stack: &Stack, server: &Server, scenario: Scenario, first: u64) -> Outcome {
    let span = Duration::from_secs(knob("PLATFORM_BENCH_SECONDS", 5));
    let (posts, key) = (posts::count(), stack.api_key());
    let make = |number| request(server.dialect, scenario, number, posts, server.address, key);
    tokio::task::block_in_place(|| load(server.address, CONNECTIONS, span, &[scenario.status()], first, &make))
}

fn lines(scenario: Scenario, servers: &[&Server; 3], turns: &[Turns; 3]) -> Vec<Line> {
    let figure = |turns: &Turns| {
        let (rate, cost, p99) = (median(&turns.rates), median(&turns.costs) * 1e6, median(&turns.p99s));
        format!("{rate:.0} requests/s, {cost:.0} µs of CPU each, p99 {}", ms(p99))
    };
    let ours = &turns[0];
    let mut lines = Vec::new();
    for (server, theirs) in servers.iter().zip(turns).skip(1) {
        let cost = median(&ours.costs) / median(&theirs.costs);
        let what = format!("{}, {CONNECTIONS} connections (CPU a request: {cost:.2})", scenario.name());
        let peer = format!("{}: {}", server.name, figure(theirs));
        lines.push(line(what, figure(ours), peer, Some(median(&ours.rates) / median(&theirs.rates))));
    }
    lines
}
