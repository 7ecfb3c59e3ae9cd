//! One transaction of a million rows goes through in bounded memory.

use std::time::Duration;

use platform::store::{checkpoint, replication};

use super::Hands;
use crate::support::Stack;
use crate::support::wait::wait_until;

const ROWS: u64 = 1_000_000;
/// Debezium brings some 30,000 events a second on two idle cores; other tests run beside this one.
const LIMIT: Duration = Duration::from_secs(600);
/// What the sink may hold at most, whatever waits for it.
const RESIDENT_MAX_KIB: u64 = 512 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_a_million_rows_needs_bounded_memory() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    hands.run("create table many (id bigint primary key, note text not null, n numeric(12, 2) not null)").await;
    hands.run("alter publication platform add table many").await;
    hands.reaches("many", "live").await;
    hands
        .run(&format!(
            "set statement_timeout = 0; begin; \
             insert into many select g, 'row ' || g || repeat(' and more', 10), g / 100.0 from generate_series(1, {ROWS}) g; \
             delete from many where id % 1000 = 0; update many set note = 'changed' where id % 1000 = 1; commit"
        ))
        .await;
    let barrier = replication::emit(&hands.postgres, replication::BARRIER_PREFIX, "").await.expect("written");
    wait_until("the transaction is applied", LIMIT, || async {
        let latest = checkpoint::latest(&hands.clickhouse, "platform").await;
        latest.ok().flatten().is_some_and(|checkpoint| checkpoint.watermark >= barrier)
    })
    .await;
    let sums = "select count(*)::text, sum(id)::text, sum(n)::text, sum(length(note))::text from many";
    let row = hands.postgres.query_one(sums, &[]).await.expect("sums");
    let expected: Vec<String> = (0..4).map(|at| row.get(at)).collect();
    #[derive(serde::Deserialize)]
    struct Sums {
        sums: Vec<String>,
    }
    let sql = "select [toString(count()), toString(sum(id)), toDecimalString(sum(n), 2), toString(sum(lengthUTF8(note)))] as sums from analytics.many";
    let found: Vec<Sums> = hands.clickhouse.fetch_all(sql, &[]).await.expect("sums");
    assert_eq!(found.first().map(|row| &row.sums), Some(&expected));
    let status = std::fs::read_to_string(format!("/proc/{}/status", stack.pid_of("sink"))).expect("it runs");
    let highest = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    let highest: u64 = highest.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(highest <= RESIDENT_MAX_KIB, "the sink held {} MiB", highest / 1024);
}
