//! The process ends at every named point from fetch to checkpoint, of a load, of a structure's change; afterwards both sides
//! are equal, by what runs then alone.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use platform::domain::TableName;
use platform::failpoint::POINTS;

use super::equality::Tables;
use super::schema_changes::made;
use super::{CATCH_UP, Hands};
use crate::support::own_sink::OwnSink;
use crate::support::wait::wait_until;
use crate::support::{Options, Stack};

/// How long a point may take to be passed.
const REACHED: Duration = Duration::from_secs(90);
/// Points that only a load whose slot is new passes.
const SLOT_POINTS: [&str; 4] =
    ["load.slot-made", "load.offsets-forgotten", "load.connector-goes-on", "load.log-stored"];

const SHAPES: &str = "
create table crash_rows (id int primary key, at timestamptz not null, round int not null);
create table crash_notes (id int primary key, title text not null, body text not null);
alter table crash_notes alter column body set storage external;
insert into crash_rows select g, now(), 0 from generate_series(1, 20) g;
insert into crash_notes select g, 'begun', repeat(md5(g::text), 200) from generate_series(0, 9) g;
alter publication platform add table crash_rows, crash_notes";

/// One stack whose sink and loads the test starts itself.
struct Field {
    stack: Stack,
    hands: Hands,
    round: u32,
}

impl Field {
    async fn start(parts: &'static str) -> Self {
        if !cfg!(feature = "failpoints") {
            panic!("crash points need --features failpoints; `make test` gives it");
        }
        let stack = Stack::start_with(Options { parts: Some(parts), ..Options::default() });
        let hands = Hands::of(&stack).await;
        hands.run(SHAPES).await;
        Self { stack, hands, round: 0 }
    }

    fn joined(&self) -> String {
        format!("crash_joined_{}", self.round)
    }

    /// Changes that pass every point of the sink: TRUNCATE, two tables in one transaction, an unchanged large value, a row
    /// that cannot be stored, a new column, a table that joins and one that leaves.
    async fn change(&mut self) {
        self.round += 1;
        let round = self.round;
        self.hands
            .run(&format!(
                "begin; truncate crash_rows; insert into crash_rows select g, now(), {round} from generate_series(1, 20) g;
                 insert into crash_rows values (100, 'infinity', {round});
                 update crash_notes set title = 'round {round}' where id = {round} % 10;
                 insert into crash_notes (id, title, body) values (1000 + {round}, 'new', repeat('x', 9000)); commit"
            ))
            .await;
        for statement in [
            "update crash_rows set at = '2024-01-01' where id = 100",
            "delete from crash_rows where id = 3",
            "update crash_rows set id = 200 where id = 4",
            &format!("delete from crash_notes where id = 1000 + {round} - 3"),
            &format!("alter table crash_notes add column c{round} int default {round}"),
            &format!("update crash_notes set c{round} = -1 where id = 2"),
            "update crash_notes set title = title || '!' where id = 5",
        ] {
            self.hands.run(statement).await;
        }
        self.hands.run(&made(&self.joined(), 50)).await;
        if round > 1 {
            self.hands.run(&format!("alter publication platform drop table crash_joined_{}", round - 1)).await;
        }
    }

    /// A sink without a point goes on alone until everything is equal.
    async fn mends(&self, after: &str) {
        eprintln!("killed at {after}");
        let sink = OwnSink::start(&self.stack, &[("PLATFORM__SINK__SUPERVISE_INTERVAL_MS", "200")]);
        self.hands.reaches(&self.joined(), "live").await;
        self.hands.caught_up().await;
        let joined = self.joined();
        let tables = ["crash_rows", "crash_notes", &joined].map(|name| TableName::new("public", name));
        Tables::become_equal(&self.hands, &tables, &format!("killed at {after}")).await;
        self.nothing_stays_parked(after).await;
        sink.stop();
    }

    /// The row that was parked has been put right by a later event: what is parked says nothing any more, once the table
    /// was emptied again.
    async fn nothing_stays_parked(&self, after: &str) {
        let sql =
            "select count() as parked from platform.dead_letters final where table = 'crash_rows' and state = 'parked'";
        let rows: Vec<serde_json::Value> = self.hands.clickhouse.fetch_all(sql, &[]).await.expect("read");
        let parked: u32 = rows[0]["parked"].as_str().expect("a number").parse().expect("a number");
        assert!(parked <= 1, "killed at {after}: {parked} rows are parked");
    }

