//! Rows that could not be applied: listed, shown, tried again under their old versions, given up.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use platform::store::replication;
use serde_json::{Value, json};

use super::operating::{command, printed};
use super::{CATCH_UP, Hands};
use crate::support::wait::wait_until;
use crate::support::{Options, Stack, processes};

/// A sink that the test starts and stops itself, with settings of its own.
struct OwnSink {
    child: Child,
}

impl OwnSink {
    fn start(stack: &Stack, variables: &[(&str, &str)]) -> Self {
        let bind = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let log =
            File::options().create(true).append(true).open(stack.data_dir().join("logs/own-sink.log")).expect("a log");
        let mut command = stack.command(&["sink"]);
        command.env("PLATFORM__SINK__BIND", bind.to_string()).envs(variables.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("started");
        Self { child }
    }

    fn stop(mut self) {
        processes::signal(i32::try_from(self.child.id()).expect("a number"), Signal::SIGTERM);
        tokio::task::block_in_place(|| self.child.wait()).expect("it ended");
    }
}

impl Drop for OwnSink {
    fn drop(&mut self) {
        // Already waited for after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The letters of a table that `list` prints.
fn letters(stack: &Stack, table: &str, state: &str) -> Vec<Value> {
    let listed = command(stack, &["dead-letters", "list", "--table", table, "--state", state]).json();
    listed["letters"].as_array().expect("letters").clone()
}

async fn parked(stack: &Stack, table: &str, count: usize) -> Vec<Value> {
    wait_until(&format!("{count} rows of {table} are parked"), CATCH_UP, || async {
        letters(stack, table, "parked").len() == count
    })
    .await;
    letters(stack, table, "parked")
}

fn id(letter: &Value) -> &str {
    letter["id"].as_str().expect("an id")
}

impl Hands {
    /// The versions of a key in the mirror, and the one that counts.
    async fn versions(&self, table: &str, id: i32) -> (Vec<String>, String) {
        let sql = format!("select toString(_version) as version from mirror.{table} where id = {id} order by _version");
        let rows: Vec<Value> = self.clickhouse.fetch_all(&sql, &[]).await.expect("rows");
        let versions: Vec<String> =
            rows.iter().map(|row| row["version"].as_str().expect("a text").to_owned()).collect();
        let last = versions.last().cloned().unwrap_or_default();
        (versions, last)
    }

    async fn plant(&self, id: &str, table: &str, version: u128, message: &str) {
        let sql = "insert into platform.dead_letters (id, pipeline, table, version, reason, detail, message, state, changed_at) \
                   select {id:String}, 'platform', {table:String}, {version:UInt128}, 'not-representable', '', {message:String}, 'parked', now64(6)";
        let version = version.to_string();
        let parameters = [("id", id), ("table", table), ("version", &version), ("message", message)];
        self.clickhouse.execute(sql, &parameters).await.expect("planted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_rows_are_tried_again_under_their_old_versions() {
    let parts = Some("postgres,kafka,connect,clickhouse,migrate,load,connector");
    let stack = Stack::start_with(Options { parts, ..Options::default() });
    let hands = Hands::of(&stack).await;
    let park = [("PLATFORM__TABLES__STRICT__INEXACT", "park")];
    let sink = OwnSink::start(&stack, &park);
    hands.run("create table strict (id int primary key, span timetz, note text)").await;
    hands.run("create table far (id int primary key, day date); insert into far values (1, 'infinity'), (2, '2024-01-01')").await;
    hands.run("alter publication platform add table strict, far").await;
    hands.reaches("strict", "live").await;
    hands.reaches("far", "live").await;
    hands.caught_up().await;
    let position = replication::insert_lsn(&hands.postgres).await.expect("a position").get();
    hands.run("insert into strict select g, '12:00+01', 'secret ' || g from generate_series(1, 4) g").await;
    hands.run("insert into far values (3, '-infinity'), (4, 'infinity')").await;
    let strict = parked(&stack, "strict", 4).await;
    parked(&stack, "public.far", 3).await;

    look_at(&stack, &strict);
    // Nobody serves: the request is taken back, and does nothing later.
    sink.stop();
    let alone = command(&stack, &["sink", "pause", "--wait", "1"]);
    assert_eq!((alone.code, alone.stderr.contains("withdrawn")), (Some(69), true), "{alone:?}");
    assert_eq!(command(&stack, &["sink", "status"]).code, Some(69));

    // The cause is not mended: what cannot be applied stays, and says so.
    let sink = OwnSink::start(&stack, &park);
    let again = command(&stack, &["dead-letters", "replay", "--table", "strict"]);
    assert_eq!((again.code, printed(&again)["still_parked"].as_u64()), (Some(65), Some(4)), "{again:?}");
    assert!(!again.stderr.contains("secret"), "values must not be shown: {again:?}");
    sink.stop();

    let sink = OwnSink::start(&stack, &[]);
    newer_data_stays(&stack, &hands, &strict, position).await;
    mended_rows(&stack, &hands).await;
    given_up(&stack, &hands).await;
    let log = std::fs::read_to_string(stack.data_dir().join("logs/own-sink.log")).expect("a log");
    assert!(log.contains("request served") && !log.contains("secret"), "no values in the log");
    assert_eq!(command(&stack, &["verify", "strict"]).json()["status"], "equal");
    sink.stop();
}

fn look_at(stack: &Stack, strict: &[Value]) {
    let first = strict.iter().find(|letter| letter["key"] == "[\"1\"]").expect("its key is known");
    assert_eq!(
        (&first["table"], &first["reason"], &first["state"]),
        (&"strict".into(), &"inexact".into(), &"parked".into())
    );
    assert!(first["age_s"].is_number() && first.get("message").is_none(), "{first}");
    let shown = command(stack, &["dead-letters", "show", id(first)]).json();
    assert!(shown["letter"]["message"].as_str().is_some_and(|text| text.contains("secret 1")), "{shown}");
    assert_eq!(command(stack, &["dead-letters", "show", "cdc/0/0"]).code, Some(2));
    assert_eq!(command(stack, &["dead-letters", "replay", "cdc/0/0"]).code, Some(2));
    assert_eq!(command(stack, &["dead-letters", "replay"]).code, Some(2), "which ones must be said");
    let limited = command(stack, &["dead-letters", "list", "--limit", "2"]).json();
    assert_eq!(
        (limited["letters"].as_array().map(Vec::len), limited["total"].as_u64()),
        (Some(2), Some(7)),
        "{limited}"
    );
    let status = command(stack, &["sink", "status"]).json();
    let of =
        |table: &str| status["parked"].as_array().and_then(|all| all.iter().find(|of| of["table"] == table)).cloned();
    assert_eq!(
        (&of("strict").expect("there")["letters"], &of("far").expect("there")["letters"]),
        (&4.into(), &3.into())
    );
}

async fn newer_data_stays(stack: &Stack, hands: &Hands, strict: &[Value], position: u64) {
    // Of rows 2 and 3 ClickHouse has something newer than their letters; of row 9 than a letter with an old text.
    hands.run("update strict set span = null, note = 'newer' where id = 2; delete from strict where id = 3").await;
    hands.run("insert into strict values (9, null, 'newest')").await;
    hands.caught_up().await;
    let version = (1u128 << 112) | (u128::from(position) << 56) | u128::from(position);
    let source = json!({ "schema": "public", "table": "strict", "sequence": format!("[\"{position}\",\"{position}\"]"),
                         "lsn": position, "ts_us": 1 });
    let event =
        json!({ "op": "c", "before": null, "after": { "id": 9, "span": null, "note": "stale" }, "source": source });
    let planted = format!("cdc/999999/{version}");
    hands.plant(&planted, "strict", version, &event.to_string()).await;
    hands.plant("cdc/1/1", "strict", 1, &event.to_string()).await;
    let before = hands.versions("strict", 2).await.1;

    let first = id(strict.iter().find(|letter| letter["key"] == "[\"1\"]").expect("there"));
    let one = command(stack, &["dead-letters", "replay", first]).json();
    assert_eq!(
        (one["replayed"].as_u64(), hands.shown("strict", "id = 1 and note = 'secret 1'").await),
        (Some(1), 1),
        "{one}"
    );
    let all = command(stack, &["dead-letters", "replay", "--table", "strict"]).json();
    assert_eq!(
        (all["replayed"].as_u64(), all["superseded"].as_u64(), all["still_parked"].as_u64()),
        (Some(4), Some(1), Some(0))
    );
    assert_eq!(hands.versions("strict", 2).await.1, before, "the newest version stays the newest");
    assert_eq!(
        hands.shown("strict", "note = 'stale' or id = 3").await,
        0,
        "nothing old is shown, nothing deleted is back"
    );
    assert_eq!(
        hands.shown("strict", "(id = 9 and note = 'newest') or (id = 2 and note = 'newer') or id in (1, 4)").await,
        4
    );
    assert!(hands.versions("strict", 9).await.0.contains(&version.to_string()), "it was decoded under its own version");
    assert_eq!(letters(stack, "strict", "replayed").len(), 5);
    let nothing = command(stack, &["dead-letters", "replay", "--table", "strict"]);
    assert_eq!((nothing.code, printed(&nothing)["status"].as_str()), (Some(99), Some("unchanged")), "{nothing:?}");
}

/// Rows that were mended in PostgreSQL: of a load, whose letters have no event, and of an event that still cannot be stored.
async fn mended_rows(stack: &Stack, hands: &Hands) {
    hands.run("update far set day = '2030-01-01' where id in (1, 3)").await;
    hands.caught_up().await;
    let replayed = command(stack, &["dead-letters", "replay", "--all"]);
    assert_eq!(replayed.code, Some(65), "{replayed:?}");
    let report = printed(&replayed);
    assert_eq!((report["replayed"].as_u64(), report["still_parked"].as_u64()), (Some(2), Some(1)), "{report}");
    assert_eq!(hands.shown("far", "day = '2030-01-01'").await, 2);
    let left = letters(stack, "far", "parked");
    assert_eq!((left.len(), &left[0]["key"]), (1, &"[\"4\"]".into()), "{left:?}");
}

async fn given_up(stack: &Stack, hands: &Hands) {
    let left = letters(stack, "far", "parked");
    let dropped = command(stack, &["dead-letters", "drop", id(&left[0])]).json();
    assert_eq!(dropped["dropped"], 1, "{dropped}");
    let gone = letters(stack, "far", "dropped");
    assert!(gone.len() == 1 && gone[0]["changed_by"].as_str().is_some_and(|by| by.contains('@')), "{gone:?}");
    let nothing = command(stack, &["dead-letters", "drop", "--table", "far"]);
    assert_eq!(nothing.code, Some(99), "{nothing:?}");
    // Its event comes again; that is no news.
    let start: i64 = id(&gone[0]).split('/').nth(1).and_then(|offset| offset.parse().ok()).expect("an offset");
    let moved = command(stack, &["sink", "rewind", "--to", &start.to_string()]).json();
    assert_eq!(moved["next_offset"], start, "{moved}");
    hands.caught_up().await;
    assert!(letters(stack, "far", "parked").is_empty() && letters(stack, "far", "dropped").len() == 1);
}
