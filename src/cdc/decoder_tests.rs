//! The decoder on captured messages of the real connector (`tests/data/debezium`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{Batch, Newest};
use super::decoder::{Decoder, Doubt, Known, Outcome};
use super::halt::Halt;
use crate::catalog::{ColumnRow, Relation, Rules, Table, TableRow, TypeRow};
use crate::domain::{Lsn, TableName, Version};
use crate::store::kafka::Record;
use crate::store::mirror::Log;
use crate::store::replication::LogIdentity;

const SENTIMENT: &str = include_str!("../../tests/data/debezium/sentiment_social.jsonl");
const INFLIGHT: &str = include_str!("../../tests/data/debezium/inflight_snapshot.jsonl");
const INFLIGHT_FIRST: &str = include_str!("../../tests/data/debezium/inflight_snapshot_noheartbeat.jsonl");
const RESTART: &str = include_str!("../../tests/data/debezium/restart_duplicates.jsonl");

pub(super) fn records(file: &str) -> Vec<Record> {
    #[derive(serde::Deserialize)]
    struct Line {
        offset: i64,
        key: Option<String>,
        value: Option<String>,
    }
    let record = |line: &str| {
        let line: Line = serde_json::from_str(line).expect("a captured record");
        Record { offset: line.offset, key: line.key.map(Into::into), value: line.value.map(Into::into) }
    };
    file.lines().map(record).collect()
}

pub(super) fn table(name: &str, columns: &[(&str, &str)]) -> Arc<Table> {
    Arc::new(Table::from_row(table_row(name, columns), &Rules::default()).expect("mirrored"))
}

pub(super) fn table_row(name: &str, columns: &[(&str, &str)]) -> TableRow {
    let column = |(at, (name, kind)): (usize, &(&str, &str))| {
        let base = |name: &str| TypeRow { name: name.to_owned(), kind: 'b', modifier: -1, element: None };
        let type_row = match kind.strip_suffix("[]") {
            Some(element) => TypeRow { element: Some(Box::new(base(element))), ..base("array") },
            None => base(kind),
        };
        let key_position = (at == 0).then_some(0);
        let (attnum, not_null) = (i16::try_from(at + 1).expect("few"), at == 0);
        let (name, type_text) = ((*name).into(), (*kind).into());
        ColumnRow {
            xmin: String::new(),
            attnum,
            missing_value: None,
            generated: false,
            name,
            not_null,
            key_position,
            type_text,
            type_row,
        }
    };
    let columns = columns.iter().enumerate().map(column).collect();
    TableRow {
        name: TableName::new("public", name),
        relation: Relation::default(),
        kind: 'r',
        filtered: false,
        identity: 'f',
        columns,
    }
}

fn posts() -> Arc<Table> {
    let columns = [
        ("id", "int8"),
        ("platform", "text"),
        ("author", "text"),
        ("content", "text"),
        ("sentiment", "text"),
        ("score", "float8"),
    ];
    let rest = [("lang", "text"), ("tags", "text[]"), ("metadata", "jsonb"), ("likes", "int4")];
    let times = [("posted_at", "timestamptz"), ("created_at", "timestamptz"), ("updated_at", "timestamptz")];
    table("sentiment_social", &[columns.as_slice(), rest.as_slice(), times.as_slice()].concat())
}

pub(super) fn decoder(table: &Arc<Table>, first_load: u64) -> Decoder {
    let identity = LogIdentity { system_identifier: "1".into(), timeline: 1 };
    let log = Log { number: 1, identity, first_load: Lsn::new(first_load) };
    let mut decoder = Decoder::new(log, "__debezium_unavailable_value", Arc::default());
    decoder.tables.insert(table.name().clone(), Known::Mirrored(Arc::clone(table), Version::ZERO));
    decoder
}

