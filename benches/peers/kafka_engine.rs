//! The peer of the drain: ClickHouse's Kafka table engine and a materialized view, the fastest one that was found: one
//! `JSONExtract` into a tuple of the final types (`b4`), blocks of 65,536 and of 262,144 rows.

use std::time::{Duration, Instant};

use platform::store::clickhouse::ClickHouse;

use crate::columns::{self, NAMES};
use crate::engine::{ask, run, settle};
use crate::figures::cpu_seconds;
use crate::support::Stack;
use crate::topic::{self, Content};

/// The view's parameters: its name and `kafka_max_block_size`.
pub(crate) const VIEWS: [(&str, u32); 2] = [("b4_64k", 65_536), ("b4_256k", 262_144)];
const LIMIT: Duration = Duration::from_secs(150);

/// One run.
pub(crate) struct Run {
    pub(crate) rows_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) fingerprint: String,
}

/// The columns of `after` in their final types: `LowCardinality`, `DateTime64` and `Decimal` are read by JSONExtract itself.
fn after() -> String {
    columns::CLICKHOUSE.replace('\'', "\\'")
}

fn select() -> String {
    let rest: Vec<String> = NAMES[1..].iter().map(|name| format!("t.after.{name} AS {name}")).collect();
    format!(
        "SELECT if(t.op='d', t.before.id, t.after.id) AS id, {}, t.source.lsn AS _version, t.op='d' AS _deleted FROM \
         (SELECT JSONExtract(raw,'Tuple(op String, before Tuple(id Int64), after Tuple({}), source Tuple(lsn UInt64))') AS t FROM k.q)",
        rest.join(", "),
        after()
    )
}

async fn drop_all(clickhouse: &ClickHouse) {
    run(clickhouse, "CREATE DATABASE IF NOT EXISTS k").await;
    for table in ["mv", "q", "social"] {
        run(clickhouse, &format!("DROP TABLE IF EXISTS k.{table} SYNC")).await;
    }
}

pub(crate) async fn drain(stack: &Stack, clickhouse: &ClickHouse, content: &Content, block: u32) -> Run {
    drop_all(clickhouse).await;
    let group = format!("bench_{block}_{}", uuid::Uuid::new_v4());
    let social = columns::CLICKHOUSE;
    run(
        clickhouse,
        &format!("CREATE TABLE k.social ({social}, _version UInt64, _deleted UInt8) ENGINE=ReplacingMergeTree(_version,_deleted) ORDER BY id"),
    )
    .await;
    run(
        clickhouse,
        &format!(
            "CREATE TABLE k.q (raw String) ENGINE=Kafka SETTINGS kafka_broker_list='{}',kafka_topic_list='{}',kafka_group_name='{group}',kafka_format='JSONAsString',kafka_num_consumers=1,kafka_max_block_size={block},kafka_poll_max_batch_size={},kafka_thread_per_consumer=1,kafka_flush_interval_ms=7500,date_time_input_format='best_effort'",
            stack.kafka_brokers(),
            topic::NAME,
            block.min(65_536),
        ),
    )
    .await;
    let pid = stack.pid_of("clickhouse");
    let (cpu, begun) = (cpu_seconds(pid), Instant::now());
    run(clickhouse, &format!("CREATE MATERIALIZED VIEW k.mv TO k.social AS {}", select())).await;
    let mut all_read = false;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if !all_read {
            // In memory, so that looking costs the engine nothing; what was read is not stored yet.
            let sql = "select max(arrayMax(assignments.current_offset)) from system.kafka_consumers where database = 'k' and table = 'q'";
            all_read = ask(clickhouse, sql).await.parse::<u64>().is_ok_and(|offset| offset >= content.messages);
        }
        if all_read && ask(clickhouse, "select max(_version) from k.social").await == content.last_lsn.to_string() {
            break;
        }
        if begun.elapsed() > LIMIT {
            let sql = "select assignments.current_offset, arrayStringConcat(exceptions.text, ' | ') from system.kafka_consumers";
            panic!("the Kafka engine has not drained the topic: {}", ask(clickhouse, sql).await);
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let cpu_s = cpu_seconds(pid) - cpu;
    run(clickhouse, "DROP TABLE k.mv SYNC").await;
    run(clickhouse, "DROP TABLE k.q SYNC").await;
    let fingerprint = ask(clickhouse, &format!("select {} from k.social final", columns::FINGERPRINT)).await;
    settle(clickhouse).await;
    run(clickhouse, "DROP TABLE k.social SYNC").await;
    Run { rows_s: content.messages as f64 / took, cpu_s: cpu_s / content.messages as f64 * 1e6, fingerprint }
}
