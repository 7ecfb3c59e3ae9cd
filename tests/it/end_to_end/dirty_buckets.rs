//! The days whose statistics a change concerns are marked: where a row was shown, and where it is shown now.

use std::collections::BTreeMap;

use super::{CATCH_UP, Hands};
use crate::support::own_sink::OwnSink;
use crate::support::wait::wait_until;
use crate::support::{Options, Stack};

/// A table under DEFAULT identity, whose key has a type of every form that ClickHouse must be told in its own way.
const SHAPES: &str = "
create table marked_full (id bigint primary key, at timestamptz, note text);
alter table marked_full replica identity full;
create table marked_lean (a text, b timestamptz, c uuid, d date, e numeric(6, 2), f bytea, g bool, h timestamp, day date not null,
    primary key (a, b, c, d, e, f, g, h));
alter publication platform add table marked_full, marked_lean";

const ROW: &str = "'it''s [\"1\"]\\,', '2024-05-06 07:08:09.123456+00', '12345678-9abc-def0-1234-56789abcdef0', '1950-02-03', -1.50, \
                   '\\x00ff5c', true, '2030-01-02 03:04:05.6'";

struct Marks {
    hands: Hands,
}

impl Marks {
    /// The newest mark of each bucket; `whole` for all of them.
    async fn of(&self, aggregate: &str) -> BTreeMap<String, u64> {
        let sql = "select if(whole = 1, 'whole', toString(toDate32(bucket))) as bucket, batch from platform.dirty_buckets final \
                   where aggregate = {aggregate:String}";
        let rows: Vec<serde_json::Value> =
            self.hands.clickhouse.fetch_all(sql, &[("aggregate", aggregate)]).await.expect("read");
        let mark = |row: &serde_json::Value| {
            let text = |name: &str| row[name].as_str().expect("a text").to_owned();
            (text("bucket"), text("batch").parse().expect("a number"))
        };
        rows.iter().map(mark).collect()
    }

    /// Runs a statement, after which `expected` must be marked. More may be: where older versions of the same row were.
    async fn must_be(&self, aggregate: &str, expected: &[&str], statement: &str) {
        let marked = self.by(aggregate, statement).await;
        assert!(expected.iter().all(|bucket| marked.iter().any(|marked| marked == bucket)), "{statement}: {marked:?}");
        assert!(!marked.iter().any(|marked| marked == "whole"), "{statement}: {marked:?}");
    }

    /// Runs a statement and gives the buckets that it has marked.
    async fn by(&self, aggregate: &str, statement: impl AsRef<str>) -> Vec<String> {
        let before = self.of(aggregate).await;
        self.hands.run(statement.as_ref()).await;
        self.hands.caught_up().await;
        let after = self.of(aggregate).await;
        after
            .into_iter()
            .filter(|(bucket, batch)| before.get(bucket) != Some(batch))
            .map(|(bucket, _)| bucket)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_day_that_a_row_leaves_or_enters_is_marked() {
    let parts = "postgres,kafka,connect,clickhouse,migrate,load,connector";
    let stack = Stack::start_with(Options { parts: Some(parts), ..Options::default() });
    let marks = Marks { hands: Hands::of(&stack).await };
    marks.hands.run(SHAPES).await;
    let folder = stack.data_dir().join("aggregates");
    std::fs::create_dir_all(&folder).expect("made");
    for (table, column) in [("marked_full", "at"), ("marked_lean", "day")] {
        let text = format!(
            "-- summary: rows\n-- table: {table}\n-- bucket: day({column})\n-- keys: one\n\nselect 1 as one, count() as n from {{source}}\n"
        );
        std::fs::write(folder.join(format!("of_{table}.sql")), text).expect("written");
    }
    let aggregates = folder.to_str().expect("plain").to_owned();
    let _sink = OwnSink::start(&stack, &[("PLATFORM__ETL__AGGREGATES_DIR", &aggregates)]);
    for table in ["marked_full", "marked_lean"] {
        marks.hands.reaches(table, "live").await;
    }
    let loaded = || async { marks.of("of_marked_lean").await.contains_key("whole") };
    wait_until("the load has marked everything", CATCH_UP, loaded).await;

    let full = "of_marked_full";
    let none: [&str; 0] = [];
    let at = "insert into marked_full values (1, '2024-01-01 23:59:59.999999+00', 'a'), (2, '1960-07-01 08:09:10.5+00', 'b'), (3, null, 'c')";
    assert_eq!(marks.by(full, at).await, ["1960-07-01", "2024-01-01"]);
    assert_eq!(marks.by(full, "update marked_full set note = 'x' where id = 2").await, ["1960-07-01"]);
    let moved = "update marked_full set at = at + interval '1 microsecond' where id = 1";
    assert_eq!(marks.by(full, moved).await, ["2024-01-01", "2024-01-02"]);
    assert_eq!(marks.by(full, "update marked_full set at = '2024-03-01' where id = 3").await, ["2024-03-01"]);
    assert_eq!(marks.by(full, "update marked_full set at = null where id = 3").await, ["2024-03-01"]);
    marks.must_be(full, &["2024-01-02"], "update marked_full set id = 4 where id = 1").await;
    marks.must_be(full, &["1960-07-01"], "delete from marked_full where id = 2").await;
    assert_eq!(marks.by(full, "insert into marked_lean values (".to_owned() + ROW + ", '2024-02-02')").await, none);
    // A row that cannot be stored: what is shown meanwhile is older than what the log says was there before.
    let parked = "update marked_full set at = 'infinity' where id = 4";
    assert_eq!(marks.by(full, parked).await, none);
    let stored = "update marked_full set at = '2024-09-09' where id = 4";
    marks.must_be(full, &["2024-01-02", "2024-09-09"], stored).await;
    assert_eq!(marks.by(full, "truncate marked_full").await, ["whole"]);

    let lean = "of_marked_lean";
    marks.must_be(lean, &["2024-02-02", "2024-02-03"], "update marked_lean set day = '2024-02-03'").await;
    marks.must_be(lean, &["2024-02-03"], "update marked_lean set a = 'another'").await;
    marks.must_be(lean, &["2024-02-03"], "delete from marked_lean").await;
}
