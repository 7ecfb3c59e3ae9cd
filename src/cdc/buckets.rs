//! Which buckets of the aggregates a batch takes rows out of, or puts rows into. Pure.
//!
//! A row is put into the bucket of its new value, which its batch has. It is taken out of the bucket where it is shown, which the
//! mirror has; for an update whose event brings the row before, that row says it too, unless a row of the table is
//! parked: then the mirror may show an older one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::envelope::RowKind;
use crate::catalog::{Aggregate, Block, Table};
use crate::domain::TableName;

/// The aggregates, by the table that they read.
#[derive(Debug, Default)]
pub(super) struct Buckets(BTreeMap<TableName, Vec<Source>>);

/// What an aggregate needs of its table.
#[derive(Debug)]
struct Source {
    aggregate: String,
    column: String,
}

impl Buckets {
    pub(super) fn new(aggregates: &[Aggregate]) -> Self {
        let mut tables: BTreeMap<TableName, Vec<Source>> = BTreeMap::new();
        for aggregate in aggregates {
            let source = Source { aggregate: aggregate.name.clone(), column: aggregate.bucket_column.clone() };
            tables.entry(aggregate.table.clone()).or_default().push(source);
        }
        Self(tables)
    }

    /// All aggregates, each with its table: those of other pipelines too.
    pub(super) fn all(&self) -> impl Iterator<Item = (&TableName, &str)> {
        self.0.iter().flat_map(|(table, sources)| sources.iter().map(move |source| (table, source.aggregate.as_str())))
    }

    /// The names of the aggregates over a table.
    pub(super) fn names(&self, table: &TableName) -> impl Iterator<Item = &str> {
        self.0.get(table).into_iter().flatten().map(|source| source.aggregate.as_str())
    }

    /// Whether anything is computed from a table.
    pub(super) fn has(&self, table: &TableName) -> bool {
        self.0.contains_key(table)
    }

    /// The aggregates over a table by the place of their bucket's column. An aggregate whose column is not there cannot be built,
    /// whoever tries.
    pub(super) fn of(&self, table: &Table) -> BTreeMap<usize, Vec<&str>> {
        let mut columns: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for source in self.0.get(table.name()).into_iter().flatten() {
            if let Some(column) = table.position(&source.column) {
                columns.entry(column).or_default().push(source.aggregate.as_str());
            }
        }
        columns
    }
}

/// What the events of one table say of the buckets that rows leave.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// By the column's place: first seconds of buckets.
    known: BTreeMap<usize, BTreeSet<i64>>,
    /// Whether the mirror must be asked about every row, not only about those that are deleted.
    unknown: bool,
}

impl Left {
    /// Takes in an event.
    pub(super) fn note(&mut self, buckets: &Buckets, table: &Table, kind: RowKind, before: Option<&RawValue>) {
        match (kind, before) {
            // Nobody has seen the key since its row was deleted. A deleted row's before-image may be made up: the mirror is asked.
            (RowKind::Insert | RowKind::Delete, _) => {}
            (RowKind::Update, Some(before)) => {
                for column in buckets.of(table).into_keys() {
                    let field = table.columns().get(column);
                    match field.and_then(|field| field.bucket_in(before)) {
                        Some(bucket) => self.known.entry(column).or_default().extend(bucket),
                        None => self.unknown = true,
                    }
                }
            }
            (RowKind::Update | RowKind::Snapshot, _) => self.unknown = true,
        }
    }

    /// Every bucket that rows of `block` enter, and those that are known to be left.
    pub(super) fn with_entered(&self, table: &Table, block: &Block, column: usize) -> BTreeSet<i64> {
        let Some(field) = table.columns().get(column) else { return BTreeSet::new() };
        let mut buckets = block.buckets(column, field.codec().pg());
        buckets.extend(self.known.get(&column).into_iter().flatten());
        buckets
    }

    /// The rows of `block` whose place before only the mirror knows.
    pub(super) fn to_ask(&self, block: &Block, parked: bool) -> Vec<usize> {
        let all = self.unknown || parked;
        (0..block.rows()).filter(|row| all || block.is_tombstone(*row)).collect()
    }
}
