//! From commit to visible in `analytics`, through Debezium, Kafka and the sink; and from commit to the topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use platform::store::clickhouse::ClickHouse;
use platform::store::kafka::Topic;
use platform::store::postgres;

use crate::engine::{self, ask};
use crate::figures::{Line, cpu_seconds, knob, line, ms, percentile};
use crate::sink::Sink;
use crate::support::Stack;

/// Connections that write at once when transactions hold several changes.
const WRITERS: u32 = 4;
/// Ids of a writer begin at its number times this: within one writer they are committed in order.
const SPAN: i64 = 1_000_000_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Moments by the id of the last row of a transaction.
type Moments = BTreeMap<i64, Instant>;

/// `rate`: changes a second; `together`: changes of one transaction.
pub(crate) async fn measure(stack: &Stack, rate: u32, together: u32) -> Vec<Line> {
    let settings = stack.settings();
    let table = format!("ticks_{rate}");
    let client = postgres::connect(&settings.postgres, "bench").await.expect("connected");
    let sql = format!(
        "create table {table} (id bigint primary key, at timestamptz not null); alter publication platform add table {table}"
    );
    client.batch_execute(&sql).await.expect("a table");
    assert_eq!(tokio::task::block_in_place(|| stack.platform(&["load", &table])).code, Some(0));
    let sink = Sink::start(stack, &[]);
    let clickhouse = engine::client(stack);
    // One change through, so that everything is warm.
    client.execute(&format!("insert into {table} values (0, now())"), &[]).await.expect("inserted");
    let begun = Instant::now();
    while ask(&clickhouse, &format!("select count() from analytics.{table}")).await != "1" {
        assert!(begun.elapsed() < LIMIT, "the first change arrives");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let writers = if together == 1 { 1 } else { WRITERS };
    let seconds = u32::try_from(knob("PLATFORM_BENCH_SECONDS", 20)).expect("small");
    let transactions = rate * seconds / together / writers;
    let lasts: Vec<i64> =
        (0..writers).map(|writer| i64::from(writer) * SPAN + i64::from(transactions * together)).collect();
    let mut topic = Topic::new(&settings.kafka, &settings.sink.topic).expect("configured");
    let (_, end) = topic.bounds().await.expect("the topic's bounds");
    let cpu = (cpu_seconds(sink.pid()), cpu_seconds(stack.pid_of("clickhouse")));
    let begun = Instant::now();
    let arrived = tokio::spawn(follow(topic, end, format!(r#""table":"{table}""#), lasts.clone()));
    let visible = tokio::spawn(watch(clickhouse, table.clone(), lasts));
    let writing: Vec<_> = (0..writers)
        .map(|writer| {
            let interval = Duration::from_secs(1) * together * writers / rate;
            tokio::spawn(write(settings.postgres.clone(), table.clone(), writer, transactions, together, interval))
        })
        .collect();
    let mut committed = Moments::new();
    for task in writing {
        committed.extend(task.await.expect("written"));
    }
    let (arrived, seen) = (arrived.await.expect("followed"), visible.await.expect("watched"));
    let took = begun.elapsed().as_secs_f64();
    let used = (cpu_seconds(sink.pid()) - cpu.0, cpu_seconds(stack.pid_of("clickhouse")) - cpu.1);
    let inserts = quantiles(&sink.metrics().await);
    sink.stop();
    let figure = |delays: &[f64]| format!("p50 {}, p99 {}", ms(percentile(delays, 0.5)), ms(percentile(delays, 0.99)));
    let to_topic = delays(&committed, &arrived);
    vec![line(
        format!("commit → visible, {rate} changes/s"),
        figure(&delays(&committed, &seen)),
        format!(
            "commit → topic {}; {inserts}; sink {:.0} % and engine {:.0} % of a core",
            figure(&to_topic),
            used.0 / took * 100.0,
            used.1 / took * 100.0
        ),
        None,
    )]
}

async fn write(
    settings: platform::config::Postgres,
    table: String,
    writer: u32,
    transactions: u32,
    together: u32,
    interval: Duration,
) -> Moments {
    let client = postgres::connect(&settings, "bench").await.expect("connected");
    let sql = format!("insert into {table} select i, now() from generate_series($1::bigint, $2::bigint) i");
    let statement = client.prepare(&sql).await.expect("prepared");
    let mut clock = tokio::time::interval(interval);
    let mut committed = Moments::new();
    let mut id = i64::from(writer) * SPAN;
    for _ in 0..transactions {
        clock.tick().await;
        let (first, last) = (id + 1, id + i64::from(together));
        client.execute(&statement, &[&first, &last]).await.expect("inserted");
        committed.insert(last, Instant::now());
        id = last;
    }
    committed
}

/// Delays in seconds, sorted: of each commit until its writer's highest id reached it.
fn delays(committed: &Moments, seen: &BTreeMap<i64, Moments>) -> Vec<f64> {
    let delay = |(id, at): (&i64, &Instant)| {
        let writer = seen.get(&(id / SPAN)).expect("the writer's changes were seen");
        let (_, first) = writer.range(id..).next().expect("every change was seen");
        first.saturating_duration_since(*at).as_secs_f64()
    };
    let mut delays: Vec<f64> = committed.iter().map(delay).collect();
    delays.sort_by(f64::total_cmp);
    delays
}

fn all_seen(seen: &BTreeMap<i64, Moments>, lasts: &[i64]) -> bool {
    lasts.iter().all(|last| seen.get(&(last / SPAN)).is_some_and(|moments| moments.contains_key(last)))
}

/// Looks again and again at the highest id of each writer that is visible, until the last ones are.
async fn watch(clickhouse: ClickHouse, table: String, lasts: Vec<i64>) -> BTreeMap<i64, Moments> {
    let mut seen: BTreeMap<i64, Moments> = BTreeMap::new();
    let begun = Instant::now();
    while !all_seen(&seen, &lasts) {
        assert!(begun.elapsed() < LIMIT * 2, "the last change never became visible");
        let highest = |writer: i64| {
            let known = seen.get(&writer).and_then(Moments::last_key_value).map_or(writer * SPAN, |(id, _)| *id);
            format!("(id > {known} and id < {})", (writer + 1) * SPAN)
        };
        let ranges: Vec<String> = lasts.iter().map(|last| highest(last / SPAN)).collect();
        let sql = format!(
            "select intDiv(id, {SPAN}), max(id) from analytics.{table} where {} group by 1",
            ranges.join(" or ")
        );
        let answer = ask(&clickhouse, &sql).await;
        let now = Instant::now();
        for row in answer.lines() {
            let (writer, id) = row.split_once('\t').expect("two columns");
            let moments = seen.entry(writer.parse().expect("a number")).or_default();
            moments.insert(id.parse().expect("a number"), now);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    seen
}

/// Reads the topic as the sink does, and notes when each change is there.
async fn follow(mut topic: Topic, mut offset: i64, table: String, lasts: Vec<i64>) -> BTreeMap<i64, Moments> {
    let mut seen: BTreeMap<i64, Moments> = BTreeMap::new();
    let begun = Instant::now();
    while !all_seen(&seen, &lasts) {
        assert!(begun.elapsed() < LIMIT * 2, "the last change never came into the topic");
        let (records, _) = topic.fetch(offset, 1 << 20, 100).await.expect("fetched");
        let now = Instant::now();
        for record in records {
            offset = record.offset + 1;
            let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
            let id = text.split_once(r#""after":{"id":"#).and_then(|(_, rest)| rest.split_once(','));
            if let (Some((id, _)), true) = (id, text.contains(&table)) {
                let id: i64 = id.parse().expect("a number");
                seen.entry(id / SPAN).or_default().insert(id, now);
            }
        }
    }
    seen
}

/// How long inserts and whole batches took on average, from the sink's own histograms.
fn quantiles(metrics: &str) -> String {
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        line.unwrap_or(0.0)
    };
    let mean = |name: &str| value(&format!("{name}_sum")) / value(&format!("{name}_count")).max(1.0);
    format!(
        "a batch of {:.0} rows is written in {} on average, {} of it its insert",
        mean("platform_sink_batch_rows"),
        ms(mean("platform_sink_batch_duration_seconds")),
        ms(mean("platform_sink_insert_duration_seconds")),
    )
}
