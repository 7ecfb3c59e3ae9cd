//! `platform load` against PostgreSQL's own `COPY … TO STDOUT (FORMAT binary)` of the same table into nothing.

use std::pin::pin;
use std::time::Instant;

use futures_util::StreamExt as _;
use platform::store::postgres;

use crate::support::Stack;
use crate::{Line, REPETITIONS, cpu_seconds, line, median};

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    client.batch_execute("set statement_timeout = 0").await.expect("set");
    client.batch_execute("vacuum analyze sentiment_social").await.expect("vacuumed");
    let rows =
        client.query_one("select count(*) from sentiment_social", &[]).await.expect("counted").get::<_, i64>(0) as f64;
    let (mut loads, mut copies, mut engine) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let begun = Instant::now();
        let stream = client.copy_out("copy sentiment_social to stdout (format binary)").await.expect("copying");
        let mut stream = pin!(stream);
        while let Some(chunk) = stream.next().await {
            drop(chunk.expect("a chunk"));
        }
        copies.push(rows / begun.elapsed().as_secs_f64());
        let before = cpu_seconds(stack.pid_of("clickhouse"));
        let begun = Instant::now();
        let report = tokio::task::block_in_place(|| stack.platform(&["load", "sentiment_social"])).json();
        loads.push(rows / begun.elapsed().as_secs_f64());
        engine.push((cpu_seconds(stack.pid_of("clickhouse")) - before) / rows * 1e6);
        assert_eq!(report["rows"].as_u64().map(|count| count as f64), Some(rows));
    }
    let (load, copy) = (median(loads), median(copies));
    vec![line(
        "load",
        format!("{load:.0} rows/s (engine {:.2} µs of CPU a row)", median(engine)),
        format!("COPY binary to nothing {copy:.0} rows/s"),
        Some(load / copy),
    )]
}
