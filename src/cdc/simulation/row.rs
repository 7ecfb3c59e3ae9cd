//! A row of the model's tables, and the tables.

use std::sync::{Arc, LazyLock};

use super::super::decoder_tests::table_row;
use crate::catalog::{Aggregate, Rules, Table, TableRow};

/// What stands for a large value that did not change.
pub(super) const PLACEHOLDER: &str = "unchanged-3f9a";

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;
/// Days that rows are of.
pub(super) const DAYS: u8 = 3;

/// An aggregate over each table, by the day of `at`.
pub(super) static AGGREGATES: LazyLock<[Aggregate; 2]> = LazyLock::new(|| {
    let text = |table| {
        format!(
            "-- summary: rows\n-- table: {table}\n-- bucket: day(at)\n-- keys: n\n\nselect n, count() as c from {{source}} group by n"
        )
    };
    ["whole", "lean"].map(|table| Aggregate::parse(&format!("of_{table}"), &text(table)).expect("an aggregate"))
});

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
    /// Midday of the day with this number, counted from 1970-01-01.
    Day(u8),
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
        let at = match self.at {
            Moment::Day(day) => Some(format!("1970-01-{:02} 12:00:00", day + 1)),
            Moment::Null | Moment::Infinity => None,
        };
        [self.note.clone(), self.big.clone(), self.n.map(|n| n.to_string()), at]
    }

    /// As an event has it. `unchanged`: the large value is left out when it is out of line.
    pub(super) fn json(&self, unchanged: bool) -> serde_json::Value {
        let large = self.big.as_ref().is_some_and(|big| big.starts_with('B'));
        let big = if unchanged && large { Some(PLACEHOLDER) } else { self.big.as_deref() };
        let at = match self.at {
            Moment::Null => None,
            Moment::Day(day) => Some(i64::from(day) * DAY_US + DAY_US / 2),
            Moment::Infinity => Some(i64::MAX),
        };
        serde_json::json!({ "id": self.id, "note": self.note, "big": big, "n": self.n, "at": at })
    }
}
