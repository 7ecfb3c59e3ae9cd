//! A model of the connector and its topic: messages as Debezium writes them, in the order of the log, in runs that may
//! come twice.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::database::{Change, Database, Kind, Logged};
use super::faults::Rng;
use super::row::{TABLES, is_full};
use crate::store::kafka::Record;
use crate::store::replication::LOAD_PREFIX;

/// What the mirror must have once a record is applied: table, key, version. A TRUNCATE has no key.
pub(super) type Effect = (usize, Option<i64>, u128);

/// The topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    pub(super) records: Vec<Record>,
    /// What each record does.
    pub(super) effects: Vec<Option<Effect>>,
    stream: Vec<(String, Option<Effect>)>,
    taken: usize,
    sent: usize,
}

impl Topic {
    /// The offset of the next record.
    pub(super) fn end(&self) -> i64 {
        i64::try_from(self.records.len()).expect("few")
    }

    /// Whether the topic holds everything that the log does.
    pub(super) fn is_complete(&self, database: &Database) -> bool {
        self.taken == database.log.len() && self.sent == self.stream.len()
    }

    /// The connector sends some messages. A transaction that others do not see yet waits, and what follows it too.
    pub(super) fn send(&mut self, database: &Database, count: usize) {
        while self.stream.len() < self.sent + count
            && let Some(logged) = database.log.get(self.taken)
            && !database.running().contains(&logged.xid)
        {
            let messages = logged.changes.iter().map(|change| (message(logged, change), effect(logged, change)));
            self.stream.extend(messages);
            self.taken += 1;
        }
        for _ in 0..count {
            let Some((text, effect)) = self.stream.get(self.sent).cloned() else { break };
            self.push(text, effect);
            self.sent += 1;
        }
    }

    /// The connector is killed and sends again what it had not noted as sent.
    pub(super) fn send_again(&mut self, rng: &mut Rng) {
        self.sent -= rng.random_range(0..=self.sent.min(30));
    }

    /// Rows of a snapshot of the connector's own: older than anything, whatever their position says.
    pub(super) fn send_snapshot(&mut self, database: &Database, table: usize) {
        let lsn = database.insert_lsn();
        for row in database.visible[table].values() {
            let mut source = source(TABLES[table].name().table(), None, lsn, 1);
            source["snapshot"] = "true".into();
            let value = json!({ "before": null, "after": row.json(false), "source": source, "op": "r", "ts_ms": 1 });
            self.push(value.to_string(), None);
        }
    }

    fn push(&mut self, text: String, effect: Option<Effect>) {
        let record = Record { offset: self.end(), key: None, value: Some(text.into()) };
        self.records.push(record);
        self.effects.push(effect);
    }
}

/// As the documentation of versions says, not as the program computes it.
fn version(logged: &Logged, lsn: u64) -> u128 {
    (1 << 112) | (u128::from(logged.last_commit.unwrap_or(0)) << 56) | u128::from(lsn)
}

fn effect(logged: &Logged, change: &Change) -> Option<Effect> {
    let version = version(logged, change.lsn);
    match &change.kind {
        Kind::Upsert(table, _, row, _) | Kind::Delete(table, row) => Some((*table, Some(row.id), version)),
        Kind::Truncate(table) => Some((*table, None, version)),
        Kind::Beat(_) | Kind::Marker => None,
    }
}

fn source(table: &str, last_commit: Option<u64>, lsn: u64, xid: u64) -> Value {
    let sequence = json!([last_commit.map(|commit| commit.to_string()), lsn.to_string()]).to_string();
    json!({
        "version": "3.7.0.Final", "connector": "postgresql", "name": "platform", "ts_ms": 1, "snapshot": null,
        "db": "platform", "sequence": sequence, "ts_us": 1000 + lsn, "schema": "public", "table": table, "txId": xid,
        "lsn": lsn, "xmin": null
    })
}

fn message(logged: &Logged, change: &Change) -> String {
    let of = |table: &str| source(table, logged.last_commit, change.lsn, logged.xid);
    let row = |table: usize, op: &str, before: Value, after: Value| json!({ "before": before, "after": after, "source": of(TABLES[table].name().table()), "op": op, "ts_ms": 1 });
    let value = match &change.kind {
        Kind::Upsert(table, before, after, large) => {
            let op = if before.is_some() { "u" } else { "c" };
            let image = before.as_ref().filter(|_| is_full(*table)).map(|before| before.json(false));
            // Under FULL a value that did not change may stand in the row before only.
            let left_out = !large && (!is_full(*table) || (image.is_some() && change.lsn.is_multiple_of(3)));
            row(*table, op, image.unwrap_or(Value::Null), after.json(left_out))
        }
        Kind::Delete(table, before) if is_full(*table) => row(*table, "d", before.json(false), Value::Null),
        Kind::Delete(table, before) => {
            // Only the key is true.
            let made_up = json!({ "id": before.id, "note": "", "big": "", "n": 0, "at": 0 });
            row(*table, "d", made_up, Value::Null)
        }
        Kind::Truncate(table) => json!({ "source": of(TABLES[*table].name().table()), "op": "t", "ts_ms": 1 }),
        Kind::Beat(counter) => {
            let mut source = of("heartbeat");
            source["schema"] = "platform".into();
            let after = json!({ "id": 1, "counter": counter, "system_identifier": "1", "timeline": 1 });
            json!({ "before": null, "after": after, "source": source, "op": "u", "ts_ms": 1 })
        }
        Kind::Marker => json!({
            "source": of(""), "op": "m", "ts_ms": 1, "message": { "prefix": LOAD_PREFIX, "content": "" }
        }),
    };
    value.to_string()
}