    /// Runs `platform load` to the point; panics when it ends otherwise.
    fn load_until(&self, point: &str) {
        let mut command = self.stack.command(&["load"]);
        command.env("PLATFORM_FAILPOINT", point).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = tokio::task::block_in_place(|| command.spawn().expect("started").wait_with_output());
        let output = output.expect("ended");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(Signal::SIGKILL as i32), "{point} was not reached: {said}");
    }

    fn platform(&self, arguments: &[&str]) {
        let done = tokio::task::block_in_place(|| self.stack.platform(arguments));
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.stderr);
    }
}

/// A folder with an aggregate over the rows that change, so that there are buckets to mark.
fn aggregate_over_crash_rows(stack: &Stack) -> PathBuf {
    let folder = stack.data_dir().join("aggregates");
    std::fs::create_dir_all(&folder).expect("made");
    let text = "-- summary: rows by round\n-- table: crash_rows\n-- bucket: day(at)\n-- keys: round\n\n\
                select round, count() as n from {source} group by round\n";
    std::fs::write(folder.join("crash_rounds.sql"), text).expect("written");
    folder
}

fn points(prefixes: &[&str]) -> Vec<&'static str> {
    let ours = |name: &&str| prefixes.contains(&name.split_once('.').map_or("", |(prefix, _)| prefix));
    POINTS.iter().map(|(name, _)| *name).filter(ours).collect()
}

#[test]
fn every_point_has_a_test_that_walks_it() {
    let walked = points(&["sink", "floor", "insert", "structure", "watch"]).len() + points(&["load"]).len();
    // Those of statistics: `refresher`.
    let walked = walked + points(&["build", "publish"]).len();
    assert_eq!(walked, POINTS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_killed_at_any_point_loses_nothing() {
    let mut field = Field::start("postgres,kafka,connect,clickhouse,migrate,load,connector").await;
    let aggregates = aggregate_over_crash_rows(&field.stack);
    let aggregates = aggregates.to_str().expect("plain");
    for point in points(&["sink", "floor", "insert", "structure", "watch"]) {
        let environment = [
            ("PLATFORM_FAILPOINT", point),
            ("PLATFORM__SINK__SUPERVISE_INTERVAL_MS", "200"),
            ("PLATFORM__ETL__AGGREGATES_DIR", aggregates),
        ];
        let mut sink = OwnSink::start(&field.stack, &environment);
        field.change().await;
        let killed = tokio::task::block_in_place(|| sink.was_killed(REACHED));
        assert!(killed, "{point} was not reached:\n{}", field.stack.log("own-sink"));
        field.mends(point).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_killed_at_any_point_leaves_what_another_one_or_the_sink_mends() {
    // The first load of all, which makes the slot.
    let mut field = Field::start("postgres,kafka,connect,clickhouse,migrate").await;
    for point in ["load.slot-made", "load.log-stored", "load.copied", "load.before-checkpoint", "load.after-checkpoint"]
    {
        field.load_until(point);
    }
    field.change().await;
    field.platform(&["load"]);
    field.platform(&["connector", "apply"]);
    field.mends("the first load").await;

    // A load beside no sink; the sink that comes then mends what it left.
    for point in points(&["load"]).into_iter().filter(|point| !SLOT_POINTS.contains(point)) {
        field.change().await;
        field.load_until(point);
        field.mends(point).await;
    }

    // The slot is gone, and changes with it.
    let others = ["load.loading-stored", "load.before-checkpoint"];
    for point in SLOT_POINTS.into_iter().filter(|point| *point != "load.log-stored").chain(others) {
        // A connector that is there, or one that was deleted: its offsets stay in either case.
        let stays = ["load.slot-made", "load.offsets-forgotten"].contains(&point);
        if stays {
            let url = format!("{}/connectors/platform/stop", field.stack.connect_url());
            let stopped = reqwest::Client::new().put(url).send().await.expect("an answer");
            assert!(stopped.status().is_success(), "{stopped:?}");
        } else {
            field.platform(&["connector", "delete"]);
        }
        let drop_slot = "select pg_drop_replication_slot('platform')";
        let dropped = || async { field.hands.postgres.execute(drop_slot, &[]).await.is_ok() };
        wait_until("the slot is free", CATCH_UP, dropped).await;
        field.change().await;
        let raise = "update platform.heartbeat set counter = counter + 1";
        field.hands.run(raise).await;
        field.load_until(point);
        field.platform(&["load"]);
        if !stays {
            field.platform(&["connector", "apply"]);
        }
        field.mends(&format!("{point} of a load that made the slot anew")).await;
    }
}
