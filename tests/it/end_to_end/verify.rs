//! `platform verify`: what it says of mirrors that are right, and of some that were changed behind the sink's back.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use platform::store::postgres;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::Hands;
use super::schema_changes::made;
use crate::support::Stack;
use crate::support::stack::{Finished, finish};

/// Above every version that a log can give.
const HIGHEST: &str = "toUInt128('340282366920938463463374607431768211455')";
const TEXT: &str = "nobody may read this";

/// Runs it without blocking the test's other tasks.
pub(super) fn verify(stack: &Stack, arguments: &[&str]) -> Finished {
    tokio::task::block_in_place(|| stack.platform(&[&["verify"], arguments].concat()))
}

/// The report's entry of the only table, whatever the exit code.
fn only(finished: &Finished) -> Value {
    let line = finished.stdout.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    assert_eq!(report["tables"].as_array().map(Vec::len), Some(1), "{finished:?}");
    report["tables"][0].clone()
}

fn counts(finished: &Finished) -> [u64; 4] {
    let table = only(finished);
    ["missing", "extra", "different", "parked"].map(|kind| table[kind].as_u64().expect("a count"))
}

impl Hands {
    async fn mirror(&self, sql: &str) {
        self.clickhouse.execute(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Stores rows of a mirror once more, changed.
    async fn tamper(&self, table: &str, changes: &str, rows: &str) {
        // The inner SELECT chooses: an alias of REPLACE would stand for its column in the condition too.
        let sql = format!(
            "insert into mirror.{table} select * replace ({changes}) from (select * from mirror.{table} final where {rows})"
        );
        self.mirror(&sql).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_changed_behind_the_sinks_back_are_named_exactly_and_mended() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    let create = format!(
        "create table proven (name text, day date, n int not null, body text, at timestamptz not null, tags text[] not null,
             amount numeric(12, 2), ratio double precision, extra jsonb, primary key (name, n));
         insert into proven select 'Zeile ä ' || g, '2026-01-01'::date + g, g, case when g % 3 = 0 then null else '{TEXT}' end,
             now(), array['a', null, g::text], g / 7.0, 1.0 / g, jsonb_build_object('n', g) from generate_series(1, 3000) g;
         alter publication platform add table proven"
    );
    hands.run(&create).await;
    hands.reaches("proven", "live").await;
    let equal = verify(stack, &["proven"]);
    let report = equal.json();
    assert_eq!((report["status"].as_str(), report["job"].as_str()), (Some("equal"), Some("verify")), "{equal:?}");
    assert_eq!(
        (only(&equal)["rows_postgres"].as_u64(), only(&equal)["rows_clickhouse"].as_u64()),
        (Some(3000), Some(3000))
    );

    // Rows of the log too, so that versions of all kinds are there.
    hands.run("update proven set body = 'new' where n % 10 = 0; delete from proven where n = 2999").await;
    hands.caught_up().await;
    hands.mirror("delete from mirror.proven where n in (1, 2)").await;
    hands.tamper("proven", "_version + 1 as _version, 1 as _deleted", "n = 3").await;
    hands.tamper("proven", "'other' as body", "n = 10").await;
    hands.tamper("proven", "_version + 1 as _version, 0.5 as ratio", "n = 11").await;
    hands.tamper("proven", &format!("{HIGHEST} as _version, ['a', 'b'] as tags"), "n = 12").await;
    hands.tamper("proven", "'ghost' as name", "n = 20").await;
    hands.tamper("proven", &format!("'ghost' as name, {HIGHEST} as _version"), "n = 21").await;

    let found = verify(stack, &["--table", "proven"]);
    assert_eq!((found.code, counts(&found)), (Some(65), [3, 2, 3, 0]), "{found:?}");
    let samples = only(&found)["samples"].clone();
    let keys = |keys: &[(&str, &str)]| keys.iter().map(|(name, n)| json!([name, n])).collect::<Value>();
    assert_eq!(samples["missing"], keys(&[("Zeile ä 1", "1"), ("Zeile ä 2", "2"), ("Zeile ä 3", "3")]), "{samples}");
    assert_eq!(samples["extra"], keys(&[("ghost", "20"), ("ghost", "21")]), "{samples}");
    assert_eq!(samples["different"].as_array().map(Vec::len), Some(3), "{samples}");
    assert!(found.stderr.contains("3 missing in ClickHouse") && found.stderr.contains("(ghost, 21)"), "{found:?}");
    assert!(!format!("{found:?}").contains(TEXT), "values must not be shown: {found:?}");

    let mended = verify(stack, &["proven", "--repair"]);
    assert_eq!(mended.json()["status"], "repaired", "{mended:?}");
    assert_eq!((only(&mended)["repaired"].as_u64(), counts(&mended)), (Some(8), [0; 4]), "{mended:?}");
    assert_eq!(verify(stack, &["proven"]).json()["status"], "equal");

    // What the log brings later wins over what was mended, whatever stood there.
    hands.run("update proven set body = 'later' where n <= 12; delete from proven where n in (3, 11)").await;
    hands.run("insert into proven (name, n, at, tags) values ('ghost', 21, now(), '{}')").await;
    hands.caught_up().await;
    let after = verify(stack, &["proven"]);
    assert_eq!((after.json()["status"].as_str(), only(&after)["rows_postgres"].as_u64()), (Some("equal"), Some(2998)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_are_never_taken_for_differences_and_never_hide_one() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    hands.run(&made("written", 3000)).await;
    hands.reaches("written", "live").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3).map(|seed| tokio::spawn(write(stack.settings(), seed, Arc::clone(&stop)))).collect();
    // Keys that the writers leave alone.
    hands.tamper("written", "'other' as b", "id <= 5").await;
    hands.mirror("delete from mirror.written where id = 6").await;
    hands.tamper("written", "-1 as id", "id = 7").await;
    for round in 0..3 {
        let found = verify(stack, &["written"]);
        assert_eq!((found.code, counts(&found)), (Some(65), [1, 1, 5, 0]), "{round}: {found:?}");
    }
    let mended = verify(stack, &["written", "--repair"]);
    assert_eq!((mended.code, only(&mended)["repaired"].as_u64()), (Some(0), Some(7)), "{mended:?}");
    for round in 0..3 {
        let found = verify(stack, &["written"]);
        assert_eq!(found.code, Some(0), "{round}: {found:?}");
    }
    stop.store(true, Ordering::SeqCst);
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("it wrote");
    }
    assert!(written > 300, "only {written} changes were made meanwhile");
    assert_eq!(verify(stack, &["written"]).json()["status"], "equal");
}

/// Changes rows above 100 until told to stop; returns how many statements it ran.
async fn write(settings: platform::config::Settings, seed: u64, stop: Arc<AtomicBool>) -> u32 {
    let client = postgres::connect(&settings.postgres, "a writer").await.expect("connected");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut statements = 0;
    while !stop.load(Ordering::SeqCst) {
        let id = random.random_range(101..4000);
        let sql = match random.random_range(0..10) {
            0 => format!("delete from written where id = {id}"),
            1..4 => {
                format!("insert into written (id, b) values ({id}, 'again') on conflict (id) do update set b = 'there'")
            }
            _ => format!("update written set a = a + 1, b = b || '.' where id between {id} and {id} + 3"),
        };
        // Two writers may meet in a deadlock.
        if client.batch_execute(&sql).await.is_ok() {
            statements += 1;
        }
    }
    statements
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_lost_far_too_many_rows_is_for_a_load_to_mend() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    hands.run(&made("wrecked", 2000)).await;
    hands.reaches("wrecked", "live").await;
    hands.mirror("truncate table mirror.wrecked").await;
    let mut command = stack.command(&["verify", "wrecked", "--repair"]);
    command.env("PLATFORM__VERIFY__CANDIDATE_ROWS_MAX", "100");
    let found = tokio::task::block_in_place(|| finish(command));
    let [missing, extra, different, _] = counts(&found);
    assert_eq!((found.code, extra, different, only(&found)["complete"].as_bool()), (Some(65), 0, 0, Some(false)));
    assert!((50..=100).contains(&missing) && only(&found)["rows_clickhouse"] == 0, "{found:?}");
    assert!(found.stderr.contains("at least") && found.stderr.contains("platform load public.wrecked"), "{found:?}");
    let whole = verify(stack, &["wrecked"]);
    assert_eq!((whole.code, counts(&whole)), (Some(65), [2000, 0, 0, 0]), "{whole:?}");
    tokio::task::block_in_place(|| stack.platform(&["load", "wrecked"])).json();
    hands.caught_up().await;
    assert_eq!(verify(stack, &["wrecked"]).json()["status"], "equal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_compared_says_why() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    let unknown = verify(stack, &["no_such_table"]);
    assert_eq!((unknown.code, unknown.stderr.contains("no_such_table is not in the publication")), (Some(78), true));

    for table in ["stopping", "going"] {
        hands.run(&made(table, 10)).await;
        hands.reaches(table, "live").await;
    }
    hands.run("alter table stopping replica identity nothing; insert into stopping (id) values (900)").await;
    hands.run("alter publication platform drop table going").await;
    hands.reaches("stopping", "halted").await;
    hands.reaches("going", "left").await;
    for (table, reason) in [("stopping", "it is halted"), ("going", "it is left")] {
        let refused = verify(stack, &[table]);
        assert_eq!(refused.code, Some(75), "{refused:?}");
        assert!(refused.stderr.contains(table) && refused.stderr.contains(reason), "{refused:?}");
    }
    hands.run("alter table stopping replica identity default").await;
    tokio::task::block_in_place(|| stack.platform(&["load", "stopping"])).json();
    hands.caught_up().await;
    assert_eq!(verify(stack, &["stopping"]).json()["status"], "equal");
}

/// Of a stack with parked rows in `far` (14) and `strict` (1): they are counted by themselves. Then nothing arrives any more.
pub(super) fn parked_rows_are_no_differences(stack: &Stack, command: impl Fn(&[&str]) -> Command) {
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| finish(command(arguments)));
    for (table, parked) in [("far", 14), ("kept", 0), ("strict", 1)] {
        let found = run(&["verify", table]);
        assert_eq!((found.code, counts(&found)), (Some(0), [0, 0, 0, parked]), "{found:?}");
    }
    stack.kill_part("connect", Signal::SIGSTOP);
    let mut behind = command(&["verify", "kept"]);
    behind.env("PLATFORM__VERIFY__WAIT_TIMEOUT_S", "1");
    let behind = tokio::task::block_in_place(|| finish(behind));
    stack.kill_part("connect", Signal::SIGCONT);
    assert_eq!((behind.code, behind.stderr.contains("the mirror has not reached")), (Some(75), true), "{behind:?}");
}
