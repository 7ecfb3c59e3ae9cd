//! Rows in ClickHouse's `RowBinary`: the form in which both databases' rows are compared, because ClickHouse can make it of
//! its rows (`formatRow`) and a `Block` of PostgreSQL's, for every type, byte by byte.

use super::column::take_string;
use super::{Block, RowMeta, Table, TableColumn};
use crate::domain::quote_clickhouse;

impl Block {
    /// Appends a row's own columns to `out`, in the table's order.
    pub fn write_row(&self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        self.columns.iter().try_for_each(|column| column.write_row_binary(row, out))
    }

    /// Appends a row's primary key to `out`, in the key's order.
    pub fn write_key(&self, table: &Table, row: usize, out: &mut Vec<u8>) -> Option<()> {
        table.key().iter().try_for_each(|at| self.columns.get(*at)?.write_row_binary(row, out))
    }

    /// Appends a tombstone for a key in the form of `write_key`; `None` when it has another form, and the block is as it was.
    pub fn push_key(&mut self, table: &Table, mut key: &[u8], meta: RowMeta) -> Option<()> {
        let read = table.key().iter().try_for_each(|at| self.columns.get_mut(*at)?.push_row_binary(&mut key));
        if read.is_none() || !key.is_empty() {
            self.rewind();
            return None;
        }
        for (at, column) in self.columns.iter_mut().enumerate() {
            if !table.key().contains(&at) {
                column.push_default();
            }
        }
        self.push_meta(RowMeta { deleted: true, ..meta });
        Some(())
    }
}

/// ClickHouse's expression for what `Block::write_row` writes.
pub fn row_expression(table: &Table) -> String {
    format_row(table.columns().iter())
}

/// ClickHouse's expression for what `Block::write_key` writes.
pub fn key_expression(table: &Table) -> String {
    format_row(table.key_columns())
}

/// Takes a String of `RowBinary` off the front.
pub fn take_bytes<'a>(rows: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_string(rows)
}

fn format_row<'a>(columns: impl Iterator<Item = &'a TableColumn>) -> String {
    let names: Vec<String> = columns.map(|column| quote_clickhouse(column.name())).collect();
    format!("formatRow('RowBinary', {})", names.join(", "))
}