fn apply_all(decoder: &mut Decoder, records: &[Record]) -> Batch {
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    for record in records {
        assert_eq!(decoder.apply(&mut batch, record, true, 0), Ok(Outcome::Applied), "offset {}", record.offset);
    }
    assert!(batch.letters.is_empty(), "{:?}", batch.letters);
    batch
}

/// What the mirror would show: of each key the row with the highest version, unless it is deleted or below the floor.
fn shown(batch: &Batch, table: &Arc<Table>, column: &str) -> BTreeMap<i64, String> {
    let entry = &batch.tables[table.name()];
    let floor = batch.floors.iter().filter(|(name, _)| name == table.name()).map(|(_, floor)| *floor).max();
    let mut newest: BTreeMap<i64, (Version, bool, String)> = BTreeMap::new();
    for row in 0..entry.block.rows() {
        let (version, deleted) = entry.block.version_of(row).expect("a row");
        let id = entry.block.key_texts(table, row).expect("a key")[0].parse().expect("an integer");
        let text = entry.block.cell(table, row, column).unwrap_or_default();
        // Of two equal versions the later one stands, as in a ReplacingMergeTree.
        if newest.get(&id).is_none_or(|(highest, ..)| *highest <= version) {
            newest.insert(id, (version, deleted, text));
        }
    }
    let visible = newest.into_iter().filter(|(_, (version, deleted, _))| !deleted && Some(*version) >= floor);
    visible.map(|(id, (_, _, text))| (id, text)).collect()
}

#[test]
fn changes_that_lie_before_the_snapshot_in_the_log_win_over_it() {
    for file in [INFLIGHT, INFLIGHT_FIRST] {
        let posts = posts();
        let rows = shown(&apply_all(&mut decoder(&posts, u64::MAX >> 8), &records(file)), &posts, "content");
        let expected = ["by A", "by B", "by C", "by D second", "by A2", "v0 7", "after all", "inserted by C"];
        let ids = [1, 2, 3, 4, 5, 7, 8, 9];
        assert_eq!(rows, ids.into_iter().zip(expected.map(str::to_owned)).collect());
    }
}

#[test]
fn a_run_of_real_messages_ends_in_what_postgres_had() {
    let posts = posts();
    let records = records(SENTIMENT);
    let batch = apply_all(&mut decoder(&posts, u64::MAX >> 8), &records);
    // An independent fold in the order of the topic, without versions: right because no snapshot row comes late here.
    let mut truth: BTreeMap<i64, String> = BTreeMap::new();
    for record in &records {
        let Some(value) = &record.value else { continue };
        let value: serde_json::Value = serde_json::from_slice(value).expect("JSON");
        if value["source"]["table"] != "sentiment_social" {
            continue;
        }
        match value["op"].as_str().expect("an operation") {
            "t" => truth.clear(),
            "d" => drop(truth.remove(&value["before"]["id"].as_i64().expect("an id"))),
            _ => {
                let after = &value["after"];
                truth.insert(
                    after["id"].as_i64().expect("an id"),
                    after["content"].as_str().expect("a text").to_owned(),
                );
            }
        }
    }
    assert_eq!(batch.floors.len(), 1);
    assert!(!truth.is_empty());
    assert_eq!(shown(&batch, &posts, "content"), truth);
}

#[test]
fn a_run_that_is_sent_again_changes_nothing() {
    let load = table("load", &[("id", "int8"), ("w", "int4"), ("k", "int4"), ("pad", "text")]);
    let records = records(RESTART);
    let in_order = shown(&apply_all(&mut decoder(&load, 1), &records), &load, "pad");
    // Each event once: what PostgreSQL did, without the repetition.
    let mut seen = BTreeMap::new();
    for record in &records {
        let value: serde_json::Value =
            serde_json::from_slice(record.value.as_deref().unwrap_or_default()).expect("JSON");
        let identity = format!("{} {} {:?}", value["source"]["sequence"], value["op"], record.key);
        seen.entry(identity).or_insert_with(|| record.clone());
    }
    assert!(seen.len() < records.len(), "the file holds repetitions");
    let mut once: Vec<Record> = seen.into_values().collect();
    once.sort_by_key(|record| record.offset);
    assert_eq!(in_order, shown(&apply_all(&mut decoder(&load, 1), &once), &load, "pad"));
    // Not even the order of arrival matters: the version decides.
    let backwards: Vec<Record> = records.iter().rev().cloned().collect();
    assert_eq!(in_order, shown(&apply_all(&mut decoder(&load, 1), &backwards), &load, "pad"));
    assert!(in_order.len() > 100);
}

