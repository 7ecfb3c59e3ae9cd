//! An event that comes before its own commit is visible: what it lacks is read when the commit is.

use platform::domain::TableName;
use platform::store::postgres;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::equality::Tables;
use super::{CATCH_UP, Hands, NOTES};
use crate::support::Stack;
use crate::support::wait::wait_until;

impl Hands {
    /// Commits, without being seen by anybody: a commit that waits for a synchronous standby is flushed and streamed all the same.
    /// Only this one waits: a heartbeat that did would keep Debezium from streaming it.
    async fn begin_hidden(&self, stack: &Stack, sql: &'static str) -> JoinHandle<()> {
        for setting in ["synchronous_commit = 'local'", "synchronous_standby_names = 'nobody'"] {
            self.run(&format!("alter system set {setting}")).await;
            self.run("select pg_reload_conf()").await;
        }
        let client = postgres::connect(&stack.settings().postgres, "a commit that waits").await.expect("connected");
        client.batch_execute("set statement_timeout = 0; set synchronous_commit = on").await.expect("set");
        // It is the checkpointer that tells all sessions of the standby, when it comes to it.
        wait_until("commits wait for their standby", CATCH_UP, || self.is_kept_waiting(&client)).await;
        tokio::spawn(async move {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        })
    }

    /// Whether a commit of the client's waits; then it is told to wait no longer.
    async fn is_kept_waiting(&self, client: &Client) -> bool {
        let commit = client.batch_execute("create temporary table probe (); drop table probe");
        let give_up = wait_until("the commit waits", CATCH_UP, || async {
            let sql = "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'";
            self.postgres.query_one(sql, &[]).await.expect("asked").get::<_, i64>(0) > 0
        });
        tokio::select! {
            biased;
            ended = commit => { ended.expect("committed"); false }
            () = give_up => true
        }
    }

    /// Lets everybody see it.
    async fn show(&self, hidden: JoinHandle<()>) {
        assert!(!hidden.is_finished(), "the commit waits for its standby");
        self.run("alter system reset synchronous_standby_names").await;
        self.run("select pg_reload_conf()").await;
        hidden.await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_read_again_only_when_its_own_transaction_is_visible() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    hands.run(NOTES).await;
    let note = "insert into notes (tenant, seq, title, body, tags, mood) \
                select 1, gen_random_uuid(), 'before', string_agg(md5(g::text), ''), '{}', 'ab' from generate_series(1, 300) g";
    hands.run(note).await;
    hands.reaches("notes", "live").await;
    hands.caught_up().await;

    let update = hands.begin_hidden(&stack, "update notes set title = 'after'").await;
    wait_until("the sink waits for the commit", CATCH_UP, || async {
        stack.log("sink").contains("is not visible yet")
    })
    .await;
    hands.show(update).await;
    hands.caught_up().await;
    Tables::become_equal(&hands, &[TableName::new("public", "notes")], "after the commit").await;
}

/// Debezium asks the catalog whether a column may be NULL when it meets the first row behind a change. An answer from before the
/// change holds for as long as the connector's session lasts, and NULLs are written as the column's default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_come_before_the_catalog_shows_their_shape_arrive_exactly() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    let (loosened, grown) = (TableName::new("public", "loosened"), TableName::new("public", "grown"));
    hands
        .run(
            "create table loosened (id int primary key, d int not null default 7, e text not null);
             insert into loosened select g, 8, 'e' from generate_series(1, 100) g;
             create table grown (id int primary key, e text not null);
             insert into grown select g, 'e' from generate_series(1, 100) g;
             alter publication platform add table loosened, grown",
        )
        .await;
    let both = [loosened.clone(), grown.clone()];
    Tables::become_equal(&hands, &both, "after they joined").await;

    let change = "alter table loosened alter column d drop not null, alter column e drop not null; \
                  update loosened set d = null where id % 2 = 0";
    let hidden = hands.begin_hidden(&stack, change).await;
    // It reads the catalog as it was when it asked, and waits for the table's lock with that.
    wait_until("Debezium asks for the table's columns", CATCH_UP, || async {
        let sql = "select count(*) from pg_stat_activity where usename = 'debezium' and wait_event_type = 'Lock'";
        hands.postgres.query_one(sql, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0)
    })
    .await;
    hands.show(hidden).await;
    Tables::become_equal(&hands, std::slice::from_ref(&loosened), "after the commit").await;
    hands.reaches("loosened", "live").await;
    assert!(stack.log("sink").contains("may be NULL now"), "{}", stack.log("sink"));
    // The connector knows by now.
    hands.run("update loosened set d = null, e = null where id % 3 = 0").await;
    hands.caught_up().await;
    Tables::become_equal(&hands, std::slice::from_ref(&loosened), "after more of them").await;

    // Without defaults Debezium has nothing to wait for, and sends what only the log knows.
    let change = "alter table grown add column f text; update grown set f = 'f' where id % 5 = 0";
    let hidden = hands.begin_hidden(&stack, change).await;
    wait_until("the sink waits for the catalog", CATCH_UP, || async {
        stack.log("sink").contains("is not visible yet")
    })
    .await;
    hands.show(hidden).await;
    Tables::become_equal(&hands, &both, "after a new column").await;
}
