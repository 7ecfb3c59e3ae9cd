//! Analytics: what the API adds to the engine's own time, and what an answer costs that did not change.

use std::time::{Duration, Instant};

use platform::api;
use platform::store::clickhouse::ClickHouse;
use platform::store::moments::{self, Moments};

use crate::figures::{Line, knob, line, median, ms};
use crate::load_generator::load;
use crate::posts;
use crate::requests::{Scenario, get, request};
use crate::servers::Server;
use crate::support::Stack;

pub(crate) const PATH: &str = "/v1/analytics/summary?from=2026-10-01&to=2026-10-02";
const SAMPLES: u32 = 100;
const CONNECTIONS: usize = 64;

pub(crate) async fn measure(stack: &Stack, server: &Server) -> Vec<Line> {
    vec![
        uncached(stack, server).await,
        unchanged(stack, server, ""),
        unchanged(stack, server, &tag(stack, server).await),
    ]
}

/// One request at a time, in turns with the same statement sent to the engine by the same client.
async fn uncached(stack: &Stack, server: &Server) -> Line {
    let clickhouse = ClickHouse::new(&stack.settings().clickhouse).expect("configured");
    let endpoints = api::load_endpoints(&stack.settings().api.endpoints_dir).expect("the shipped ones");
    let summary = endpoints.into_iter().find(|endpoint| endpoint.name == "summary").expect("the summary");
    let parameters: Vec<(&str, Option<&str>)> = summary
        .parameters
        .iter()
        .map(|parameter| match parameter.name.as_str() {
            "from" => ("from", Some("2026-10-01 00:00:00.000000")),
            "to" => ("to", Some("2026-10-02 00:00:00.000000")),
            other => (other, None),
        })
        .collect();
    let (table, _) = summary.ranged_table().expect("a range");
    let known = Moments::find(&clickhouse, &table).await.expect("looked up");
    let sql = summary.statement(|table, range| moments::rows(table, known.as_ref(), &range.column, &range.condition()));
    let (mut ours, mut engine) = (Vec::new(), Vec::new());
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}{PATH}", server.address);
    // What the server uses while it is not asked is not the request's.
    let (mut cpu, mut idle_cpu) = (0.0, 0.0);
    for _ in 0..SAMPLES {
        let (begun, used) = (Instant::now(), server.cpu_seconds());
        clickhouse.select(&sql, &parameters, "JSONCompact", &[]).await.expect("answered");
        engine.push(begun.elapsed().as_secs_f64());
        idle_cpu += server.cpu_seconds() - used;
        let (begun, used) = (Instant::now(), server.cpu_seconds());
        let answer = http.get(&url).bearer_auth(stack.api_key()).header("cache-control", "no-cache").send().await;
        let answer = answer.expect("answered");
        let (status, body) = (answer.status().as_u16(), answer.text().await.expect("a body"));
        assert_eq!(status, 200, "{body}");
        ours.push(begun.elapsed().as_secs_f64());
        cpu += server.cpu_seconds() - used;
    }
    let (ours, engine) = (median(&ours), median(&engine));
    let each = (cpu - idle_cpu).max(0.0) / f64::from(SAMPLES);
    let figure = format!("{}, {} of the server's CPU each", ms(ours), ms(each));
    line(
        "summary of a day, uncached, one at a time",
        figure,
        format!("the engine alone {}", ms(engine)),
        Some(ours / engine),
    )
}

/// The entity tag of the answer, as a header line.
async fn tag(stack: &Stack, server: &Server) -> String {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}{PATH}", server.address);
    let answer = http.get(&url).bearer_auth(stack.api_key()).send().await.expect("answered");
    let tag = answer.headers().get("etag").expect("a tag").to_str().expect("a text");
    format!("If-None-Match: {tag}\r\n")
}

/// The same answer again and again, beside point reads.
fn unchanged(stack: &Stack, server: &Server, header: &str) -> Line {
    let span = Duration::from_secs(knob("PLATFORM_BENCH_SECONDS", 5));
    let (posts, key) = (posts::count(), stack.api_key());
    let (mut answers, mut points) = (Vec::new(), Vec::new());
    let point = |number| request(server.dialect, Scenario::Point, number, posts, server.address, key);
    let again = |_| get(server.address, PATH, key, header);
    let run = |make: &(dyn Fn(u64) -> Vec<u8> + Sync)| {
        tokio::task::block_in_place(|| load(server.address, CONNECTIONS, span, &[200, 304], 99, make))
    };
    let mut p99 = Vec::new();
    for _ in 0..3 {
        let outcome = run(&again);
        answers.push(outcome.rate());
        p99.push(outcome.latency(0.99));
        points.push(run(&point).rate());
    }
    let what = if header.is_empty() { "summary, unchanged, whole" } else { "summary, unchanged, 304" };
    let figure = format!("{:.0} requests/s, p99 {}", median(&answers), ms(median(&p99)));
    let (ratio, point) = (median(&answers) / median(&points), median(&points));
    line(format!("{what}, {CONNECTIONS} connections"), figure, format!("point reads {point:.0}/s"), Some(ratio))
}