#[test]
fn an_event_that_does_not_know_the_commit_before_it_is_right_only_before_the_first_load() {
    let posts = posts();
    let streamed = records(INFLIGHT_FIRST).into_iter().find(|record| {
        let value = record.value.as_deref().unwrap_or_default();
        value.windows(16).any(|window| window == b"\"snapshot\":null,")
            && value.windows(18).any(|window| window == br#""table":"sentiment"#)
    });
    let streamed = streamed.expect("a streamed row");
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    let outcome = decoder(&posts, 1).apply(&mut batch, &streamed, true, 0);
    assert!(matches!(outcome, Err(Halt::SequenceRestarted { .. })), "{outcome:?}");
    assert_eq!(batch.events, 0, "nothing of it is in the batch");
}

fn beat(counter: i64, system: &str) -> Record {
    let value = serde_json::json!({
        "op": "u", "before": null,
        "after": { "id": 1, "counter": counter, "system_identifier": system, "timeline": 1, "beat_at": "2026-01-01T00:00:00Z" },
        "source": { "schema": "platform", "table": "heartbeat", "sequence": "[\"10\",\"20\"]", "lsn": 20, "ts_us": 1, "snapshot": null }
    });
    Record { offset: counter, key: None, value: Some(value.to_string().into()) }
}

#[test]
fn a_missing_heartbeat_halts_and_a_repeated_one_does_not() {
    let mut decoder = decoder(&posts(), 1);
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    for counter in [5, 6, 5, 6, 7] {
        assert_eq!(decoder.apply(&mut batch, &beat(counter, "1"), true, 0), Ok(Outcome::Applied));
    }
    assert_eq!(
        decoder.apply(&mut batch, &beat(9, "1"), true, 0),
        Err(Halt::HeartbeatGap { last: 7, seen: 9, offset: 9 })
    );
    assert_eq!(decoder.apply(&mut batch, &beat(8, "2"), true, 0), Err(Halt::LogChanged));
}

#[test]
fn a_row_that_cannot_be_stored_is_parked_whole_and_the_rest_goes_on() {
    let table = table("t", &[("id", "int8"), ("at", "timestamp")]);
    let mut decoder = decoder(&table, 1);
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    for (offset, at) in [(1, 0), (2, i64::MAX), (3, 1)] {
        let value = serde_json::json!({
            "op": "c", "before": null, "after": { "id": offset, "at": at },
            "source": { "schema": "public", "table": "t", "sequence": "[\"10\",\"20\"]", "lsn": 20, "ts_us": 1, "snapshot": null }
        });
        let record = Record { offset, key: None, value: Some(value.to_string().into()) };
        assert_eq!(decoder.apply(&mut batch, &record, true, 0), Ok(Outcome::Applied));
    }
    assert_eq!(shown(&batch, &table, "id").len(), 2);
    let [letter] = batch.letters.as_slice() else { panic!("one parked row") };
    assert_eq!(
        (letter.reason, letter.detail.as_str()),
        ("not-representable", "column at: the value is outside what DateTime64(6) holds")
    );
}

#[test]
fn a_shape_of_the_past_is_asked_about_once() {
    let table = table("t", &[("id", "int8"), ("b", "text")]);
    let mut decoder = decoder(&table, 1);
    let event = |offset: i64| {
        let value = serde_json::json!({
            "op": "c", "before": null, "after": { "id": offset, "b": "x", "dropped": 1 },
            "source": { "schema": "public", "table": "t", "sequence": "[\"10\",\"20\"]", "lsn": 20, "ts_us": 1, "snapshot": null }
        });
        Record { offset, key: None, value: Some(value.to_string().into()) }
    };
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    let Ok(Outcome::Refresh(Doubt::Shape(name, shape))) = decoder.apply(&mut batch, &event(1), false, 0) else {
        panic!("an unknown field makes the shape doubtful")
    };
    assert_eq!((batch.rows(), batch.events), (0, 0), "the record is not in the batch yet");
    decoder.history.insert((name, shape), 0);
    for offset in [1, 2] {
        assert_eq!(decoder.apply(&mut batch, &event(offset), false, 0), Ok(Outcome::Applied));
    }
    assert_eq!(shown(&batch, &table, "b").len(), 2);
}

fn update(offset: i64, before: serde_json::Value, after: serde_json::Value) -> Record {
    let value = serde_json::json!({
        "op": "u", "before": before, "after": after,
        "source": { "schema": "public", "table": "t", "sequence": "[\"10\",\"20\"]", "lsn": 20, "ts_us": 1, "snapshot": null }
    });
    Record { offset, key: None, value: Some(value.to_string().into()) }
}

#[test]
fn an_inexact_value_is_taken_from_no_other_row() {
    let table = table("t", &[("id", "int8"), ("note", "text"), ("numbers", "int4[]"), ("span", "timetz")]);
    let mut decoder = decoder(&table, 1);
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    let row = |note: &str, numbers: serde_json::Value, span: serde_json::Value| serde_json::json!({ "id": 1, "note": note, "numbers": numbers, "span": span });
    let null = serde_json::Value::Null;
    let exact = row("a", serde_json::json!([1, 2]), null.clone());
    let nested = row("b", serde_json::json!([null, null]), null.clone());
    let with_zone = row("c", serde_json::json!([1, 2]), "07:04:56Z".into());
    for (offset, before, after) in
        [(1, null, exact.clone()), (2, exact.clone(), nested), (3, exact.clone(), with_zone), (4, exact.clone(), exact)]
    {
        assert_eq!(decoder.apply(&mut batch, &update(offset, before, after), true, 0), Ok(Outcome::Applied));
    }
    let entry = &batch.tables[table.name()];
    assert_eq!(entry.block.rows(), 2, "the first and the last are whole");
    // Neither the before-image nor the row before it in the batch gives the value: both rows are read again.
    let deferred: Vec<_> = entry.deferred.iter().map(|row| (row.record.offset, row.before)).collect();
    assert_eq!(deferred, [(2, None), (3, None)]);
}

#[test]
fn a_row_that_is_parked_is_no_reason_to_believe_the_one_before_it() {
    let columns = [("id", "int8"), ("large", "text"), ("at", "timestamp")];
    let row = TableRow { identity: 'd', ..table_row("t", &columns) };
    let table = Arc::new(Table::from_row(row, &Rules::default()).expect("mirrored"));
    let mut decoder = decoder(&table, 1);
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    let unchanged = "__debezium_unavailable_value";
    for (offset, large, at) in [(1, "old", 0), (2, unchanged, 1), (3, "new", i64::MAX), (4, unchanged, 2)] {
        let after = serde_json::json!({ "id": 1, "large": large, "at": at });
        let record = update(offset, serde_json::Value::Null, after);
        assert_eq!(decoder.apply(&mut batch, &record, true, 0), Ok(Outcome::Applied));
    }
    let deferred: Vec<_> =
        batch.tables[table.name()].deferred.iter().map(|row| (row.record.offset, row.before)).collect();
    assert_eq!(batch.letters.len(), 1);
    assert_eq!(deferred, [(2, Some(Newest::Row(0))), (4, None)]);
}
