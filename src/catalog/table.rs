//! A table's shape in PostgreSQL.

use std::collections::HashMap;

use super::mapping::{how_read, overridden};
use super::{Codec, Inexact, META_COLUMNS, MappingError, PgType, Relation, Rules, TypeRow};
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
    /// A key column's values may differ from what the log says, so that its rows cannot be found.
    #[error(
        "the log does not carry values of the type {1} of its primary key column {0} exactly; give it a primary key of other columns, or take it out of the publication"
    )]
    Key(String, String),
    /// The configuration asks for a type that a column cannot have. No reason to go on without the table.
    #[error("tables.{0}.columns.{1}: {2}")]
    Mapping(String, String, Box<MappingError>),
    /// The publication has a row filter for it: rows that pass in and out of it would be no changes that the log tells.
    #[error("its rows are filtered by the publication; add it to the publication without WHERE")]
    Filtered,
    /// A column has a name that the mirror needs itself.
    #[error("its column {0} has a name that the mirror needs itself; rename the column")]
    Reserved(String),
}

/// A column, in the order of `attnum`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    attnum: i16,
    xmin: String,
    name: String,
    not_null: bool,
    codec: Codec,
    type_text: String,
    key_position: Option<usize>,
    missing_value: Option<String>,
    overridden: bool,
}

impl TableColumn {
    /// Whether the configuration names its ClickHouse type.
    pub fn is_overridden(&self) -> bool {
        self.overridden
    }

    /// How its values come into the mirror, for people.
    pub fn how_read(&self) -> &'static str {
        how_read(&self.codec)
    }

    /// `text`, an SQL expression with a key's text, as a value of the column's type.
    pub fn from_text(&self, text: &str) -> String {
        match self.codec.pg() {
            // Not every money can be read from a plain number's text.
            PgType::Money => format!("{text}::numeric::money"),
            _ => format!("{text}::{}", self.type_text),
        }
    }

    /// Its number, which stays the same when it is renamed.
    pub fn attnum(&self) -> i16 {
        self.attnum
    }

    /// The transaction that changed it last.
    pub fn xmin(&self) -> &str {
        &self.xmin
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

    /// Whether PostgreSQL refuses NULL in it.
    pub fn is_not_null(&self) -> bool {
        self.not_null
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
    inexact: Inexact,
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
    /// Whether the publication has only some of its rows.
    pub filtered: bool,
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
    /// `pg_attribute.xmin`: the transaction that changed the column last.
    pub xmin: String,
    /// `attmissingval`: what rows hold in it that are older than the column; `None` is NULL.
    pub missing_value: Option<String>,
    /// `attname`.
    pub name: String,
    /// `attnotnull`.
    pub not_null: bool,
    /// Whether it is computed from other columns (`attgenerated`), so that no event has it.
    pub generated: bool,
    /// Position in the primary key, from 0.
    pub key_position: Option<usize>,
    /// Type, as `format_type` prints it, for messages.
    pub type_text: String,
    /// Type.
    pub type_row: TypeRow,
}

impl ColumnRow {
    fn codec(&self, identity: Identity, wanted: Option<&String>) -> Result<Codec, MappingError> {
        let (mut pg, mut nullable) = (PgType::from_row(&self.type_row), !self.not_null);
        if let Some(wanted) = wanted {
            (pg, nullable) = overridden(pg, nullable, wanted, &self.type_text)?;
        }
        let codec = Codec::new(pg, nullable).under(identity);
        Ok(if self.generated { codec.generated() } else { codec })
    }
}

impl Table {
    /// Judges a catalog row, under what the configuration says of the table.
    ///
    /// # Errors
    /// The first reason why the table cannot be mirrored.
    pub fn from_row(row: TableRow, rules: &Rules) -> Result<Self, Refusal> {
        if row.kind != 'r' {
            return Err(Refusal::Kind);
        }
        if row.filtered {
            return Err(Refusal::Filtered);
        }
        let identity = match row.identity {
            'd' => Identity::Default,
            'f' => Identity::Full,
            _ => return Err(Refusal::Identity(row.name.quoted_postgres())),
        };
        let mut columns = Vec::with_capacity(row.columns.len());
        for column in row.columns {
            let wanted = rules.types.get(&column.name);
            let codec = column
                .codec(identity, wanted)
                .map_err(|error| Refusal::Mapping(row.name.to_string(), column.name.clone(), Box::new(error)))?;
            // The key of an array has no text here, and an inexact one would find another row, or none.
            let uncertain = codec.is_never_exact() || matches!(codec.pg(), PgType::Array(_));
            if uncertain && column.key_position.is_some() {
                return Err(Refusal::Key(column.name, column.type_text));
            }
            let overridden = wanted.is_some();
            let ColumnRow { attnum, xmin, name, not_null, type_text, key_position, missing_value, .. } = column;
            if META_COLUMNS.iter().any(|(own, _)| *own == name) {
                return Err(Refusal::Reserved(name));
            }
            columns.push(TableColumn {
                attnum,
                xmin,
                name,
                not_null,
                codec,
                type_text,
                key_position,
                missing_value,
                overridden,
            });
        }
        if let Some(column) = rules.types.keys().find(|name| columns.iter().all(|column| column.name != **name)) {
            let names = columns.iter().map(TableColumn::name).collect::<Vec<_>>().join(", ");
            let error = MappingError::NoColumn(names);
            return Err(Refusal::Mapping(row.name.to_string(), column.clone(), Box::new(error)));
        }
        let mut key: Vec<usize> = (0..columns.len())
            .filter(|at| columns.get(*at).is_some_and(|column| column.key_position.is_some()))
            .collect();
        key.sort_by_key(|at| columns.get(*at).and_then(|column| column.key_position));
        if key.is_empty() {
            return Err(Refusal::PrimaryKey);
        }
        let positions = columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        let inexact = rules.inexact;
        Ok(Self { name: row.name, relation: row.relation, identity, columns, key, positions, inexact })
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
        self.inexact == Inexact::Park
    }

    /// Position of a column by its name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// The columns of `alias` as a SELECT list for PostgreSQL, each in the form that its codec reads.
    pub fn select_list(&self, alias: &str) -> String {
        let column = |column: &TableColumn| {
            column.codec.select(&format!("{alias}.{}", crate::domain::quote_postgres(&column.name)))
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }
}
