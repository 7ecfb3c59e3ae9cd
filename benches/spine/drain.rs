//! The sink draining a topic of 500,000 recorded changes, from its start to the checkpoint behind the last one.

use std::process::Stdio;
use std::time::{Duration, Instant};

use platform::store::checkpoint;
use platform::store::clickhouse::ClickHouse;
use platform::store::kafka::Topic;
use platform::store::postgres;

use crate::support::Stack;
use crate::support::wait::wait_until;
use crate::{Line, REPETITIONS, cpu_seconds, line, median};

const CHANGES: i64 = 500_000;
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let settings = stack.settings();
    let clickhouse = ClickHouse::new(&settings.clickhouse).expect("configured");
    let end = record(stack).await;
    let (mut rates, mut cpu) = (Vec::new(), Vec::new());
    let mut begin = 0;
    for repetition in 0..REPETITIONS {
        let from = checkpoint::latest(&clickhouse, "platform").await.expect("read").expect("a checkpoint");
        if repetition == 0 {
            begin = end - CHANGES;
        }
        // Back to the first recorded change: the same versions give the same rows.
        let rewound = checkpoint::Checkpoint {
            batch: from.batch + 1,
            next_offset: begin,
            record_hash: String::new(),
            heartbeat: -1,
            ..from
        };
        checkpoint::store(&clickhouse, "platform", &rewound).await.expect("rewound");
        let engine_before = cpu_seconds(stack.pid_of("clickhouse"));
        let begun = Instant::now();
        let mut sink = stack.command(&["sink"]).stderr(Stdio::null()).spawn().expect("started");
        wait_until("the topic is drained", LIMIT, || async {
            checkpoint::latest(&clickhouse, "platform")
                .await
                .is_ok_and(|latest| latest.is_some_and(|latest| latest.next_offset >= end))
        })
        .await;
        let took = begun.elapsed().as_secs_f64();
        let pid = i32::try_from(sink.id()).expect("a process number");
        let used = cpu_seconds(pid) + cpu_seconds(stack.pid_of("clickhouse")) - engine_before;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("stopped");
        sink.wait().expect("ended");
        rates.push((end - begin) as f64 / took);
        cpu.push(used / (end - begin) as f64 * 1e6);
    }
    let raw = fetch_alone(&settings, begin, end).await;
    let rate = median(rates);
    vec![line(
        "sink draining 500,000 changes",
        format!("{rate:.0} rows/s (sink and engine {:.1} CPU-s a million)", median(cpu)),
        format!("fetching the same records alone {raw:.0} rows/s"),
        Some(rate / raw),
    )]
}

/// Makes the changes and waits until the connector has written them all. Returns the topic's end.
async fn record(stack: &Stack) -> i64 {
    let settings = stack.settings();
    let client = postgres::connect(&settings.postgres, "bench").await.expect("connected");
    // 60 % inserts are too slow to make one by one: one statement each, many events.
    let third = CHANGES / 10;
    let sql = format!(
        "set statement_timeout = 0; \
         update sentiment_social set likes = likes + 1 where id in (select id from sentiment_social order by id limit {}); \
         delete from sentiment_social where id in (select id from sentiment_social order by id limit {third})",
        CHANGES - third
    );
    let mut topic = Topic::new(&settings.kafka, &settings.sink.topic).expect("configured");
    let (_, before) = topic.bounds().await.expect("the topic's bounds");
    client.batch_execute(&sql).await.expect("changed");
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        let (_, now) = topic.bounds().await.expect("the topic's bounds");
        if now >= before + CHANGES {
            return now;
        }
        assert!(tokio::time::Instant::now() < end, "the connector has written {} of {CHANGES} changes", now - before);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The limit: fetching and dropping.
async fn fetch_alone(settings: &platform::config::Settings, begin: i64, end: i64) -> f64 {
    let mut topic = Topic::new(&settings.kafka, &settings.sink.topic).expect("configured");
    let begun = Instant::now();
    let mut offset = begin;
    while offset < end {
        let (records, _) = topic.fetch(offset, settings.sink.fetch_bytes_max, 100).await.expect("fetched");
        offset = records.last().map_or(offset, |record| record.offset + 1);
    }
    (end - begin) as f64 / begun.elapsed().as_secs_f64()
}
