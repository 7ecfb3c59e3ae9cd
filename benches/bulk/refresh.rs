//! From the commit of a change to the statistic of its day that has it, at 1,000 changes a second, by the sink's refresher.

use std::ops::Range;
use std::time::{Duration, Instant};

use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;

use crate::engine::{self, ask};
use crate::figures::{Line, cpu_seconds, knob, line, ms, percentile};
use crate::support::{Options, Stack};

const RATE: u32 = 1_000;
/// Changes of one transaction.
const TOGETHER: u32 = 10;
/// Posts that the day has when the time begins to count; those of the warm-up are among them.
const BEFORE: u32 = 100_000;
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn measure() -> Vec<Line> {
    let stack = Stack::start_with(Options::default());
    let clickhouse = engine::client(&stack);
    let seconds = |name, default| u32::try_from(knob(name, default)).expect("small");
    // Kafka and Connect compile their code in their first minute of work.
    let warm_up = RATE / TOGETHER * seconds("PLATFORM_BENCH_WARM_UP_SECONDS", 60);
    let generated = BEFORE.saturating_sub(warm_up * TOGETHER).max(1);
    stack.platform(&["generate", "--rows", &generated.to_string(), "--date", "2026-01-05", "--seed", "3"]).json();
    assert_eq!(stack.platform(&["etl", "--date", "2026-01-05", "--force"]).code, Some(0));
    write(stack.settings().postgres, 0..warm_up).await;
    let before = seen(&clickhouse, u64::from(generated + warm_up * TOGETHER)).await;
    let transactions = RATE / TOGETHER * seconds("PLATFORM_BENCH_SECONDS", 60);
    let (sink, engine) = (stack.pid_of("sink"), stack.pid_of("clickhouse"));
    let (cpu, begun) = ((cpu_seconds(sink), cpu_seconds(engine)), Instant::now());
    let writing = tokio::spawn(write(stack.settings().postgres, warm_up..warm_up + transactions));
    let mut moments = Vec::new();
    let last = before + u64::from(transactions * TOGETHER);
    let mut count = before;
    while count < last {
        count = seen(&clickhouse, count + 1).await;
        moments.push((count, Instant::now()));
    }
    let took = begun.elapsed().as_secs_f64();
    let committed = writing.await.expect("written");
    let used = (cpu_seconds(sink) - cpu.0, cpu_seconds(engine) - cpu.1);
    let mut delays: Vec<f64> = committed
        .iter()
        .enumerate()
        .map(|(at, committed)| {
            let wanted = before + u64::from(TOGETHER) * (u64::try_from(at).expect("small") + 1);
            let (_, first) = moments.iter().find(|(count, _)| *count >= wanted).expect("seen");
            first.saturating_duration_since(*committed).as_secs_f64()
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    vec![line(
        format!("change → statistic of its day, {RATE} changes/s in a day that grows from {BEFORE} posts"),
        format!("p50 {}, p99 {}", ms(percentile(&delays, 0.5)), ms(percentile(&delays, 0.99))),
        format!(
            "the statistic changed {} times in {took:.0} s; sink {:.0} % and engine {:.0} % of a core",
            moments.len(),
            used.0 / took * 100.0,
            used.1 / took * 100.0
        ),
        Some(3.0 / percentile(&delays, 0.99)),
    )]
}

/// Posts of the day by its statistic, when there are at least `wanted`. The hour's statistic of the same rows is built beside it.
async fn seen(clickhouse: &ClickHouse, wanted: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let sum = ask(clickhouse, "select sum(posts) from analytics.sentiment_daily where day = '2026-01-05'").await;
        let sum: u64 = sum.parse().expect("a number");
        if sum >= wanted {
            return sum;
        }
        assert!(begun.elapsed() < LIMIT, "the statistic stays at {sum}, {wanted} are wanted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Posts of one day, spread over its hours, by the numbers of their transactions; the moment of each commit.
async fn write(settings: platform::config::Postgres, transactions: Range<u32>) -> Vec<Instant> {
    let client = postgres::connect(&settings, "bench").await.expect("connected");
    let sql = "insert into sentiment_social (platform, post_id, author, content, sentiment_label, sentiment_score, topic, lang, likes, posted_at) \
               select 'mastodon', 'bench-' || i, 'bench_' || i % 5000, 'content ' || i, 'neutral', 0.125, 'topic ' || i % 7, 'en', i % 50, \
               timestamptz '2026-01-05 00:00:00Z' + (i % 86400) * interval '1 second' from generate_series($1::bigint, $2::bigint) i";
    let statement = client.prepare(sql).await.expect("prepared");
    let mut clock = tokio::time::interval(Duration::from_secs(1) * TOGETHER / RATE);
    let mut committed = Vec::new();
    for transaction in transactions {
        clock.tick().await;
        let first = i64::from(transaction * TOGETHER);
        client.execute(&statement, &[&first, &(first + i64::from(TOGETHER) - 1)]).await.expect("inserted");
        committed.push(Instant::now());
    }
    committed
}
