//! An operator's hands on a running sink: pause, resume, rewind, and a halt that is seen, asked about and mended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use platform::domain::TableName;
use platform::store::checkpoint::{self, Checkpoint};
use platform::store::{postgres, replication};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::equality::Tables;
use super::workload::Workload;
use super::{CATCH_UP, Hands, NOTES};
use crate::support::Stack;
use crate::support::stack::Finished;
use crate::support::wait::wait_until;

/// Runs a command without blocking the test's other tasks.
pub(super) fn command(stack: &Stack, arguments: &[&str]) -> Finished {
    tokio::task::block_in_place(|| stack.platform(arguments))
}

/// What a command printed, whatever its exit code.
pub(super) fn printed(finished: &Finished) -> Value {
    let line = finished.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// Code and body of the sink's `/readyz`.
async fn ready(stack: &Stack) -> (u16, Value) {
    let url = format!("http://{}/readyz", stack.variable("PLATFORM__SINK__BIND"));
    let Ok(answer) = reqwest::get(url).await else { return (0, Value::Null) };
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn metrics(stack: &Stack) -> String {
    let answer = reqwest::get(format!("http://{}/metrics", stack.variable("PLATFORM__SINK__BIND"))).await;
    answer.expect("answered").text().await.expect("a text")
}

async fn runs(stack: &Stack) {
    wait_until("the sink runs", CATCH_UP, || async { ready(stack).await.1["state"] == "running" }).await;
}

impl Hands {
    pub(super) async fn stands_at(&self) -> Checkpoint {
        checkpoint::latest(&self.clickhouse, "platform").await.expect("read").expect("a checkpoint")
    }

    async fn text(&self, sql: &str) -> String {
        self.postgres.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// How many rows of the view match.
    pub(super) async fn shown(&self, table: &str, condition: &str) -> u64 {
        let sql = format!("select count() as rows from analytics.{table} where {condition}");
        let rows: Vec<Value> = self.clickhouse.fetch_all(&sql, &[]).await.unwrap_or_else(|error| panic!("{error}"));
        rows[0]["rows"].as_str().expect("a count").parse().expect("a number")
    }
}

/// Writes to both tables until it is stopped.
struct Writer {
    number: u64,
    stop: Arc<AtomicBool>,
    task: JoinHandle<u32>,
}

impl Writer {
    fn start(stack: &Stack, number: u64) -> Self {
        let (stop, settings) = (Arc::new(AtomicBool::new(false)), stack.settings());
        let told = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let client = postgres::connect(&settings.postgres, "a writer").await.expect("connected");
            Workload::beside_others(20_261_123, number).run_beside_others(&client, &told).await
        });
        Self { number, stop, task }
    }

    /// Both tables have rows afterwards, whatever was emptied last.
    async fn stop(self, hands: &Hands) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        let written = self.task.await.expect("it wrote");
        let mut last = Workload::beside_others(20_261_123, 1_000 + self.number);
        last.posts(&hands.postgres, 3).await;
        last.notes(&hands.postgres, 3).await;
        written
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_paused_goes_back_and_halts_under_writes_and_loses_nothing() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    hands.run(NOTES).await;
    hands.reaches("notes", "live").await;
    hands.run("create table kept (id int primary key, note text); alter publication platform add table kept").await;
    hands.reaches("kept", "live").await;
    let names = ["sentiment_social", "notes"].map(|name| TableName::new("public", name));
    let tables = Tables::read(&hands, &names).await;
    Workload::new(3).run(&hands.postgres, 100).await;
    hands.caught_up().await;

    pause_and_resume(&stack, &hands).await;
    tables.assert_equal(&hands, "after a pause").await;
    beat(&stack, &hands).await;
    go_back(&stack, &hands, &tables).await;
    refuse(&stack, &hands).await;
    halt_and_mend(&stack, &hands).await;
    tables.assert_equal(&hands, "after a halt").await;
}

async fn pause_and_resume(stack: &Stack, hands: &Hands) {
    let writer = Writer::start(stack, 1);
    let paused = command(stack, &["sink", "pause"]).json();
    assert_eq!((&paused["status"], &paused["job"]), (&"done".into(), &"sink pause".into()), "{paused}");
    let stood = hands.stands_at().await;
    assert_eq!(paused["next_offset"], stood.next_offset, "it says how far it has written");
    let (code, report) = ready(stack).await;
    assert_eq!((code, report["state"].as_str()), (200, Some("paused")), "{report}");
    assert!(report["since"].is_string() && report["detail"].as_str().is_some_and(|by| by.contains("@")), "{report}");
    assert_eq!(command(stack, &["sink", "pause"]).json()["status"], "unchanged");

    // It lasts over a restart, and what happens meanwhile stays in the topic; the heartbeat rises all the time.
    let beat: i64 = hands.text("select counter::text from platform.heartbeat").await.parse().expect("a number");
    tokio::task::block_in_place(|| stack.crash_part("sink"));
    wait_until("changes wait in the topic", CATCH_UP, || async {
        let status = printed(&command(stack, &["sink", "status"]));
        status["state"] == "paused" && status["lag"]["records"].as_i64().is_some_and(|records| records > 100)
    })
    .await;
    let status = command(stack, &["sink", "status"]);
    assert_eq!(status.code, Some(0), "a pause is what somebody wants: {status:?}");
    let status = printed(&status);
    assert!(status["paused"]["by"].as_str().is_some_and(|by| by.contains("(postgres)")), "{status}");
    assert!(status["lease"]["backend_pid"].is_number(), "a paused sink holds the lease: {status}");
    assert_eq!(hands.stands_at().await, stood, "nothing is written while it is paused");
    let later: i64 = hands.text("select counter::text from platform.heartbeat").await.parse().expect("a number");
    assert!(later > beat, "the heartbeat must go on");

    assert_eq!(command(stack, &["sink", "resume"]).json()["status"], "done");
    assert_eq!(command(stack, &["sink", "resume"]).json()["status"], "unchanged");
    runs(stack).await;
    assert!(writer.stop(hands).await > 50);
    hands.caught_up().await;
}

/// The connector raises the heartbeat each second, and the sink while the connector does not.
async fn beat(stack: &Stack, hands: &Hands) {
    let heart = || async {
        let sql = "select counter, (extract(epoch from beat_at) * 1000)::bigint from platform.heartbeat";
        let row = hands.postgres.query_one(sql, &[]).await.expect("a heartbeat");
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let (first, begun_ms) = heart().await;
    wait_until("it beats", CATCH_UP, || async { heart().await.0 >= first + 10 }).await;
    let (last, ended_ms) = heart().await;
    let beat_ms = (ended_ms - begun_ms) / (last - first);
    assert!(beat_ms >= 700, "{beat_ms} ms a beat: both of them raise it");

    let tell = async |what: &str| {
        let url = format!("{}/connectors/platform/{what}", stack.connect_url());
        let told = reqwest::Client::new().put(url).send().await.expect("an answer");
        assert!(told.status().is_success(), "{told:?}");
    };
    tell("stop").await;
    let rests = "select not active from pg_replication_slots where slot_name = 'platform'";
    let rests = || async { hands.postgres.query_one(rests, &[]).await.expect("a slot").get(0) };
    wait_until("the connector rests", CATCH_UP, rests).await;
    let (stood, _) = heart().await;
    wait_until("it beats without the connector", CATCH_UP, || async { heart().await.0 >= stood + 3 }).await;
    tell("resume").await;
    hands.caught_up().await;
}

/// Goes back to before a row whose loss in ClickHouse shows that it is really applied again.
async fn go_back(stack: &Stack, hands: &Hands, tables: &Tables) {
    for (id, form) in ["offset", "lsn", "time"].iter().enumerate() {
        hands.caught_up().await;
        let before = hands.stands_at().await;
        let to = match *form {
            "offset" => before.next_offset.to_string(),
            "lsn" => replication::insert_lsn(&hands.postgres).await.expect("a position").to_string(),
            _ => {
                hands
                    .text("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
                    .await
            }
        };
        hands
            .run(&format!("insert into kept values ({id}, 'one'); update kept set note = '{form}' where id = {id}"))
            .await;
        let writer = Writer::start(stack, 10 + u64::try_from(id).expect("small"));
        hands.caught_up().await;
        let sql = format!("delete from mirror.kept where id = {id}");
        hands.clickhouse.execute(&sql, &[]).await.expect("lost");
        assert_eq!(hands.shown("kept", &format!("id = {id}")).await, 0);

        let moved = command(stack, &["sink", "rewind", "--to", &to]).json();
        let place = |name: &str| moved[name].as_i64().expect("an offset");
        assert_eq!(moved["status"], "done", "{form} {to}: {moved}");
        assert!(place("next_offset") >= before.next_offset && place("next_offset") < place("from_offset"), "{moved}");
        assert!(writer.stop(hands).await > 0);
        hands.caught_up().await;
        assert_eq!(hands.shown("kept", &format!("id = {id} and note = '{form}'")).await, 1, "{form} {to}: {moved}");
        tables.assert_equal(hands, &format!("after going back to {form} {to}")).await;
        let after = hands.stands_at().await;
        assert!(after.batch > before.batch && after.term > before.term, "both only rise");
    }
    // While it is paused too: it goes on from there afterwards.
    assert_eq!(command(stack, &["sink", "pause"]).json()["status"], "done");
    let stood = hands.stands_at().await;
    let to = (stood.next_offset - 5).to_string();
    let moved = command(stack, &["sink", "rewind", "--to", &to]).json();
    assert_eq!(moved["next_offset"], stood.next_offset - 5, "{moved}");
    let there = hands.stands_at().await;
    assert_eq!(
        (there.next_offset, there.watermark, there.heartbeat),
        (stood.next_offset - 5, stood.watermark, stood.heartbeat)
    );
    assert_eq!(command(stack, &["sink", "rewind", "--to", &to]).json()["status"], "unchanged");
    assert_eq!(command(stack, &["sink", "resume"]).json()["status"], "done");
    hands.caught_up().await;
    tables.assert_equal(hands, "after going back while it was paused").await;
}

async fn refuse(stack: &Stack, hands: &Hands) {
    let ahead = hands.stands_at().await.next_offset + 1_000_000;
    for (to, word) in [
        (ahead.to_string().as_str(), "it would skip changes"),
        ("7FFFFFFF/0", "it would skip changes"),
        ("2100-01-01T00:00:00Z", "it would skip changes"),
        ("0/1", "begins at offset"),
        ("2001-01-01T00:00:00Z", "begins at offset"),
        ("yesterday", "is no offset"),
    ] {
        let refused = command(stack, &["sink", "rewind", "--to", to]);
        assert_eq!((refused.code, refused.stderr.contains(word)), (Some(2), true), "{to}: {refused:?}");
    }
    let refused = command(stack, &["sink", "rewind", "--to", &ahead.to_string()]);
    assert_eq!(printed(&refused)["status"], "refused", "{refused:?}");
}

async fn halt_and_mend(stack: &Stack, hands: &Hands) {
    hands.run("update platform.heartbeat set counter = counter + 5").await;
    wait_until("the sink halts", CATCH_UP, || async { ready(stack).await.1["state"] == "halted" }).await;
    let (code, report) = ready(stack).await;
    assert_eq!((code, report["reason"].as_str()), (503, Some("heartbeat-gap")), "{report}");
    assert!(
        report["since"].is_string() && report["remedy"].as_str().is_some_and(|text| text.contains("platform load"))
    );
    let halted = || async {
        let status = command(stack, &["sink", "status"]);
        assert_eq!(status.code, Some(65), "{status:?}");
        assert!(status.stderr.contains("heartbeat-gap") && status.stderr.contains("platform load"), "{status:?}");
        printed(&status)
    };
    let status = halted().await;
    assert_eq!((&status["state"], &status["reason"]), (&"halted".into(), &"heartbeat-gap".into()), "{status}");
    assert!(status["since"].is_string() && status["lease"].is_null(), "{status}");
    assert!(metrics(stack).await.contains("platform_sink_halted{reason=\"heartbeat-gap\"} 1"));

    // A halted sink serves requests: it notes a pause, and tries again when it is told to.
    let paused = command(stack, &["sink", "pause"]).json();
    assert!(
        paused["status"] == "done" && paused["detail"].as_str().is_some_and(|text| text.contains("halted")),
        "{paused}"
    );
    assert!(!halted().await["paused"].is_null());
    assert_eq!(command(stack, &["sink", "resume"]).json()["status"], "done");
    wait_until("it halts again", CATCH_UP, || async { ready(stack).await.1["state"] == "halted" }).await;

    let loaded = command(stack, &["load"]);
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    runs(stack).await;
    hands.caught_up().await;
    assert!(metrics(stack).await.contains("platform_sink_halted{reason=\"heartbeat-gap\"} 0"));
    wait_until("the status says that it runs", CATCH_UP, || async {
        let status = command(stack, &["sink", "status"]);
        status.code == Some(0) && printed(&status)["state"] == "running" && printed(&status)["reason"].is_null()
    })
    .await;
    let hole = command(stack, &["sink", "rewind", "--to", "0"]);
    assert_eq!((hole.code, hole.stderr.contains("cannot be followed")), (Some(2), true), "{hole:?}");
}
