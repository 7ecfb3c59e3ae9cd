//! Draining one topic into the real engine: `platform sink` against ClickHouse's own Kafka engine.

use std::time::{Duration, Instant};

use platform::store::checkpoint::{self, Checkpoint};
use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;

use crate::columns;
use crate::engine::{self, ask, run, settle};
use crate::figures::{Line, cpu_seconds, line, median, memory_peak_mib, repetitions};
use crate::kafka_engine::{self, VIEWS};
use crate::sink::Sink;
use crate::support::Stack;
use crate::topic::{self, Content, TABLE};

const LIMIT: Duration = Duration::from_secs(90);

#[derive(Default)]
struct Samples {
    rows_s: Vec<f64>,
    sink_cpu: Vec<f64>,
    engine_cpu: Vec<f64>,
    broker_cpu: Vec<f64>,
    memory: Vec<f64>,
    parts: Vec<f64>,
}

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let clickhouse = engine::client(stack);
    prepare(stack).await;
    let content = topic::generate(stack).await;
    println!("{} messages of {:.0} bytes, {} rows live", content.messages, content.bytes, content.live);
    let (mut own, mut peers) = (Samples::default(), VIEWS.map(|_| (Vec::new(), Vec::new())));
    for repetition in 0..repetitions() {
        let fingerprint = drain(stack, &clickhouse, &content, &mut own).await;
        println!("drain {repetition}: sink {:.0} rows/s", own.rows_s.last().expect("measured"));
        // For profiles of the sink alone.
        if crate::figures::knob("PLATFORM_BENCH_WITHOUT_PEERS", 0) == 1 {
            continue;
        }
        for ((name, block), (rows_s, cpu_s)) in VIEWS.iter().zip(&mut peers) {
            let run = kafka_engine::drain(stack, &clickhouse, &content, *block).await;
            println!(
                "drain {repetition}: Kafka engine {name} {:.0} rows/s, {:.1} CPU-s a million",
                run.rows_s, run.cpu_s
            );
            assert_eq!(run.fingerprint, fingerprint, "both sides hold the same rows");
            rows_s.push(run.rows_s);
            cpu_s.push(run.cpu_s);
        }
    }
    let rate = median(&own.rows_s);
    let figure = format!(
        "{rate:.0} rows/s, {:.1} CPU-s a million (sink {:.2}, engine {:.2}; the broker {:.2} more), sink's memory at most {:.0} MiB, {:.0} parts",
        median(&own.sink_cpu) + median(&own.engine_cpu),
        median(&own.sink_cpu),
        median(&own.engine_cpu),
        median(&own.broker_cpu),
        own.memory.iter().copied().fold(0.0, f64::max),
        median(&own.parts),
    );
    let best = peers.iter().zip(VIEWS).filter(|((rows_s, _), _)| !rows_s.is_empty());
    let best = best.max_by(|((a, _), _), ((b, _), _)| median(a).total_cmp(&median(b)));
    let what = format!("draining {} messages", content.messages);
    let Some(((rows_s, cpu_s), (name, _))) = best else { return vec![line(what, figure, "", None)] };
    let peer = format!("Kafka engine {name} {:.0} rows/s, {:.1} CPU-s a million", median(rows_s), median(cpu_s));
    vec![line(what, figure, peer, Some(rate / median(rows_s)))]
}

/// The table in PostgreSQL and its empty mirror.
async fn prepare(stack: &Stack) {
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    let columns = columns::POSTGRES;
    let sql = format!("create table {TABLE} ({columns}); alter publication platform add table {TABLE}");
    client.batch_execute(&sql).await.expect("a table");
    assert_eq!(tokio::task::block_in_place(|| stack.platform(&["load", TABLE])).code, Some(0));
}

async fn drain(stack: &Stack, clickhouse: &ClickHouse, content: &Content, samples: &mut Samples) -> String {
    let from = checkpoint::latest(clickhouse, "platform").await.expect("read").expect("a checkpoint");
    let begin = Checkpoint {
        batch: from.batch + 1,
        topic: topic::NAME.to_owned(),
        next_offset: 0,
        record_hash: String::new(),
        heartbeat: -1,
        ..from.clone()
    };
    checkpoint::store(clickhouse, "platform", &begin).await.expect("stored");
    let (engine_pid, broker_pid) = (stack.pid_of("clickhouse"), stack.pid_of("kafka"));
    let (engine_before, broker_before, begun) = (cpu_seconds(engine_pid), cpu_seconds(broker_pid), Instant::now());
    // The connector writes another topic: it is not asked.
    let environment = [("PLATFORM__SINK__TOPIC", topic::NAME), ("PLATFORM__CONNECT__URL", "")];
    let sink = Sink::start(stack, &environment);
    while sink.next_offset().await < content.messages {
        assert!(begun.elapsed() < LIMIT, "the sink has not drained the topic:\n{}", stack.log("bench-sink"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let million = content.messages as f64 / 1e6;
    samples.rows_s.push(content.messages as f64 / took);
    samples.sink_cpu.push(cpu_seconds(sink.pid()) / million);
    samples.engine_cpu.push((cpu_seconds(engine_pid) - engine_before) / million);
    samples.broker_cpu.push((cpu_seconds(broker_pid) - broker_before) / million);
    samples.memory.push(memory_peak_mib(sink.pid()));
    sink.stop();
    let parts = format!("select count() from system.parts where database = 'mirror' and table = '{TABLE}'");
    samples.parts.push(ask(clickhouse, &parts).await.parse().expect("a number"));
    let rows = format!("select {} from analytics.{TABLE}", columns::FINGERPRINT);
    let fingerprint = ask(clickhouse, &rows).await;
    assert!(fingerprint.starts_with(&format!("{}\t", content.live)), "{fingerprint}, {} rows live", content.live);
    settle(clickhouse).await;
    run(clickhouse, &format!("truncate table mirror.{TABLE} sync")).await;
    // Back to the pipeline's own topic.
    let now = checkpoint::latest(clickhouse, "platform").await.expect("read").expect("a checkpoint");
    let back = Checkpoint { term: now.term + 1, batch: now.batch + 1, ..from };
    checkpoint::store(clickhouse, "platform", &back).await.expect("stored");
    fingerprint
}
