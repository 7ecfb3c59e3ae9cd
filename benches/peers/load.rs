//! `platform load` against `INSERT … SELECT FROM postgresql(…)`, and against PostgreSQL's COPY into nothing.

use std::pin::pin;
use std::time::Instant;

use futures_util::StreamExt as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;
use tokio_postgres::config::Host;

use crate::columns::{self, NAMES};
use crate::engine::{self, ask, run, settle};
use crate::figures::{Line, cpu_seconds, line, median, repetitions};
use crate::rows;
use crate::support::Stack;

/// The beginning of the line that says how fast the load is; `rate` reads it.
const WHAT: &str = "load";

#[derive(Default)]
struct Samples {
    loads: Vec<f64>,
    own_cpu: Vec<f64>,
    engine_cpu: Vec<f64>,
    same: Vec<f64>,
    plain: Vec<f64>,
    copies: [Vec<f64>; 2],
}

/// Rows a second of the load, for a later part of the same run.
pub(crate) fn rate(table: &[Line]) -> Option<f64> {
    table.iter().find_map(|line| line.figure_of(WHAT))
}

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let clickhouse = engine::client(stack);
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    client
        .batch_execute("set statement_timeout = 0; alter publication platform add table social")
        .await
        .expect("published");
    let count = rows::count() as f64;
    let mut samples = Samples::default();
    let one_time = crate::figures::knob("PLATFORM_BENCH_WITHOUT_PEERS", 0) == 1;
    for repetition in 0..repetitions() {
        load(stack, &clickhouse, &mut samples).await;
        let fingerprint = ask(&clickhouse, &format!("select {} from analytics.social", columns::FINGERPRINT)).await;
        println!("load {repetition}: {:.0} rows/s", samples.loads.last().expect("measured"));
        settle(&clickhouse).await;
        if one_time {
            continue;
        }
        let same = "create table k.bulk as mirror.social";
        samples.same.push(count / postgresql(stack, &clickhouse, same, &same_values()).await);
        let plain = format!(
            "CREATE TABLE k.bulk ({}, _version UInt64, _deleted UInt8) ENGINE=ReplacingMergeTree(_version,_deleted) ORDER BY id",
            columns::CLICKHOUSE
        );
        samples.plain.push(count / postgresql(stack, &clickhouse, &plain, &format!("{},1,0", NAMES.join(","))).await);
        let theirs = ask(&clickhouse, &format!("select {} from k.bulk final", columns::FINGERPRINT)).await;
        assert_eq!(theirs, fingerprint, "both sides hold the same rows");
        for (processes, rates) in [1u64, 2].iter().zip(&mut samples.copies) {
            rates.push(count / copy(stack, *processes).await);
        }
        println!(
            "load {repetition}: postgresql() {:.0} rows/s into the same table, {:.0} into the peer's",
            samples.same.last().expect("measured"),
            samples.plain.last().expect("measured")
        );
    }
    let rate = median(&samples.loads);
    let figure = format!(
        "{rate:.0} rows/s, own CPU {:.2} µs a row, engine {:.2} µs",
        median(&samples.own_cpu),
        median(&samples.engine_cpu)
    );
    if one_time {
        return vec![line(WHAT, figure, "", None).with_figure(rate)];
    }
    let against = |what: &str, values: &[f64]| {
        let peer = median(values);
        line(WHAT, figure.clone(), format!("{what} {peer:.0} rows/s"), Some(rate / peer)).with_figure(rate)
    };
    vec![
        against("postgresql() into the same table", &samples.same),
        against("postgresql() into the peer's table (no fsync, 22 columns)", &samples.plain),
        against("COPY binary to nothing, one process", &samples.copies[0]),
        against("COPY binary to nothing, two processes", &samples.copies[1]),
    ]
}

async fn load(stack: &Stack, clickhouse: &ClickHouse, samples: &mut Samples) {
    run(clickhouse, "drop table if exists mirror.social sync").await;
    let count = rows::count();
    let pid = stack.pid_of("clickhouse");
    let children = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("known");
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
    };
    let (engine_before, own_before, begun) = (cpu_seconds(pid), children(), Instant::now());
    let report = tokio::task::block_in_place(|| stack.platform(&["load", "social"])).json();
    samples.loads.push(count as f64 / begun.elapsed().as_secs_f64());
    samples.own_cpu.push((children() - own_before) / count as f64);
    samples.engine_cpu.push((cpu_seconds(pid) - engine_before) / count as f64 * 1e6);
    assert_eq!(report["rows"].as_u64(), Some(count));
}

/// What the mirror has besides the columns, and the array as the mirror stores it.
fn same_values() -> String {
    let own = NAMES.map(|name| if name == "tags" { "toJSONString(tags)" } else { name });
    format!("{},1,0,now64(6),now64(6)", own.join(","))
}

/// Seconds of `INSERT … SELECT FROM postgresql(…)` into a table that is made for it.
async fn postgresql(stack: &Stack, clickhouse: &ClickHouse, table: &str, values: &str) -> f64 {
    run(clickhouse, "CREATE DATABASE IF NOT EXISTS k").await;
    run(clickhouse, "DROP TABLE IF EXISTS k.bulk SYNC").await;
    run(clickhouse, table).await;
    let config: tokio_postgres::Config = stack.postgres_url().parse().expect("a URL");
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        other => panic!("{other:?} is no address"),
    };
    let password = String::from_utf8(config.get_password().unwrap_or_default().to_vec()).expect("UTF-8");
    let sql = format!(
        "INSERT INTO k.bulk SELECT {values} FROM postgresql('{host}:{}','{}','social','{}','{password}')",
        config.get_ports().first().expect("a port"),
        config.get_dbname().expect("a database"),
        config.get_user().expect("a user"),
    );
    let begun = Instant::now();
    clickhouse.execute(&sql, &[]).await.unwrap_or_else(|error| panic!("postgresql(): {error}"));
    let took = begun.elapsed().as_secs_f64();
    settle(clickhouse).await;
    took
}

/// Seconds of `COPY … TO STDOUT (FORMAT binary)` into nothing, by ranges of the key.
async fn copy(stack: &Stack, processes: u64) -> f64 {
    let count = rows::count();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..processes)
        .map(|number| {
            let settings = stack.settings().postgres.clone();
            let sql = if processes == 1 {
                "copy social to stdout (format binary)".to_owned()
            } else {
                let (from, to) = (number * count / processes, (number + 1) * count / processes);
                format!("copy (select * from social where id>{from} and id<={to}) to stdout (format binary)")
            };
            tokio::spawn(async move {
                let client = postgres::connect(&settings, "bench").await.expect("connected");
                client.batch_execute("set statement_timeout = 0").await.expect("set");
                let mut stream = pin!(client.copy_out(&sql).await.expect("copying"));
                while let Some(chunk) = stream.next().await {
                    drop(chunk.expect("a chunk"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("copied");
    }
    begun.elapsed().as_secs_f64()
}
