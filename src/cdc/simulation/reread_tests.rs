//! What the simulation has found in rows that are read again.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use serde_json::json;

use super::database::Database;
use super::faults::{Faults, Rng};
use super::load;
use super::row::{Moment, PLACEHOLDER, Row};
use super::sink::Sink;
use super::topic::Topic;
use super::warehouse::{Effect, Warehouse};
use super::world::{Shared, World};
use crate::store::kafka::Record;

/// A sink on two updates of key 1 that lack the large value, while PostgreSQL holds `row`.
fn written(row: Option<Row>) -> Shared {
    let mut rng = Rng::seed_from_u64(0);
    let mut faults = Faults::draw(&mut rng);
    faults.heal();
    let mut database = Database::default();
    database.visible[1] = row.into_iter().map(|row| (row.id, row)).collect();
    let update = |offset: i64| {
        let after = json!({ "id": 1, "note": format!("at {offset}"), "big": PLACEHOLDER, "n": null, "at": null });
        let source = json!({
            "schema": "public", "table": "lean", "sequence": format!("[\"10\",\"{}\"]", 20 + offset),
            "lsn": 20 + offset, "ts_us": 1, "snapshot": null
        });
        let value = json!({ "op": "u", "before": null, "after": after, "source": source }).to_string();
        Record { offset, key: None, value: Some(value.into()) }
    };
    let mut topic = Topic::default();
    (topic.records, topic.effects) = (vec![update(0), update(1)], vec![None, None]);
    let mut warehouse = Warehouse::default();
    warehouse.apply(Effect::Checkpoint(load::at(1, 0, 0)));
    let shared = Shared::new(World { database, topic, warehouse, faults, rng, bug: None, first_load: 1, wrong: None });
    let mut sink = Sink::start(&shared).expect("there is a checkpoint");
    sink.decode(2);
    sink.seal();
    for _ in 0..100 {
        sink.write();
    }
    assert!(sink.is_done());
    shared
}

#[test]
fn a_row_that_was_read_again_lends_no_values_to_the_event_after_it() {
    let newer = Row { id: 1, note: Some("newer".into()), big: Some("Bnewer".into()), n: Some(7), at: Moment::Day(0) };
    let shared = written(Some(newer.clone()));
    assert_eq!(shared.world().warehouse.shown(1), BTreeMap::from([(1, &newer.cells())]));
}

#[test]
fn a_row_that_is_gone_by_then_is_not_made_up_again() {
    let shared = written(None);
    assert!(shared.world().warehouse.shown(1).is_empty());
    assert_eq!(shared.world().warehouse.rows[1].len(), 1, "a tombstone");
}
