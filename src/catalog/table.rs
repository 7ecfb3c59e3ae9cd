//! A table's shape in PostgreSQL.

use std::collections::HashMap;

use super::{Codec, META_COLUMNS, PgType, Relation, TypeRow};
use crate::domain::TableName;

/// What the log carries of a row's previous version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// REPLICA IDENTITY DEFAULT: the primary key.
    Default,
    /// REPLICA IDENTITY FULL: every column.
    Full,
}

/// Why a table cannot be mirrored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The identity is NOTHING or an index.
    #[error("its replica identity is neither DEFAULT nor FULL; run: alter table {0} replica identity default")]
    Identity(String),
    /// There is no primary key, or it can be deferred.
    #[error("it needs a primary key that is not deferrable")]
    PrimaryKey,
    /// It is no plain table.
    #[error("it is partitioned or otherwise not a plain table")]
    Kind,
    /// A column's type is not mirrored.
    #[error(
        "the type {1} of its column {0} is not supported yet; take the table out of the publication, or change the column's type"
    )]
    Type(String, String),
    /// A column has a name that the mirror needs itself.
    #[error("its column {0} has a name that the mirror needs itself; rename the column")]
    Reserved(String),
    /// A type whose unchanged values cannot be recognised under DEFAULT.
    #[error(
        "its column {0} can leave unchanged values out of the log in a form that cannot be recognised; run: alter table {1} replica identity full"
    )]
    NeedsFull(String, String),
}

/// A column, in the order of `attnum`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    attnum: i16,
    name: String,
    codec: Codec,
    type_text: String,
    key_position: Option<usize>,
    missing_value: Option<String>,
}

impl TableColumn {
    /// Its number, which stays the same when it is renamed.
    pub fn attnum(&self) -> i16 {
        self.attnum
    }

    /// What rows hold in it that are older than the column, as PostgreSQL's text: the constant default that it was added
    /// with. `None`: NULL, or there are no such rows.
    pub fn missing_value(&self) -> Option<&str> {
        self.missing_value.as_deref()
    }

    /// Whether it is part of the primary key.
    pub fn is_key(&self) -> bool {
        self.key_position.is_some()
    }

    /// Its type as PostgreSQL prints it.
    pub fn type_text(&self) -> &str {
        &self.type_text
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its values are stored.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }
}

/// A table that can be mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    name: TableName,
    relation: Relation,
    identity: Identity,
    columns: Vec<TableColumn>,
    key: Vec<usize>,
    positions: HashMap<String, usize>,
}

/// A table as PostgreSQL's catalog describes it.
#[derive(Debug, Clone)]
pub struct TableRow {
    /// Schema and name.
    pub name: TableName,
    /// Which incarnation of the table it is.
    pub relation: Relation,
    /// `pg_class.relkind`.
    pub kind: char,
    /// `pg_class.relreplident`.
    pub identity: char,
    /// Columns in order of `attnum`: name, NOT NULL, position in the primary key, type.
    pub columns: Vec<ColumnRow>,
}

/// A column as the catalog describes it.
#[derive(Debug, Clone)]
pub struct ColumnRow {
    /// `attnum`.
    pub attnum: i16,
    /// `attmissingval`: what rows hold in it that are older than the column; `None` is NULL.
    pub missing_value: Option<String>,
    /// `attname`.
    pub name: String,
    /// `attnotnull`.
    pub not_null: bool,
    /// Position in the primary key, from 0.
    pub key_position: Option<usize>,
    /// Type, as `format_type` prints it, for messages.
    pub type_text: String,
    /// Type.
    pub type_row: TypeRow,
}

impl Table {
    /// Judges a catalog row.
    ///
    /// # Errors
    /// The first reason why the table cannot be mirrored.
    pub fn from_row(row: TableRow) -> Result<Self, Refusal> {
        if row.kind != 'r' {
            return Err(Refusal::Kind);
        }
        let identity = match row.identity {
            'd' => Identity::Default,
            'f' => Identity::Full,
            _ => return Err(Refusal::Identity(row.name.quoted_postgres())),
        };
        let mut columns = Vec::with_capacity(row.columns.len());
        for column in row.columns {
            let Some(pg) = PgType::from_row(&column.type_row) else {
                return Err(Refusal::Type(column.name, column.type_text));
            };
            if identity == Identity::Default && pg.may_be_toasted() && !pg.placeholder_is_recognised() {
                return Err(Refusal::NeedsFull(column.name, row.name.quoted_postgres()));
            }
            let nullable = !column.not_null;
            let codec = Codec::new(pg, nullable);
            let ColumnRow { attnum, name, type_text, key_position, missing_value, .. } = column;
            if META_COLUMNS.iter().any(|(own, _)| *own == name) {
                return Err(Refusal::Reserved(name));
            }
            columns.push(TableColumn { attnum, name, codec, type_text, key_position, missing_value });
        }
        let mut key: Vec<usize> = (0..columns.len())
            .filter(|at| columns.get(*at).is_some_and(|column| column.key_position.is_some()))
            .collect();
        key.sort_by_key(|at| columns.get(*at).and_then(|column| column.key_position));
        if key.is_empty() {
            return Err(Refusal::PrimaryKey);
        }
        let positions = columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        Ok(Self { name: row.name, relation: row.relation, identity, columns, key, positions })
    }

    /// Schema and name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The table's OID: another one under the same name is another table.
    pub fn oid(&self) -> u32 {
        self.relation.oid
    }

    /// Which incarnation of the table it is.
    pub fn relation(&self) -> &Relation {
        &self.relation
    }

    /// Attribute numbers of the primary key, in the key's order.
    pub fn key_attnums(&self) -> Vec<i16> {
        self.key_columns().map(TableColumn::attnum).collect()
    }

    /// Lets the column at `position` be NULL, because its mirror can: an event from before `SET NOT NULL` may still bring one.
    pub fn relax(&mut self, position: usize) {
        if let Some(column) = self.columns.get_mut(position) {
            column.codec = column.codec.nullable();
        }
    }

    /// What the log carries of previous versions.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its columns, in order of `attnum`.
    pub fn columns(&self) -> &[TableColumn] {
        &self.columns
    }

    /// Positions of the primary key's columns, in the key's order.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// The primary key's columns, in the key's order.
    pub fn key_columns(&self) -> impl Iterator<Item = &TableColumn> {
        self.key.iter().filter_map(|at| self.columns.get(*at))
    }

    /// Whether an event of this table can lack values that did not change.
    pub fn may_lack_values(&self) -> bool {
        self.identity == Identity::Default && self.columns.iter().any(|column| column.codec.pg().may_be_toasted())
    }

    /// Whether rows whose event does not carry every value exactly are parked instead of read again.
    pub fn parks_inexact(&self) -> bool {
        false
    }

    /// Position of a column by its name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// The columns of `alias` as a SELECT list for PostgreSQL, each in the form that its codec reads.
    pub fn select_list(&self, alias: &str) -> String {
        let column = |column: &TableColumn| {
            let name = format!("{alias}.{}", crate::domain::quote_postgres(&column.name));
            if column.codec.pg().is_read_as_text() { format!("{name}::text") } else { name }
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }
}
