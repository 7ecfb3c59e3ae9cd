//! Rows of one table on their way into ClickHouse: columns of the table and what the mirror adds to each row.

use serde::de::DeserializeSeed as _;
use serde_json::value::RawValue;

use super::codec::CellError;
use super::column::{Column, Layout, write_length};
use super::json_row::{Placeholder, ReadRow, RowReader, RowState};
use super::{CopyReader, Table};
use crate::domain::Version;

/// What the mirror adds to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowMeta {
    /// The event's place in the log.
    pub version: Version,
    /// Whether the row says that its key is gone.
    pub deleted: bool,
    /// Commit time in PostgreSQL, microseconds since 1970.
    pub committed_at: i64,
    /// Time of writing, microseconds since 1970.
    pub synced_at: i64,
}

/// Why a row is not in the block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The event does not carry a value exactly, and the configuration says to park such rows.
    #[error("column {0}: the log does not carry this value exactly, and tables.{1}.inexact is \"park\"")]
    Inexact(String, String),
    /// A value cannot be stored; the row is to be parked.
    #[error("column {column}: {error}")]
    Cell {
        /// The column's name.
        column: String,
        /// What is wrong with its value.
        error: CellError,
    },
    /// The row is not a JSON object of values.
    #[error("the row cannot be read: {0}")]
    Malformed(String),
}

/// What came with a row that was appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Positions of columns whose value the event does not know: unchanged TOAST, or missing from it.
    pub missing: Vec<usize>,
    /// Positions of columns whose value the event carries in a form that is not exact. Neither a before-image nor an
    /// earlier row can have it: the row must be read again.
    pub inexact: Vec<usize>,
    /// How the event's shape differs from the table's: its fields more, and its columns less. `None`: it does not.
    pub other_shape: Option<String>,
}

/// A block under construction.
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) columns: Vec<Column>,
    versions: Column,
    deleted: Column,
    committed_at: Column,
    synced_at: Column,
    rows: usize,
    /// Whether columns may hold values of a row that is none yet.
    unfinished: bool,
}

/// Names and types of the columns that every mirror table has after the table's own.
pub const META_COLUMNS: [(&str, &str); 4] = [
    ("_version", "UInt128"),
    ("_deleted", "UInt8"),
    ("_committed_at", "DateTime64(6, 'UTC')"),
    ("_synced_at", "DateTime64(6, 'UTC')"),
];

impl Block {
    /// An empty block for rows of `table`.
    pub fn new(table: &Table) -> Self {
        let fixed = |size| Column::scalar(Layout::Fixed(size), false);
        Self {
            columns: table.columns().iter().map(|column| column.codec().new_column()).collect(),
            versions: fixed(16),
            deleted: fixed(1),
            committed_at: fixed(8),
            synced_at: fixed(8),
            rows: 0,
            unfinished: false,
        }
    }

    /// Rows in the block.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes in the block, without the mirror's own columns.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// The primary key of a row, in a form that is equal exactly when the keys are.
    pub fn key(&self, table: &Table, row: usize) -> Vec<u8> {
        let mut key = Vec::new();
        for position in table.key() {
            let value = self.columns.get(*position).and_then(|column| column.get(row)).unwrap_or_default();
            write_length(&mut key, value.len());
            key.extend_from_slice(value);
        }
        key
    }

    /// The primary key of a row as PostgreSQL's texts; `None` when a key column's type has none here.
    pub fn key_texts(&self, table: &Table, row: usize) -> Option<Vec<String>> {
        let text = |position: &usize| {
            let column = table.columns().get(*position)?;
            column.codec().to_text(self.columns.get(*position)?.get(row)?)
        };
        table.key().iter().map(text).collect()
    }

    /// A row's version, and whether it is a tombstone.
    pub fn version_of(&self, row: usize) -> Option<(Version, bool)> {
        let version = u128::from_le_bytes(self.versions.get(row)?.try_into().ok()?);
        Some((Version::from_raw(version), self.deleted.get(row)? == [1]))
    }

    /// A cell as PostgreSQL's text; `None` for NULL and for types that have none here.
    pub fn cell(&self, table: &Table, row: usize, column: &str) -> Option<String> {
        let position = table.position(column)?;
        table.columns().get(position)?.codec().to_text(self.columns.get(position)?.get(row)?)
    }

    /// Appends a row from an event.
    ///
    /// # Errors
    /// The row cannot be stored exactly; the block is as it was.
    pub fn push_json(
        &mut self,
        table: &Table,
        row: &RawValue,
        placeholder: &Placeholder,
        meta: RowMeta,
    ) -> Result<Appended, RowError> {
        let state = self.read_json_lenient(table, row, placeholder)?;
        self.finish_row(table, ReadRow(state), meta)
    }

