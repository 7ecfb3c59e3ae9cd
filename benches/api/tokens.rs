//! From the beginning of a write to a read in ClickHouse that has it, through Debezium, Kafka and the sink.

use std::time::Instant;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::figures::{Line, knob, line, ms, percentile};
use crate::servers::Server;
use crate::support::Stack;

const CLIENTS: u64 = 8;

pub(crate) async fn measure(stack: &Stack, server: &Server) -> Vec<Line> {
    let writes = knob("PLATFORM_BENCH_WRITES", 10_000);
    let caller = |number| client(stack, server, number, writes / CLIENTS);
    // The stream has passed everything that was written before.
    client(stack, server, CLIENTS, 1).await;
    let begun = Instant::now();
    let mut took: Vec<f64> =
        futures_util::future::join_all((0..CLIENTS).map(caller)).await.into_iter().flatten().collect();
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let figure = format!("p50 {}, p99 {}, {rate:.0} a second", ms(percentile(&took, 0.5)), ms(percentile(&took, 0.99)));
    let what = format!("write → consistent read, {} by {CLIENTS} clients, none missed", took.len());
    vec![line(what, figure, "", None)]
}

/// Each write is followed by a read that must count it. Returns seconds.
async fn client(stack: &Stack, server: &Server, number: u64, writes: u64) -> Vec<f64> {
    let http = Client::builder().no_proxy().build().expect("a client");
    let (base, key, platform) = (format!("http://{}", server.address), stack.api_key(), format!("tokens-{number}"));
    let read = format!("{base}/v1/analytics/summary?from=2031-01-01&to=2031-01-02&platform={platform}");
    let mut took = Vec::new();
    for written in 1..=writes {
        let post = json!({"platform": platform, "post_id": written.to_string(), "content": "x",
                          "sentiment_label": "positive", "posted_at": "2031-01-01T12:00:00Z"});
        let begun = Instant::now();
        let answer = http.request(Method::POST, format!("{base}/v1/sentiment-social")).bearer_auth(key).json(&post);
        let answer = answer.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 201);
        let token = answer.headers()["x-consistency-token"].to_str().expect("a text").to_owned();
        let read = || async {
            let request = http.get(&read).bearer_auth(key).header("x-consistency-token", &token);
            let answer = request.header("prefer", "wait=30").send().await.expect("an answer");
            (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
        };
        let (status, set) = read().await;
        took.push(begun.elapsed().as_secs_f64());
        let rows = set["data"].as_array().unwrap_or_else(|| panic!("{status}: {set}"));
        let total = rows.iter().find(|row| row["dimension"] == "total").and_then(|row| row["posts"].as_u64());
        assert_eq!(total, Some(written), "client {number} misses write {written}: {set}");
    }
    took
}
