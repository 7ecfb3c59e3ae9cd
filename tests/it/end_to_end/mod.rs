//! The whole real stack: PostgreSQL, Debezium, Kafka, the sink, ClickHouse's engine.

mod asked;
mod chaos;
mod chaos_faults;
mod continuity;
mod crash_points;
mod dead_letters;
mod dirty_buckets;
mod equality;
mod large_transactions;
mod loads;
mod operating;
mod preflight;
mod refresher;
mod schema_changes;
mod tokens;
mod twins;
mod value_samples;
mod values;
mod verify;
mod visibility;
mod workload;

use std::time::Duration;

use platform::domain::TableName;
use platform::store::clickhouse::ClickHouse;
use platform::store::{checkpoint, postgres, replication};
use tokio_postgres::Client;

use crate::support::Stack;
use crate::support::wait::wait_until;
use equality::Tables;
use workload::Workload;

/// Long enough for a loaded machine; a healthy pipeline needs a second.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Two hands on one stack.
struct Hands {
    postgres: Client,
    clickhouse: ClickHouse,
}

impl Hands {
    async fn of(stack: &Stack) -> Self {
        let settings = stack.settings();
        Self {
            postgres: postgres::connect(&settings.postgres, "test").await.expect("connected"),
            clickhouse: ClickHouse::new(&settings.clickhouse).expect("configured"),
        }
    }

    /// Waits until everything committed so far is applied.
    async fn caught_up(&self) {
        self.caught_up_within(CATCH_UP, async || {}).await;
    }

    /// As `caught_up`, with another limit; `check` may say while it waits that waiting is in vain.
    async fn caught_up_within(&self, limit: Duration, check: impl AsyncFn()) {
        let barrier = replication::emit(&self.postgres, replication::BARRIER_PREFIX, "").await.expect("written");
        wait_until("the watermark passes the barrier", limit, || async {
            check().await;
            let latest = checkpoint::latest(&self.clickhouse, "platform").await;
            latest.ok().flatten().is_some_and(|checkpoint| checkpoint.watermark >= barrier)
        })
        .await;
    }
}

/// A table with a composite key and REPLICA IDENTITY DEFAULT, so that unchanged large values are not in the log.
const NOTES: &str = "
create table notes (
    tenant int not null, seq uuid not null, title text not null, body text, attachment bytea, tags text[] not null,
    weights int[], price numeric(20, 5), day date, at timestamp, span time, ratio double precision, flags jsonb,
    mood char(3), primary key (seq, tenant)
);
alter publication platform add table notes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_changes_arrive_exactly_through_crashes_of_the_sink_and_of_connect() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    hands.postgres.batch_execute(NOTES).await.expect("a second table");
    let loaded = stack.platform(&["load", "public.notes"]).json();
    assert_eq!(loaded["tables"][0]["table"], "public.notes");
    let tables =
        Tables::read(&hands, &[TableName::new("public", "sentiment_social"), TableName::new("public", "notes")]).await;

    let mut workload = Workload::new(20_261_122);
    workload.run(&hands.postgres, 400).await;
    hands.caught_up().await;
    tables.assert_equal(&hands, "after the first changes").await;

    workload.truncate_and_refill(&hands.postgres).await;
    workload.run(&hands.postgres, 150).await;
    hands.caught_up().await;
    tables.assert_equal(&hands, "after TRUNCATE").await;

    for part in ["sink", "connect", "sink"] {
        // Changes before, while and after the part is down.
        workload.run(&hands.postgres, 100).await;
        let writing = async { workload.run(&hands.postgres, 200).await };
        tokio::join!(writing, async { tokio::task::block_in_place(|| stack.crash_part(part)) });
        workload.run(&hands.postgres, 100).await;
        hands.caught_up().await;
        tables.assert_equal(&hands, &format!("after kill -9 of {part}")).await;
    }

    // A load in between, while changes go on, changes nothing that is right.
    let writing = async { workload.run(&hands.postgres, 300).await };
    let (loaded, ()) = tokio::join!(async { tokio::task::block_in_place(|| stack.platform(&["load"])) }, writing);
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    hands.caught_up().await;
    tables.assert_equal(&hands, "after another load under writes").await;

    // A new column comes by itself, while its older rows keep what it was added with.
    let change =
        "alter table notes add column extra text default 'x'; update notes set extra = title where tenant % 2 = 0";
    hands.postgres.batch_execute(change).await.expect("another shape");
    workload.run(&hands.postgres, 100).await;
    hands.caught_up().await;
    let both = [TableName::new("public", "sentiment_social"), TableName::new("public", "notes")];
    Tables::become_equal(&hands, &both, "after a new column").await;
    assert!(workload.deferred_updates > 20, "the log lacked values {} times", workload.deferred_updates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_open_across_the_load_is_not_lost() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    let post = |id: &str| {
        format!(
            "insert into sentiment_social (platform, post_id, content, sentiment_label, posted_at) \
             values ('straddle', '{id}', 'before', 'neutral', '2020-01-01')"
        )
    };
    hands.postgres.batch_execute(&post("1")).await.expect("inserted");
    let mut open = postgres::connect(&stack.settings().postgres, "a long transaction").await.expect("connected");
    let transaction = open.transaction().await.expect("begun");
    transaction
        .batch_execute("update sentiment_social set content = 'after' where platform = 'straddle'")
        .await
        .expect("updated");

    let mut load = stack.command(&["load", "sentiment_social"]);
    let load = tokio::task::spawn_blocking(move || load.output().expect("ran"));
    wait_until("the load waits for the transaction", CATCH_UP, || async {
        let sql = "select count(*) from pg_locks l join pg_stat_activity a using (pid) \
                   where l.locktype = 'advisory' and l.granted and a.application_name = 'platform load'";
        hands.postgres.query_one(sql, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0)
    })
    .await;
    assert!(!load.is_finished(), "the load must wait for the open transaction");
    transaction.commit().await.expect("committed");
    let output = load.await.expect("joined");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    hands.caught_up().await;
    let rows: Vec<serde_json::Value> = hands
        .clickhouse
        .fetch_all("select content from analytics.sentiment_social where platform = 'straddle'", &[])
        .await
        .expect("read");
    assert_eq!(rows, [serde_json::json!({ "content": "after" })]);
}
