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

/// A column of a table, and the aggregates whose buckets are those of its values.
#[derive(Debug)]
struct Source {
    column: String,
    aggregates: Vec<String>,
}

impl Buckets {
    pub(super) fn new(aggregates: &[Aggregate]) -> Self {
        let mut tables: BTreeMap<TableName, Vec<Source>> = BTreeMap::new();
        for aggregate in aggregates {
            let sources = tables.entry(aggregate.table.clone()).or_default();
            match sources.iter_mut().find(|source| source.column == aggregate.bucket_column) {
                Some(source) => source.aggregates.push(aggregate.name.clone()),
                None => sources
                    .push(Source { column: aggregate.bucket_column.clone(), aggregates: vec![aggregate.name.clone()] }),
            }
        }
        Self(tables)
    }

    /// All aggregates, each with its table: those of other pipelines too.
    pub(super) fn all(&self) -> impl Iterator<Item = (&TableName, &str)> {
        self.0.keys().flat_map(|table| self.names(table).map(move |aggregate| (table, aggregate)))
    }

    /// The names of the aggregates over a table.
    pub(super) fn names(&self, table: &TableName) -> impl Iterator<Item = &str> {
        self.0.get(table).into_iter().flatten().flat_map(|source| source.aggregates.iter().map(String::as_str))
    }

    /// Whether anything is computed from a table.
    pub(super) fn has(&self, table: &TableName) -> bool {
        self.0.contains_key(table)
    }

    /// The aggregates over a table, those of a column together, with its place. Aggregates whose column is not there cannot be built,
    /// whoever tries.
    pub(super) fn of<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a [String], usize)> {
        let sources = self.0.get(table.name()).into_iter().flatten();
        sources.filter_map(|source| Some((source.aggregates.as_slice(), table.position(&source.column)?)))
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
                for (_, column) in buckets.of(table) {
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
