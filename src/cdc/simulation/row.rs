//! A row of the model's tables, and the tables.

use std::sync::{Arc, LazyLock};

use super::super::decoder_tests::table_row;
use crate::catalog::{Rules, Table, TableRow};

/// What stands for a large value that did not change.
pub(super) const PLACEHOLDER: &str = "unchanged-3f9a";

/// Tables of the model: the first has REPLICA IDENTITY FULL, the second DEFAULT.
pub(super) static TABLES: LazyLock<[Arc<Table>; 2]> = LazyLock::new(|| {
    let columns = [("id", "int8"), ("note", "text"), ("big", "text"), ("n", "int4"), ("at", "timestamp")];
    let table = |name, identity| {
        let row = TableRow { identity, ..table_row(name, &columns) };
        Arc::new(Table::from_row(row, &Rules::default()).expect("it can be mirrored"))
    };
    [table("whole", 'f'), table("lean", 'd')]
});

/// Whether events of a table carry whole rows.
pub(super) fn is_full(table: usize) -> bool {
    table == 0
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) note: Option<String>,
    /// Stored out of line when it begins with `B`.
    pub(super) big: Option<String>,
    pub(super) n: Option<i32>,
    pub(super) at: Moment,
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Null,
    Epoch,
    /// No ClickHouse type holds it: a row with it is parked.
    Infinity,
}

/// The values of a row in the mirror, but for its key.
pub(super) type Cells = [Option<String>; 4];

impl Row {
    /// Whether the mirror can hold it.
    pub(super) fn is_storable(&self) -> bool {
        self.at != Moment::Infinity
    }

    /// As the view must show it.
    pub(super) fn cells(&self) -> Cells {
        let at = (self.at != Moment::Null).then(|| "1970-01-01 00:00:00".to_owned());
        [self.note.clone(), self.big.clone(), self.n.map(|n| n.to_string()), at]
    }

    /// As an event has it. `unchanged`: the large value is left out when it is out of line.
    pub(super) fn json(&self, unchanged: bool) -> serde_json::Value {
        let large = self.big.as_ref().is_some_and(|big| big.starts_with('B'));
        let big = if unchanged && large { Some(PLACEHOLDER) } else { self.big.as_deref() };
        let at = match self.at {
            Moment::Null => None,
            Moment::Epoch => Some(0),
            Moment::Infinity => Some(i64::MAX),
        };
        serde_json::json!({ "id": self.id, "note": self.note, "big": big, "n": self.n, "at": at })
    }
}
