//! Two sinks on one pipeline: one writes, the other stands by and takes over; one that was paused meanwhile does no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use platform::domain::TableName;
use platform::store::{checkpoint, postgres};

use super::equality::Tables;
use super::workload::Workload;
use super::{CATCH_UP, Hands, NOTES};
use crate::support::own_sink::OwnSink;
use crate::support::wait::wait_until;
use crate::support::{Options, Stack};

/// "Within seconds": two looks of the standby, a start, and a machine that others use too.
const TAKE_OVER: Duration = Duration::from_secs(15);

/// Writers that go on while sinks come and go.
struct Writing {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u32>,
}

impl Writing {
    fn start(stack: &Stack, seed: u64) -> Self {
        let (settings, stop) = (stack.settings(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let client = postgres::connect(&settings.postgres, "a writer").await.expect("connected");
            Workload::new(seed).run_beside_others(&client, &stopped).await
        });
        Self { stop, task }
    }

    async fn end(self, hands: &Hands) {
        self.stop.store(true, Ordering::SeqCst);
        let committed = self.task.await.expect("it wrote");
        assert!(committed > 20, "only {committed} steps were committed");
        // The last step may have emptied a table.
        let mut rest = Workload::beside_others(3, u64::from(committed));
        rest.posts(&hands.postgres, 3).await;
        rest.notes(&hands.postgres, 3).await;
    }
}

async fn stack_without_a_sink() -> (Stack, Hands, [TableName; 2]) {
    let parts = Some("postgres,kafka,connect,clickhouse,migrate,load,connector");
    let stack = Stack::start_with(Options { parts, ..Options::default() });
    let hands = Hands::of(&stack).await;
    hands.run(NOTES).await;
    (stack, hands, ["sentiment_social", "notes"].map(|name| TableName::new("public", name)))
}

async fn becomes(sink: &OwnSink, state: &str, limit: Duration) {
    wait_until(&format!("a sink is {state}"), limit, || async { sink.state().await == state }).await;
}

impl Hands {
    async fn term(&self) -> u64 {
        let latest = checkpoint::latest(&self.clickhouse, "platform").await.expect("read");
        latest.map_or(0, |checkpoint| checkpoint.term)
    }

    /// Ends the session that holds the writer's lease, as PostgreSQL does when it finds out that nobody is there.
    async fn end_the_lease(&self) {
        let sql = "select count(pg_terminate_backend(a.pid)) from pg_locks l join pg_stat_activity a using (pid) \
                   where l.locktype = 'advisory' and l.granted and a.application_name = 'platform sink lease'";
        let ended: i64 = self.postgres.query_one(sql, &[]).await.expect("ended").get(0);
        assert_eq!(ended, 1, "one sink holds the lease");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_within_seconds_of_the_first_ones_death() {
    let (stack, hands, tables) = stack_without_a_sink().await;
    let mut first = OwnSink::start(&stack, &[]);
    becomes(&first, "running", CATCH_UP).await;
    let writing = Writing::start(&stack, 77);
    for _ in 0..3 {
        let second = OwnSink::start(&stack, &[]);
        becomes(&second, "standby", CATCH_UP).await;
        assert_eq!(first.state().await, "running");
        let died = Instant::now();
        first.signal(Signal::SIGKILL);
        becomes(&second, "running", TAKE_OVER).await;
        eprintln!("taken over after {} ms", died.elapsed().as_millis());
        first = second;
    }
    writing.end(&hands).await;
    hands.caught_up().await;
    Tables::become_equal(&hands, &tables, "after three take-overs").await;
    first.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sink_that_wakes_up_after_the_take_over_does_no_harm() {
    let (stack, hands, tables) = stack_without_a_sink().await;
    let (mut writer, mut standby) = (OwnSink::start(&stack, &[]), OwnSink::start(&stack, &[]));
    wait_until("one of them runs, the other one stands by", CATCH_UP, || async {
        let states = [writer.state().await, standby.state().await];
        states.iter().any(|state| state == "running") && states.iter().any(|state| state == "standby")
    })
    .await;
    if writer.state().await == "standby" {
        std::mem::swap(&mut writer, &mut standby);
    }
    for round in 0..3 {
        // In the middle of its work.
        let writing = Writing::start(&stack, 900 + round);
        // A load that stands still keeps its locks, and the writers that would empty the table wait.
        hands.reaches("notes", "live").await;
        hands.caught_up().await;
        let term = hands.term().await;
        writer.signal(Signal::SIGSTOP);
        hands.end_the_lease().await;
        becomes(&standby, "running", TAKE_OVER).await;
        wait_until("the new writer writes", CATCH_UP, || async { hands.term().await > term }).await;
        hands
            .run("alter table notes add column if not exists late text default 'x'; update notes set title = 'anew'")
            .await;
        // What it had in hand comes now, under the old term.
        writer.signal(Signal::SIGCONT);
        becomes(&writer, "standby", TAKE_OVER).await;
        writing.end(&hands).await;
        hands.caught_up().await;
        assert_eq!(standby.state().await, "running", "the new writer was disturbed");
        Tables::become_equal(&hands, &tables, &format!("after pause {round}")).await;
        std::mem::swap(&mut writer, &mut standby);
    }
    // The paused ones are as good as any: with the writer gone, one of them goes on.
    writer.signal(Signal::SIGKILL);
    becomes(&standby, "running", TAKE_OVER).await;
    hands.run("update notes set title = 'the last word'").await;
    hands.caught_up().await;
    Tables::become_equal(&hands, &tables, "after the last take-over").await;
}
