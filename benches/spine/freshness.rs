//! From commit to visible in `analytics`, at 100 changes a second through Debezium and Kafka.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;
use serde::Deserialize;

use crate::support::Stack;
use crate::{Line, line, ms, percentile};

const RATE: u32 = 100;
const CHANGES: i64 = 2_000;

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let settings = stack.settings();
    let client = postgres::connect(&settings.postgres, "bench").await.expect("connected");
    let table = "create table ticks (id bigint primary key, at timestamptz not null); alter publication platform add table ticks";
    client.batch_execute(table).await.expect("a table");
    assert_eq!(tokio::task::block_in_place(|| stack.platform(&["load", "ticks"])).code, Some(0));
    let mut sink = stack.command(&["sink"]).stderr(Stdio::null()).spawn().expect("started");
    let clickhouse = ClickHouse::new(&settings.clickhouse).expect("configured");
    // One change through, so that everything is warm.
    client.execute("insert into ticks values (0, now())", &[]).await.expect("inserted");
    let warm = tokio::time::timeout(Duration::from_secs(60), visible(&clickhouse, 0)).await;
    warm.expect("the first change arrives");

    let watching = tokio::spawn(watch(clickhouse));
    let mut committed = BTreeMap::new();
    let mut clock = tokio::time::interval(Duration::from_secs(1) / RATE);
    for id in 1..=CHANGES {
        clock.tick().await;
        client.execute("insert into ticks values ($1, now())", &[&id]).await.expect("inserted");
        committed.insert(id, Instant::now());
    }
    let seen = watching.await.expect("watched");
    let mut delays: Vec<f64> = committed
        .iter()
        .map(|(id, at)| {
            let first = seen.iter().find(|(highest, _)| highest >= id).expect("every change became visible");
            first.1.saturating_duration_since(*at).as_secs_f64()
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(sink.id()).expect("a process number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("stopped");
    sink.wait().expect("ended");
    let (p50, p99) = (percentile(&delays, 0.5), percentile(&delays, 0.99));
    vec![line("commit → visible, 100 changes/s", format!("p50 {}, p99 {}", ms(p50), ms(p99)), "", None)]
}

#[derive(Deserialize)]
struct Highest {
    highest: String,
}

async fn highest(clickhouse: &ClickHouse) -> i64 {
    let rows: Vec<Highest> =
        clickhouse.fetch_all("select max(id) as highest from analytics.ticks", &[]).await.expect("read");
    rows[0].highest.parse().expect("a number")
}

async fn visible(clickhouse: &ClickHouse, id: i64) {
    let count = "select count() as highest from analytics.ticks";
    loop {
        let rows: Vec<Highest> = clickhouse.fetch_all(count, &[]).await.unwrap_or_default();
        if rows.first().is_some_and(|row| row.highest != "0") && highest(clickhouse).await >= id {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Looks again and again at the highest id that is visible, until the last one is.
async fn watch(clickhouse: ClickHouse) -> Vec<(i64, Instant)> {
    let mut seen: Vec<(i64, Instant)> = Vec::new();
    let end = Instant::now() + Duration::from_secs(120);
    while seen.last().is_none_or(|(id, _)| *id < CHANGES) {
        assert!(Instant::now() < end, "the last change never became visible");
        let now = highest(&clickhouse).await;
        if seen.last().is_none_or(|(id, _)| *id < now) {
            seen.push((now, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    seen
}
