//! What the tables themselves allow: the same insert by prepared statements, without any HTTP, into the platform's table and
//! into the peers', which has one index, no checks, and is not published.

use std::time::{Duration, Instant};

use platform::config::Settings;
use platform::store::postgres;

use crate::figures::{Line, knob, line, median, repetitions};
use crate::support::Stack;

/// As many as each server has.
const CONNECTIONS: u32 = 8;

const OURS: &str = "insert into sentiment_social (platform, post_id, author, content, lang, hashtags, sentiment_label, \
        sentiment_score, likes, shares, raw, posted_at) \
    values ('reddit', $1, 'user_42', repeat('the service was great but delivery ', 4), 'en', '{price,tag7}', 'positive', \
        0.731, 3, 1, '{\"v\":3,\"app\":\"web\",\"src\":\"campaign-9\",\"verified\":true}', '2026-11-01T12:34:56.789Z') returning id";
const PEERS: &str = "insert into posts_new (platform, author, content, lang, tags, sentiment, score, likes, shares, metadata, posted_at) \
    values ('reddit', 'user_42', $1 || repeat('the service was great but delivery ', 4), 'en', '{price,tag7}', 'positive', \
        0.731, 3, 1, '{\"v\":3,\"app\":\"web\",\"src\":\"campaign-9\",\"verified\":true}', '2026-11-01T12:34:56.789Z') returning id";

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let settings = stack.settings();
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for turn in 0..=repetitions() {
        let (into_ours, into_peers) = (rate(&settings, OURS, turn).await, rate(&settings, PEERS, turn).await);
        if turn > 0 {
            ours.push(into_ours);
            peers.push(into_peers);
        }
    }
    let (ours, peers) = (median(&ours), median(&peers));
    let what = format!("insert by the driver alone, {CONNECTIONS} connections");
    vec![line(what, format!("sentiment_social {ours:.0}/s"), format!("posts_new {peers:.0}/s"), Some(ours / peers))]
}

async fn rate(settings: &Settings, sql: &'static str, turn: u64) -> f64 {
    let end = Instant::now() + Duration::from_secs(knob("PLATFORM_BENCH_SECONDS", 5));
    let begun = Instant::now();
    let writers: Vec<_> = (0..CONNECTIONS)
        .map(|writer| tokio::spawn(write(settings.clone(), sql, format!("{turn}-{writer}"), end)))
        .collect();
    let mut rows = 0;
    for writer in writers {
        rows += writer.await.expect("a writer");
    }
    f64::from(rows) / begun.elapsed().as_secs_f64()
}

async fn write(settings: Settings, sql: &str, name: String, end: Instant) -> u32 {
    let client = postgres::connect(&settings.postgres, "bench").await.expect("connected");
    let statement = client.prepare(sql).await.expect("prepared");
    let mut rows = 0;
    while Instant::now() < end {
        client.query_one(&statement, &[&format!("driver-{name}-{rows}")]).await.expect("inserted");
        rows += 1;
    }
    rows
}
