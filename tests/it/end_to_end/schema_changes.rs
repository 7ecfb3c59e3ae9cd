//! A table's structure changes while its rows do.

use nix::sys::signal::Signal;
use platform::domain::TableName;
use platform::store::checkpoint;

use super::equality::Tables;
use super::{CATCH_UP, Hands};
use crate::support::Stack;
use crate::support::wait::wait_until;

impl Hands {
    pub(super) async fn run(&self, sql: &str) {
        self.postgres.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// State and reason of a table, as stored last.
    pub(super) async fn state(&self, table: &str) -> (String, String) {
        #[derive(serde::Deserialize)]
        struct Row {
            state: String,
            reason: String,
        }
        let sql = "select state, reason from platform.tables final where table = {table:String}";
        let row: Option<Row> = self.clickhouse.fetch_optional(sql, &[("table", table)]).await.ok().flatten();
        row.map_or_else(Default::default, |row| (row.state, row.reason))
    }

    /// Waits until a table has a state.
    pub(super) async fn reaches(&self, table: &str, state: &str) {
        wait_until(&format!("{table} is {state}"), CATCH_UP, || async { self.state(table).await.0 == state }).await;
    }

    async fn follows(&self, table: &TableName, change: &str) {
        self.run(change).await;
        Tables::become_equal(self, std::slice::from_ref(table), change).await;
        // Equal before and after a load that the change made necessary.
        self.reaches(&table.mirror_name(), "live").await;
        Tables::become_equal(self, std::slice::from_ref(table), change).await;
    }
}

/// `rows` rows that every change must leave right, those that no event touches afterwards among them.
pub(super) fn made(table: &str, rows: u32) -> String {
    format!(
        "create table {table} (id int primary key, a int not null default 5, b text, n numeric(4, 2), f varchar(20) not null default '');
         insert into {table} select g, g * 10, 'text ' || g, g / 100.0 from generate_series(1, {rows}) g;
         alter publication platform add table {table}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_follows_every_change_that_it_can() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    let table = TableName::new("public", "evolving");
    // It joins with rows in it; nobody loads it.
    hands.run(&made("evolving", 200)).await;
    Tables::become_equal(&hands, std::slice::from_ref(&table), "after it joined").await;
    for change in [
        "alter table evolving add column c text; update evolving set c = 'new' where id % 7 = 0",
        "alter table evolving add column d int not null default 7; insert into evolving (id, d) values (1000, 8)",
        "alter table evolving add column e text not null default 'it''s \\ so'",
        "alter table evolving add column g double precision not null default 0.1; delete from evolving where id = 3",
        // Every row gets another value, and the log says nothing.
        "alter table evolving add column h double precision default random()",
        "alter table evolving rename column b to bb; update evolving set bb = 'renamed' where id % 5 = 0",
        "alter table evolving rename column c to x; alter table evolving rename column bb to c; alter table evolving rename column x to bb; \
         update evolving set c = 'swapped' where id % 11 = 0",
        "alter table evolving drop column e; update evolving set a = a + 1 where id % 2 = 0",
        // The same name, and nothing else shows it.
        "alter table evolving drop column c; alter table evolving add column c text",
        "alter table evolving drop column c; alter table evolving add column c int; update evolving set c = id where id % 3 = 0",
        "alter table evolving alter column a type bigint; update evolving set a = 5000000000 where id = 4",
        "alter table evolving alter column d type bigint using d * 1000000000",
        "alter table evolving alter column n type numeric(8, 3); update evolving set n = 1234.567 where id = 5",
        "alter table evolving alter column f type text using upper(f) || id",
        "alter table evolving alter column d drop not null; update evolving set d = null where id % 4 = 0",
        "update evolving set d = 0 where d is null; alter table evolving alter column d set not null; insert into evolving (id) values (1001)",
        "truncate evolving; alter table evolving add column z int default 3; insert into evolving (id) values (1), (2)",
        "vacuum full evolving",
        "insert into evolving (id, c) select g, g from generate_series(3, 300) g",
    ] {
        hands.follows(&table, change).await;
    }
    #[derive(serde::Deserialize)]
    struct Column {
        name: String,
    }
    let sql = "select name from system.columns where database = 'mirror' and table = 'evolving'";
    let columns: Vec<Column> = hands.clickhouse.fetch_all(sql, &[]).await.expect("read");
    let history = columns.iter().filter(|column| column.name == "e" || column.name.contains("_dropped_")).count();
    assert_eq!(history, 3, "dropped columns stay as history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_cannot_be_followed_halts_that_table_alone() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    let (table, other) = (TableName::new("public", "narrowing"), TableName::new("public", "bystander"));
    hands.run(&made("narrowing", 20)).await;
    hands.run(&made("bystander", 20)).await;
    Tables::become_equal(&hands, &[table.clone(), other.clone()], "after they joined").await;
    for (change, expected) in [
        ("alter table narrowing alter column a type text; update narrowing set a = 'x'", "from integer to text"),
        ("alter table narrowing rename column id to number; update narrowing set b = 'y'", "renamed to number"),
        (
            "alter table narrowing drop constraint narrowing_pkey, add primary key (number, a); update narrowing set b = 'z'",
            "its primary key has changed",
        ),
        (
            "alter table narrowing replica identity nothing; insert into narrowing (number, a) values (900, 'n')",
            "replica identity",
        ),
    ] {
        hands.run(change).await;
        hands.run("update bystander set a = a + 1").await;
        hands.reaches("narrowing", "halted").await;
        let (_, reason) = hands.state("narrowing").await;
        assert!(reason.contains(expected) && reason.contains("platform load public.narrowing"), "{reason}");
        Tables::become_equal(&hands, std::slice::from_ref(&other), "beside a halted table").await;
        if expected == "replica identity" {
            hands.run("alter table narrowing replica identity default").await;
        }
        let loaded = stack.platform(&["load", "narrowing"]);
        assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
        hands.run("update narrowing set b = b || '!' where b is not null").await;
        Tables::become_equal(&hands, std::slice::from_ref(&table), "after the load").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_leave_come_back_and_are_made_anew() {
    let hands = Hands::of(Stack::shared()).await;
    let table = TableName::new("public", "coming_and_going");
    let tables = std::slice::from_ref(&table);
    hands.run(&made("coming_and_going", 50)).await;
    Tables::become_equal(&hands, tables, "after it joined").await;

    hands.run("alter publication platform drop table coming_and_going").await;
    hands.reaches("coming_and_going", "left").await;
    hands.run("update coming_and_going set b = 'unseen'; delete from coming_and_going where id < 10").await;
    hands.run("alter publication platform add table coming_and_going").await;
    hands.run("insert into coming_and_going (id) values (2000)").await;
    Tables::become_equal(&hands, tables, "after it came back").await;

    // Out and in again before anybody looks, with a change that is in no log.
    hands.run("alter publication platform drop table coming_and_going").await;
    hands.run("update coming_and_going set b = 'unseen again' where id = 20").await;
    hands.run("alter publication platform add table coming_and_going").await;
    Tables::become_equal(&hands, tables, "after a short absence").await;

    hands.run("update coming_and_going set a = 1; drop table coming_and_going").await;
    hands.run(&made("coming_and_going", 30)).await;
    hands.run("insert into coming_and_going (id) values (3000)").await;
    Tables::become_equal(&hands, tables, "after it was made anew").await;

    hands.run("update coming_and_going set a = 2; drop table coming_and_going").await;
    hands.run("create table coming_and_going (key uuid primary key default gen_random_uuid(), note text)").await;
    hands.run("insert into coming_and_going (note) values ('other'); alter publication platform add table coming_and_going").await;
    hands.run("insert into coming_and_going (note) values ('columns')").await;
    Tables::become_equal(&hands, tables, "after it was made anew with other columns").await;

    hands
        .run(
            "alter table coming_and_going rename to gone_elsewhere; insert into gone_elsewhere (note) values ('moved')",
        )
        .await;
    let moved = TableName::new("public", "gone_elsewhere");
    Tables::become_equal(&hands, std::slice::from_ref(&moved), "after it got another name").await;
    hands.reaches("coming_and_going", "left").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_changes_is_followed_behind_a_lagging_connector_and_again_in_a_replay() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    let table = TableName::new("public", "bursting");
    let tables = std::slice::from_ref(&table);
    hands.run(&made("bursting", 40)).await;
    Tables::become_equal(&hands, tables, "after it joined").await;
    let begin = checkpoint::latest(&hands.clickhouse, "platform").await.expect("read").expect("a checkpoint");

    // The connector sees all of it at once, when the catalog is long past it.
    stack.kill_part("connect", Signal::SIGSTOP);
    for change in [
        "update bursting set b = 'old shape' where id % 2 = 0",
        "alter table bursting add column c text default 'c'; insert into bursting (id, c) values (100, 'first')",
        "alter table bursting rename column c to d; update bursting set d = 'second' where id = 100",
        "alter table bursting drop column b; update bursting set a = a + 1 where id % 3 = 0",
        // Of the same type: Debezium reads old values as what the catalog says now, and would fail on a text for an integer.
        "alter table bursting add column b text; update bursting set b = id where id % 5 = 0",
        "alter table bursting alter column a type bigint; update bursting set a = 6000000000 where id = 7",
        "alter table bursting drop column d; alter table bursting add column d text default '1'; delete from bursting where id = 9",
        "alter table bursting alter column n type numeric(10, 4); update bursting set n = 123456.7891 where id = 8",
        "begin; update bursting set id = -1 where id = 1; update bursting set id = 1 where id = 2; update bursting set id = 2 where id = -1; commit",
    ] {
        hands.run(change).await;
    }
    stack.kill_part("connect", Signal::SIGCONT);
    hands.caught_up().await;
    Tables::become_equal(&hands, tables, "behind the burst").await;

    // The whole log again, from before the first change.
    let now = checkpoint::latest(&hands.clickhouse, "platform").await.expect("read").expect("a checkpoint");
    let rewound = checkpoint::Checkpoint {
        term: now.term + 2,
        batch: now.batch + 1,
        next_offset: begin.next_offset,
        record_hash: begin.record_hash,
        heartbeat: begin.heartbeat,
        watermark: begin.watermark,
        ..now
    };
    checkpoint::store(&hands.clickhouse, "platform", &rewound).await.expect("rewound");
    wait_until("the sink has begun again", CATCH_UP, || async {
        let latest = checkpoint::latest(&hands.clickhouse, "platform").await;
        latest.ok().flatten().is_some_and(|latest| latest.term > rewound.term)
    })
    .await;
    hands.run("insert into bursting (id) values (500)").await;
    hands.caught_up().await;
    Tables::become_equal(&hands, tables, "after the replay").await;
    let parked =
        "select count() as parked from platform.dead_letters final where table = 'bursting' and state = 'parked'";
    let rows: Vec<serde_json::Value> = hands.clickhouse.fetch_all(parked, &[]).await.expect("read");
    assert_eq!(rows, [serde_json::json!({ "parked": "0" })]);
}
