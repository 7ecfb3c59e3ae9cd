//! What breaks the log halts the sink by name, and the documented command mends it; what breaks nothing mends itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use platform::domain::TableName;
use reqwest::Method;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;

use super::equality::Tables;
use super::workload::Workload;
use super::{CATCH_UP, Hands};
use crate::support::wait::wait_until;
use crate::support::{Stack, processes};

const TOPIC: &str = "platform.cdc";

/// A stack, hands on it, and what is written all the time.
struct Scene {
    stack: Stack,
    hands: Hands,
    workload: Workload,
    http: reqwest::Client,
}

impl Scene {
    async fn begin(seed: u64) -> Self {
        let stack = Stack::start();
        let hands = Hands::of(&stack).await;
        let mut scene = Self { stack, hands, workload: Workload::new(seed), http: reqwest::Client::new() };
        scene.goes_on("at first").await;
        scene
    }

    async fn write(&mut self, posts: u32) {
        self.workload.posts(&self.hands.postgres, posts).await;
    }

    /// New changes pass, and both sides are equal.
    async fn goes_on(&mut self, when: &str) {
        self.write(10).await;
        self.hands.caught_up().await;
        Tables::become_equal(&self.hands, &[TableName::new("public", "sentiment_social")], when).await;
    }

    /// The sink is not ready, and says one of these reasons and what to do.
    async fn halts(&self, reasons: &[&str]) {
        self.halts_saying(reasons, "platform load").await;
    }

    async fn halts_saying(&self, reasons: &[&str], remedy: &str) {
        let url = format!("http://{}/readyz", self.stack.variable("PLATFORM__SINK__BIND"));
        wait_until(&format!("the sink halts by one of {reasons:?}"), CATCH_UP, || async {
            let Ok(answer) = self.http.get(&url).send().await else { return false };
            let status = answer.status();
            let report: serde_json::Value = answer.json().await.unwrap_or_default();
            status == 503
                && report["state"] == "halted"
                && reasons.iter().any(|reason| report["reason"] == *reason)
                && report["detail"].as_str().is_some_and(|detail| detail.contains(remedy))
        })
        .await;
    }

    /// The documented command, after which everything goes on.
    async fn a_load_mends(&mut self, when: &str) {
        let loaded = tokio::task::block_in_place(|| self.stack.platform(&["load"]));
        assert_eq!(loaded.code, Some(0), "{when}: {}", loaded.stderr);
        self.goes_on(when).await;
    }

