//! An event that comes before its own commit is visible: what it lacks is read when the commit is.

use platform::domain::TableName;
use platform::store::postgres;

use super::equality::Tables;
use super::{CATCH_UP, Hands, NOTES};
use crate::support::Stack;
use crate::support::wait::wait_until;

/// A commit that waits for a synchronous standby is flushed and streamed, and seen by nobody.
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

    hands.run("alter system set synchronous_standby_names = 'nobody'").await;
    hands.run("select pg_reload_conf()").await;
    let settings = stack.settings();
    let update = tokio::spawn(async move {
        let client = postgres::connect(&settings.postgres, "a commit that waits").await.expect("connected");
        client.batch_execute("set statement_timeout = 0; update notes set title = 'after'").await.expect("updated");
    });
    wait_until("the sink waits for the commit", CATCH_UP, || async {
        stack.log("sink").contains("is not visible yet")
    })
    .await;
    assert!(!update.is_finished(), "the commit waits for its standby");
    hands.run("alter system reset synchronous_standby_names").await;
    hands.run("select pg_reload_conf()").await;
    update.await.expect("it ends");
    hands.caught_up().await;
    Tables::become_equal(&hands, &[TableName::new("public", "notes")], "after the commit").await;
}
