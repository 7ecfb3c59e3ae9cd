//! Loads of every kind while four writers change the tables, beside tables that join and leave.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use platform::domain::TableName;
use platform::store::postgres;

use super::equality::Tables;
use super::schema_changes::made;
use super::workload::Workload;
use super::{CATCH_UP, Hands, NOTES};
use crate::support::Stack;
use crate::support::wait::wait_until;

const WRITERS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_of_every_kind_are_right_while_four_writers_run() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    hands.run(NOTES).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(write(stack.settings(), number, Arc::clone(&stop)))).collect();
    let load = |arguments: &'static [&'static str]| tokio::task::block_in_place(|| stack.platform(arguments));

    for arguments in [&["load", "notes"][..], &["load"], &["load", "sentiment_social", "notes"]] {
        let loaded = load(arguments);
        assert_eq!(loaded.code, Some(0), "{arguments:?}: {}", loaded.stderr);
    }
    // A table with rows joins, and is loaded by nobody's command; another one leaves.
    hands.run(&made("joining", 500)).await;
    hands.run(&made("leaving", 5)).await;
    hands.reaches("joining", "live").await;
    hands.reaches("leaving", "live").await;
    hands.run("alter publication platform drop table leaving; update joining set a = a + 1 where id % 2 = 0").await;
    hands.reaches("leaving", "left").await;

    // Killed while it copies, and repeated; by the operator, or by the sink when nobody does.
    for repeated in [true, false, true] {
        let begun = hands.loads_begun().await;
        let mut killed = stack.command(&["load"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        wait_until("the load has begun", CATCH_UP, || async { hands.loads_begun().await > begun }).await;
        killed.kill().expect("killed");
        killed.wait().expect("ended");
        if repeated {
            let loaded = load(&["load"]);
            assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
        }
        hands.run("update joining set b = b || '.'").await;
    }
    tokio::task::block_in_place(|| stack.crash_part("sink"));
    let loaded = load(&["load"]);
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);

    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        let committed = writer.await.expect("it wrote");
        assert!(committed > 20, "a writer committed only {committed} steps");
    }
    // The writers' last step may have emptied a table, and two empty tables prove nothing.
    let mut rest = Workload::beside_others(31, WRITERS);
    rest.posts(&hands.postgres, 5).await;
    rest.notes(&hands.postgres, 5).await;
    // The writers were not held back: on a busy machine the sink, which reads most of their rows again, is minutes behind them.
    hands.caught_up_within(CATCH_UP * 5, async || {}).await;
    let tables = ["sentiment_social", "notes", "joining"].map(|table| TableName::new("public", table));
    for table in &tables {
        hands.reaches(&table.mirror_name(), "live").await;
    }
    hands.caught_up().await;
    Tables::become_equal(&hands, &tables, "after the loads").await;
}

async fn write(settings: platform::config::Settings, number: u64, stop: Arc<AtomicBool>) -> u32 {
    let client = postgres::connect(&settings.postgres, "a writer").await.expect("connected");
    // TRUNCATE waits while the table is loaded.
    client.batch_execute("set statement_timeout = 0").await.expect("set");
    Workload::beside_others(31, number).run_beside_others(&client, &stop).await
}

impl Hands {
    /// How often a load has said that it copies `notes`.
    async fn loads_begun(&self) -> u64 {
        #[derive(serde::Deserialize)]
        struct Row {
            begun: String,
        }
        let sql = "select toUnixTimestamp64Micro(max(changed_at)) as begun from platform.tables where table = 'notes' and state = 'loading'";
        let row: Option<Row> = self.clickhouse.fetch_optional(sql, &[]).await.expect("read");
        row.map_or(0, |row| row.begun.parse().expect("a number"))
    }
}