    async fn connect(&self, method: Method, path: &str) {
        let url = format!("{}/connectors/platform{path}", self.stack.connect_url());
        wait_until(&format!("Connect takes {method} {path}"), CATCH_UP, || async {
            let answer = self.http.request(method.clone(), &url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    async fn slot_is_idle(&self) {
        let sql = "select not active from pg_replication_slots where slot_name = 'platform'";
        wait_until("nobody streams from the slot", CATCH_UP, || async {
            self.hands.postgres.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
        })
        .await;
    }

    async fn run(&self, sql: &str) {
        self.hands.run(sql).await;
    }

    async fn topic(&self) -> PartitionClient {
        let client = ClientBuilder::new(vec![self.stack.kafka_brokers().to_owned()]).build().await.expect("connected");
        client.partition_client(TOPIC, 0, UnknownTopicHandling::Retry).await.expect("the topic")
    }

    /// Another topic of the same name.
    async fn make_topic(&self, partitions: i32) {
        let client = ClientBuilder::new(vec![self.stack.kafka_brokers().to_owned()]).build().await.expect("connected");
        let controller = client.controller_client().expect("a controller");
        controller.delete_topic(TOPIC, 10_000).await.expect("deleted");
        wait_until("the topic is made anew", CATCH_UP, || async {
            controller.create_topic(TOPIC, partitions, 1, 10_000).await.is_ok()
        })
        .await;
    }

    async fn produce(&self, topic: &PartitionClient, values: usize) {
        let record = Record {
            key: None,
            value: Some(b"no change event".to_vec()),
            headers: BTreeMap::new(),
            timestamp: chrono::Utc::now(),
        };
        topic.produce(vec![record; values], Compression::NoCompression).await.expect("produced");
    }

    async fn end(&self, topic: &PartitionClient) -> i64 {
        topic.get_offset(OffsetAt::Latest).await.expect("an offset")
    }

    fn stop_sink(&self) {
        self.stack.kill_part("sink", Signal::SIGSTOP);
    }

    /// The process that takes its place begins at the checkpoint.
    fn kill_sink(&self) {
        self.stack.kill_part("sink", Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_slot_or_the_connector_is_named_and_mended() {
    let mut scene = Scene::begin(41).await;

    // Gone by somebody's request to Connect, not by ours: it comes again by itself, and goes on where it stood.
    scene.connect(Method::DELETE, "").await;
    scene.write(20).await;
    scene.goes_on("after the connector was removed").await;

    // Its offsets are lost, and so is the commit before the first change that it sends.
    scene.stop_sink();
    scene.connect(Method::PUT, "/stop").await;
    scene.slot_is_idle().await;
    scene.run("select pg_replication_slot_advance('platform', pg_current_wal_lsn())").await;
    scene.write(20).await;
    scene.connect(Method::DELETE, "/offsets").await;
    scene.connect(Method::PUT, "/resume").await;
    scene.stack.kill_part("sink", Signal::SIGCONT);
    scene.halts(&["sequence-restarted"]).await;
    scene.a_load_mends("after the offsets were lost").await;

    // The slot is dropped. A load of one table is not enough.
    assert_eq!(tokio::task::block_in_place(|| scene.stack.platform(&["connector", "delete"])).code, Some(0));
    scene.slot_is_idle().await;
    scene.run("select pg_drop_replication_slot('platform')").await;
    scene.write(20).await;
    scene.halts(&["slot-lost"]).await;
    let refused = tokio::task::block_in_place(|| scene.stack.platform(&["load", "sentiment_social"]));
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("without names"), "{}", refused.stderr);
    let applied = async |scene: &Scene| {
        let applied = tokio::task::block_in_place(|| scene.stack.platform(&["connector", "apply"]));
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    };
    let loaded = tokio::task::block_in_place(|| scene.stack.platform(&["load"]));
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    applied(&scene).await;
    scene.goes_on("after the slot was dropped").await;

    // The slot is moved past changes that were never sent.
    scene.connect(Method::PUT, "/stop").await;
    scene.slot_is_idle().await;
    scene.write(20).await;
    scene.run("select pg_replication_slot_advance('platform', pg_current_wal_lsn())").await;
    scene.halts(&["slot-moved"]).await;
    scene.a_load_mends("after the slot was moved").await;

    // The same while no sink looks, and the connector goes on behind the hole, or fails at it.
    scene.stop_sink();
    scene.connect(Method::PUT, "/stop").await;
    scene.slot_is_idle().await;
    scene.write(20).await;
    scene.run("update platform.heartbeat set counter = counter + 1").await;
    scene.run("select pg_replication_slot_advance('platform', pg_current_wal_lsn())").await;
    scene.connect(Method::PUT, "/resume").await;
    scene.stack.kill_part("sink", Signal::SIGCONT);
    scene.halts(&["heartbeat-gap", "slot-moved"]).await;
    scene.a_load_mends("after a hole that nobody saw").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_topic_is_named_and_a_load_mends_it() {
    let mut scene = Scene::begin(42).await;

    // Something that is no change event.
    let topic = scene.topic().await;
    scene.produce(&topic, 1).await;
    scene.halts(&["undecodable"]).await;
    scene.write(10).await;
    scene.a_load_mends("after a foreign record").await;

    // Changes are removed before they were read.
    scene.stop_sink();
    let end = scene.end(&topic).await;
    scene.write(20).await;
    wait_until("the changes are in the topic", CATCH_UP, || async { scene.end(&topic).await > end + 20 }).await;
    topic.delete_records(scene.end(&topic).await, 10_000).await.expect("deleted");
    scene.kill_sink();
    scene.halts(&["offset-out-of-range"]).await;
    scene.a_load_mends("after changes were removed from the topic").await;

    // Another topic of the same name, filled beyond the offset that comes next.
    scene.stop_sink();
    scene.connect(Method::PUT, "/stop").await;
    let end = scene.end(&topic).await;
    scene.make_topic(1).await;
    let topic = scene.topic().await;
    scene.produce(&topic, usize::try_from(end).expect("an offset") + 50).await;
    scene.connect(Method::PUT, "/resume").await;
    scene.kill_sink();
    scene.halts(&["topic-recreated"]).await;
    scene.a_load_mends("after the topic was made anew").await;

    // A topic without a total order. Neither the sink nor a load uses it.
    scene.stop_sink();
    scene.connect(Method::PUT, "/stop").await;
    scene.make_topic(2).await;
    scene.kill_sink();
    scene.halts(&["topic"]).await;
    let refused = tokio::task::block_in_place(|| scene.stack.platform(&["load"]));
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    scene.make_topic(1).await;
    scene.connect(Method::PUT, "/resume").await;
    scene.write(10).await;
    scene.a_load_mends("after the topic had two partitions").await;
}

/// Stops a part, changes its folder, and lets `platform up` start it again.
async fn while_down(stack: &Stack, part: &str, signal: Signal, change: impl FnOnce()) {
    let (up, pid) = (stack.pid_of_up(), stack.pid_of(part));
    processes::signal(up, Signal::SIGSTOP);
    processes::signal(pid, signal);
    // Its parent is stopped and does not take notice: an ended process stays as a zombie.
    wait_until(&format!("{part} has ended"), CATCH_UP, || async {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |status| status.contains("State:\tZ"))
    })
    .await;
    change();
    processes::signal(up, Signal::SIGCONT);
}

async fn with_postgres_down(stack: &Stack, change: impl FnOnce(&Path)) {
    let folder = stack.data_dir().join("postgres/data");
    while_down(stack, "postgres", Signal::SIGINT, || change(&folder)).await;
    wait_until("PostgreSQL runs again", CATCH_UP, || async {
        platform::store::postgres::connect(&stack.settings().postgres, "test").await.is_ok()
    })
    .await;
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("started");
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_restored_or_promoted_halts_the_sink_and_a_load_begins_another_log() {
    let mut scene = Scene::begin(43).await;
    let backup = scene.stack.data_dir().join("backup");
    with_postgres_down(&scene.stack, |folder| copy(folder, &backup)).await;
    scene.hands = Hands::of(&scene.stack).await;
    scene.write(300).await;
    scene.goes_on("after the backup").await;

    // The same timeline, but an earlier point: what was written since is gone, and positions are used again.
    with_postgres_down(&scene.stack, |folder| {
        std::fs::remove_dir_all(folder).expect("removed");
        copy(&backup, folder);
    })
    .await;
    scene.hands = Hands::of(&scene.stack).await;
    scene.halts(&["log-went-back"]).await;
    scene.write(20).await;
    scene.a_load_mends("after a restore").await;
    assert_eq!(scene.log().await, "2");

    // A promotion or a recovery begins another timeline.
    with_postgres_down(&scene.stack, |folder| {
        let add = "restore_command = 'false'\n";
        let settings = folder.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&settings).expect("readable") + add;
        std::fs::write(&settings, text).expect("written");
        std::fs::write(folder.join("recovery.signal"), "").expect("written");
    })
    .await;
    scene.hands = Hands::of(&scene.stack).await;
    scene.halts(&["log-changed"]).await;
    scene.a_load_mends("after a promotion").await;
    assert_eq!(scene.log().await, "3");
}

impl Scene {
    /// The number of the log that the newest checkpoint stands in.
    async fn log(&self) -> String {
        let latest = platform::store::checkpoint::latest(&self.hands.clickhouse, "platform").await.expect("read");
        latest.map_or_else(String::new, |checkpoint| checkpoint.log.to_string())
    }
}

/// A copy of all of ClickHouse's data is restored under the sink that runs: what came since is in the topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_that_was_restored_gets_again_what_came_since() {
    let mut scene = Scene::begin(44).await;
    let (data, backup) =
        (scene.stack.data_dir().join("clickhouse/data"), scene.stack.data_dir().join("clickhouse-backup"));
    while_down(&scene.stack, "clickhouse", Signal::SIGTERM, || copy(&data, &backup)).await;
    scene.goes_on("after the backup").await;
    scene.run("update sentiment_social set likes = likes + 1 where id % 3 = 0").await;
    scene.run("delete from sentiment_social where id % 5 = 0").await;
    scene.goes_on("before the restore").await;

    while_down(&scene.stack, "clickhouse", Signal::SIGTERM, || {
        std::fs::remove_dir_all(&data).expect("removed");
        copy(&backup, &data);
    })
    .await;
    scene.goes_on("after the restore").await;

    // Nothing is left of it.
    while_down(&scene.stack, "clickhouse", Signal::SIGTERM, || {
        std::fs::remove_dir_all(&data).expect("removed");
    })
    .await;
    wait_until("the schema is made anew", CATCH_UP, || async {
        tokio::task::block_in_place(|| scene.stack.platform(&["migrate"])).code == Some(0)
    })
    .await;
    scene.halts(&["not-loaded"]).await;
    scene.a_load_mends("after everything was lost").await;
}

/// What ClickHouse refuses for a while slows the sink down, and what it refuses for good halts it until that is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_that_refuses_is_waited_for() {
    let mut scene = Scene::begin(45).await;
    let clickhouse = async |scene: &Scene, sql: &str| {
        scene.hands.clickhouse.execute(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };

    // Too many parts: each insert is repeated until there is room.
    clickhouse(&scene, "alter table mirror.sentiment_social modify setting parts_to_throw_insert = 1").await;
    scene.write(10).await;
    wait_until("the insert is repeated", CATCH_UP, || async { scene.stack.log("sink").contains("TOO_MANY_PARTS") })
        .await;
    clickhouse(&scene, "alter table mirror.sentiment_social reset setting parts_to_throw_insert").await;
    scene.goes_on("after too many parts").await;

    // A disk without the room that ClickHouse wants to keep free, for rows, marks and checkpoints alike.
    for table in ["mirror.sentiment_social", "platform.dirty_buckets", "platform.checkpoints"] {
        let refused = |scene: &Scene| scene.stack.log("sink").matches("NOT_ENOUGH_SPACE").count();
        let before = refused(&scene);
        let full =
            format!("alter table {table} modify setting min_free_disk_bytes_to_perform_insert = 1000000000000000");
        clickhouse(&scene, &full).await;
        scene.write(10).await;
        wait_until("the insert is repeated", CATCH_UP, || async { refused(&scene) > before }).await;
        let room = format!("alter table {table} reset setting min_free_disk_bytes_to_perform_insert");
        clickhouse(&scene, &room).await;
        scene.goes_on(&format!("after no room for {table}")).await;
    }

    clickhouse(&scene, "alter table mirror.sentiment_social add constraint nothing check likes < -1").await;
    scene.write(10).await;
    scene.halts_saying(&["clickhouse"], "VIOLATED_CONSTRAINT").await;
    clickhouse(&scene, "alter table mirror.sentiment_social drop constraint nothing").await;
    scene.goes_on("after a constraint").await;

    // Somebody drops the mirror: it is made and loaded again.
    clickhouse(&scene, "drop table mirror.sentiment_social sync").await;
    scene.goes_on("after the mirror was dropped").await;
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.stack.log("sink");
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the sink's log:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
