//! The peer of the load's other half: Debezium's own initial snapshot, from its first message in the topic to its last.

use std::time::{Duration, Instant};

use platform::store::connect::Connect;
use platform::store::kafka::{self, Topic};
use platform::store::{connector_config, postgres};

use crate::figures::{Line, knob, line};
use crate::support::Stack;

const NAME: &str = "bench_snapshot";
const TOPIC: &str = "bench.snapshot";
const LIMIT: Duration = Duration::from_secs(300);

/// `load`: rows a second of `platform load` in this run, if it was measured.
pub(crate) async fn measure(stack: &Stack, load: Option<f64>) -> Vec<Line> {
    let settings = stack.settings();
    let rows = knob("PLATFORM_BENCH_SNAPSHOT_ROWS", 600_000);
    let client = postgres::connect(&settings.postgres, "bench").await.expect("connected");
    let sql = format!(
        "set statement_timeout = 0; create table snapshot_social (like social including all); \
         insert into snapshot_social select * from social where id <= {rows}; vacuum analyze snapshot_social; \
         create publication {NAME} for table snapshot_social; grant select on snapshot_social to debezium; checkpoint"
    );
    for statement in sql.split(';') {
        client.batch_execute(statement).await.expect(statement);
    }
    kafka::ensure_topic(&settings.kafka, TOPIC).await.expect("a topic");
    let mut config = connector_config::build(&settings, "placeholder").expect("configured");
    for (key, value) in [
        ("snapshot.mode", "initial"),
        ("table.include.list", "public.snapshot_social"),
        ("slot.name", NAME),
        ("publication.name", NAME),
        ("topic.prefix", NAME),
        ("transforms.route.replacement", TOPIC),
    ] {
        config.insert(key.to_owned(), value.to_owned());
    }
    config.remove("heartbeat.action.query");
    config.remove("heartbeat.interval.ms");
    let connect = Connect::new(&settings.connect).expect("configured");
    let mut topic = Topic::new(&settings.kafka, TOPIC).expect("configured");
    connect.put_config(NAME, &config).await.expect("made");
    let begun = Instant::now();
    let mut first: Option<(Instant, i64)> = None;
    let rate = loop {
        let (_, end) = topic.bounds().await.expect("the topic's bounds");
        let seen = u64::try_from(end).expect("positive");
        match first {
            None if end > 0 => first = Some((Instant::now(), end)),
            Some((at, before)) if seen >= rows => break (end - before) as f64 / at.elapsed().as_secs_f64(),
            _ => assert!(begun.elapsed() < LIMIT, "Debezium has written {end} of {rows} rows"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    connect.delete(NAME).await.expect("removed");
    let what = "load, against a snapshot";
    let figure = load.map_or_else(String::new, |load| format!("{load:.0} rows/s"));
    vec![line(what, figure, format!("Debezium's snapshot {rate:.0} rows/s"), load.map(|load| load / rate))]
}
