//! The decoder on captured messages of a table that was altered while it was written to.

use std::sync::Arc;

use super::batch::Batch;
use super::decoder::{Decoder, Doubt, Known, Outcome};
use super::decoder_tests::{decoder, records, table};
use crate::catalog::Table;
use crate::domain::{Lsn, TableName, Version};
use crate::store::kafka::Record;

const BURST: &str = include_str!("../../tests/data/debezium/schema_changes.jsonl");
const SLOW: &str = include_str!("../../tests/data/debezium/schema_changes_slow.jsonl");

/// As the catalog describes the table after the last change.
fn last_shape() -> Arc<Table> {
    table("ddl_t", &[("id", "int4"), ("a_renamed", "text"), ("b", "text"), ("d", "int4"), ("f", "timestamptz")])
}

/// The first event after `b` became a text, which made a load necessary.
fn first_with_text(records: &[Record]) -> (usize, Version) {
    let at = records
        .iter()
        .position(|record| value(record).is_some_and(|value| value["after"]["b"] == "txt"))
        .expect("there");
    let value = value(&records[at]).expect("a row");
    let sequence: (String, String) =
        serde_json::from_str(value["source"]["sequence"].as_str().expect("a sequence")).expect("two positions");
    let lsn = |text: &str| Lsn::new(text.parse().expect("a position"));
    (at, Version::new(1, lsn(&sequence.0), lsn(&sequence.1)).expect("fits"))
}

fn value(record: &Record) -> Option<serde_json::Value> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

/// Applies all, with an answer to every doubt; returns the batch and how often the catalog was asked.
fn apply(decoder: &mut Decoder, records: &[Record]) -> (Batch, usize) {
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    let mut asked = 0;
    for record in records {
        match decoder.apply(&mut batch, record, false, 0).expect("no reason to halt") {
            Outcome::Applied => continue,
            Outcome::Refresh(Doubt::Table(table)) => drop(decoder.tables.insert(table, Known::Skipped)),
            Outcome::Refresh(Doubt::Shape(table, shape)) => drop(decoder.history.insert((table, shape), 0)),
            Outcome::Refresh(Doubt::Load) => {}
        }
        asked += 1;
        assert_eq!(decoder.apply(&mut batch, record, true, 0), Ok(Outcome::Applied), "offset {}", record.offset);
    }
    (batch, asked)
}

#[test]
fn events_of_every_older_shape_are_told_from_those_of_the_last() {
    for file in [BURST, SLOW] {
        let (records, table) = (records(file), last_shape());
        let (first, floor) = first_with_text(&records);
        let mut decoder = decoder(&table, u64::MAX);
        decoder.tables.insert(table.name().clone(), Known::Mirrored(Arc::clone(&table), floor));
        let (batch, asked) = apply(&mut decoder, &records);
        assert!(batch.letters.is_empty(), "{:?}", batch.letters);
        let entry = &batch.tables[table.name()];
        let events: Vec<serde_json::Value> = records[first..]
            .iter()
            .filter_map(value)
            .filter(|value| value["source"]["table"] == "ddl_t" && ["c", "u", "d"].iter().any(|op| value["op"] == *op))
            .collect();
        let lacks = |value: &&serde_json::Value| value["op"] != "d" && value["after"].get("f").is_none();
        assert_eq!(entry.deferred.len(), events.iter().filter(lacks).count(), "a column that is missing is read again");
        assert_eq!(entry.block.rows() + entry.deferred.len(), events.len(), "and nothing else is left out");
        assert!(asked < records.len() / 3, "asked {asked} times");
        // Keys of messages are null while the connector lags; rows have them.
        let mut whole = events.iter().filter(|value| !lacks(value));
        for row in 0..entry.block.rows() {
            let event = whole.next().expect("an event");
            let image = if event["op"] == "d" { &event["before"] } else { &event["after"] };
            assert_eq!(entry.block.cell(&table, row, "id"), Some(image["id"].to_string()));
            let text = (event["op"] != "d").then(|| image["a_renamed"].as_str().map(str::to_owned)).flatten();
            assert_eq!(entry.block.cell(&table, row, "a_renamed"), text);
        }
    }
}

#[test]
fn a_value_of_another_type_is_a_doubt_first_and_parked_only_then() {
    let (records, table) = (records(SLOW), last_shape());
    let (first, _) = first_with_text(&records);
    // An integer where the catalog has a text: below no floor, so it is an event that nothing explains.
    let before =
        records[..first].iter().rfind(|record| value(record).is_some_and(|value| value["after"]["b"].is_number()));
    let record = before.expect("an older event");
    let mut decoder = decoder(&table, u64::MAX);
    let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
    let asked = decoder.apply(&mut batch, record, false, 0);
    assert!(
        matches!(&asked, Ok(Outcome::Refresh(Doubt::Shape(name, _))) if *name == TableName::new("public", "ddl_t"))
    );
    assert_eq!(decoder.apply(&mut batch, record, true, 0), Ok(Outcome::Applied));
    assert_eq!(batch.letters.len(), 1);
    let Ok(Outcome::Refresh(Doubt::Shape(name, shape))) = asked else { panic!("a doubt") };
    decoder.history.insert((name, shape), 0);
    assert_eq!(decoder.apply(&mut batch, record, false, 500_000), Ok(Outcome::Applied), "answered half a second ago");
    assert!(matches!(decoder.apply(&mut batch, record, false, 2_000_000), Ok(Outcome::Refresh(_))), "asked again");
}