    /// Reads an event's row where it stands in its message, before it is known whether it belongs here. `finish_row` makes
    /// it a row, `forget_unfinished` takes it back; nothing else may be done in between.
    pub fn reader<'a>(&'a mut self, table: &'a Table, placeholder: &'a Placeholder) -> RowReader<'a> {
        self.unfinished = true;
        RowReader { table, columns: &mut self.columns, placeholder }
    }

    /// Takes back what a `reader` read and nobody finished.
    pub fn forget_unfinished(&mut self) {
        if self.unfinished {
            self.rewind();
        }
    }

    /// Completes what a `reader` read.
    ///
    /// # Errors
    /// The row cannot be stored exactly; the block is as it was.
    pub fn finish_row(&mut self, table: &Table, row: ReadRow, meta: RowMeta) -> Result<Appended, RowError> {
        let RowState { seen, unavailable: mut missing, mut inexact, unknown, error } = row.0;
        if let Some((position, error)) = error {
            self.rewind();
            return Err(row_error(table, position, error));
        }
        let mut absent = Vec::new();
        for (position, ((column, field), seen)) in self.columns.iter_mut().zip(table.columns()).zip(&seen).enumerate() {
            if *seen {
                continue;
            }
            column.push_default();
            // A generated column is in no event; that is no other shape.
            if field.codec().is_never_exact() {
                inexact.push(position);
            } else {
                missing.push(position);
                absent.push(position);
            }
        }
        self.push_meta(meta);
        let differs = !absent.is_empty() || !unknown.is_empty();
        Ok(Appended { missing, inexact, other_shape: differs.then(|| format!("{unknown:?} {absent:?}")) })
    }

    /// Appends a tombstone: the key out of `row`, which may hold made-up values elsewhere.
    ///
    /// # Errors
    /// A key column is missing or cannot be stored; the block is as it was.
    pub fn push_tombstone(
        &mut self,
        table: &Table,
        row: &RawValue,
        placeholder: &Placeholder,
        meta: RowMeta,
    ) -> Result<(), RowError> {
        let state = self.read_json_lenient(table, row, placeholder)?;
        let broken = state.error.filter(|(position, _)| table.key().contains(position));
        let rows = self.rows;
        let is_there = |position: usize| self.columns.get(position).is_some_and(|column| column.rows() == rows + 1);
        let missing = table.key().iter().find(|at| state.seen.get(**at) != Some(&true) || !is_there(**at));
        if let Some((position, error)) =
            broken.or_else(|| missing.map(|at| (*at, CellError::Malformed("a key column in the event"))))
        {
            self.rewind();
            return Err(row_error(table, position, error));
        }
        for (position, column) in self.columns.iter_mut().enumerate() {
            if !table.key().contains(&position) {
                column.truncate(rows);
                column.push_default();
            }
        }
        self.push_meta(RowMeta { deleted: true, ..meta });
        Ok(())
    }

    /// Appends a tombstone for the key of a tuple whose other cells may be of any form: for a row that cannot be stored.
    ///
    /// # Errors
    /// A key column cannot be stored; the block is as it was.
    pub fn push_key_cells<'a>(
        &mut self,
        table: &Table,
        mut cells: impl Iterator<Item = Option<&'a [u8]>>,
        meta: RowMeta,
    ) -> Result<(), RowError> {
        for (position, (field, column)) in table.columns().iter().zip(&mut self.columns).enumerate() {
            let cell = cells.next().flatten();
            if !table.key().contains(&position) {
                column.push_default();
            } else if let Err(error) = field.codec().push_binary(column, cell) {
                self.rewind();
                return Err(row_error(table, position, error));
            }
        }
        self.push_meta(RowMeta { deleted: true, ..meta });
        Ok(())
    }

    /// Appends a tombstone for the key of row `at` of `row`, a block of the same table.
    pub fn push_key_of(&mut self, table: &Table, row: &Self, at: usize, meta: RowMeta) {
        for (position, (column, from)) in self.columns.iter_mut().zip(&row.columns).enumerate() {
            let copied = table.key().contains(&position).then(|| column.push_from(from, at)).flatten();
            if copied.is_none() {
                column.push_default();
            }
        }
        self.push_meta(RowMeta { deleted: true, ..meta });
    }

    /// Appends a tuple of a binary COPY, or of a query with the same select list.
    ///
    /// # Errors
    /// The row cannot be stored exactly; the block is as it was.
    pub fn push_tuple(&mut self, table: &Table, tuple: &[u8], meta: RowMeta) -> Result<(), RowError> {
        self.push_cells(table, CopyReader::cells(tuple), meta)
    }

    /// As `push_tuple`, cell by cell in the order of the table's columns.
    ///
    /// # Errors
    /// The row cannot be stored exactly; the block is as it was.
    pub fn push_cells<'a>(
        &mut self,
        table: &Table,
        mut cells: impl Iterator<Item = Option<&'a [u8]>>,
        meta: RowMeta,
    ) -> Result<(), RowError> {
        for (position, (field, column)) in table.columns().iter().zip(&mut self.columns).enumerate() {
            let cell = cells.next().ok_or(CellError::Malformed("as many values as columns"));
            if let Err(error) = cell.and_then(|cell| field.codec().push_binary(column, cell)) {
                self.rewind();
                return Err(row_error(table, position, error));
            }
        }
        self.push_meta(meta);
        Ok(())
    }

    /// Appends a row (block and place), with `replaced` columns taken from the row `donor`.
    pub fn push_merged(
        &mut self,
        row: (&Self, usize),
        replaced: &[usize],
        donor: (&Self, usize),
        meta: RowMeta,
    ) -> Option<()> {
        for (position, column) in self.columns.iter_mut().enumerate() {
            let (source, index) = if replaced.contains(&position) { donor } else { row };
            let copied = source.columns.get(position).and_then(|from| column.push_from(from, index));
            if copied.is_none() {
                self.rewind();
                return None;
            }
        }
        self.push_meta(meta);
        Some(())
    }

    /// Appends row `at` of `other`, a block of the same table, under another `meta`.
    pub fn push_row_of(&mut self, other: &Self, at: usize, meta: RowMeta) -> Option<()> {
        let rows = self.rows;
        for (to, from) in self.columns.iter_mut().zip(&other.columns) {
            if to.push_from(from, at).is_none() {
                self.columns.iter_mut().for_each(|column| column.truncate(rows));
                return None;
            }
        }
        self.push_meta(meta);
        Some(())
    }

    /// Moves the newest row to the end of `other`, a block of the same table.
    pub fn move_last_to(&mut self, other: &mut Self) {
        let Some(last) = self.rows.checked_sub(1) else { return };
        let own = self.columns.iter().chain(self.meta());
        for (to, from) in other.all_mut().zip(own) {
            // Both have the same columns, and the row is there.
            let _ = to.push_from(from, last);
        }
        other.rows += 1;
        self.truncate(last);
    }

    /// Keeps the first `rows` rows.
    pub fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        self.all_mut().for_each(|column| column.truncate(rows));
    }

    /// Appends the block in ClickHouse's `Native` format, with the mirror's own columns last.
    pub fn write_native(&self, table: &Table, out: &mut Vec<u8>) {
        out.reserve(self.bytes() + self.rows * 33 + 64 * self.columns.len());
        write_length(out, self.columns.len() + META_COLUMNS.len());
        write_length(out, self.rows);
        let own = table.columns().iter().map(|column| (column.name().to_owned(), column.codec().native_type()));
        let meta = META_COLUMNS.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()));
        for ((name, kind), column) in own.chain(meta).zip(self.columns.iter().chain(self.meta())) {
            for text in [name, kind] {
                write_length(out, text.len());
                out.extend_from_slice(text.as_bytes());
            }
            column.write_native(out);
        }
    }

    fn read_json_lenient(
        &mut self,
        table: &Table,
        row: &RawValue,
        placeholder: &Placeholder,
    ) -> Result<RowState, RowError> {
        let mut deserializer = serde_json::Deserializer::from_str(row.get());
        match self.reader(table, placeholder).deserialize(&mut deserializer) {
            Ok(row) => Ok(row.0),
            Err(error) => {
                self.rewind();
                // The position is enough to find it in the parked message; serde's text could quote a value.
                Err(RowError::Malformed(format!("line {} column {}", error.line(), error.column())))
            }
        }
    }

    pub(super) fn rewind(&mut self) {
        self.unfinished = false;
        let rows = self.rows;
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    pub(super) fn push_meta(&mut self, meta: RowMeta) {
        self.versions.push(&meta.version.get().to_le_bytes());
        self.deleted.push(&[u8::from(meta.deleted)]);
        self.committed_at.push(&meta.committed_at.to_le_bytes());
        self.synced_at.push(&meta.synced_at.to_le_bytes());
        self.rows += 1;
        self.unfinished = false;
    }

    fn meta(&self) -> [&Column; 4] {
        [&self.versions, &self.deleted, &self.committed_at, &self.synced_at]
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Column> {
        let meta = [&mut self.versions, &mut self.deleted, &mut self.committed_at, &mut self.synced_at];
        self.columns.iter_mut().chain(meta)
    }
}

fn row_error(table: &Table, position: usize, error: CellError) -> RowError {
    let column = table.columns().get(position).map_or_else(String::new, |column| column.name().to_owned());
    RowError::Cell { column, error }
}
