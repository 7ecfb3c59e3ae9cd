//! A table's name in PostgreSQL.

use std::fmt;

use super::{quote_clickhouse, quote_postgres};

/// Schema and table as PostgreSQL spells them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    schema: String,
    table: String,
}

impl TableName {
    /// From the catalog or an event, as they spell it.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// From what a person types: `table` means `public.table`.
    pub fn from_argument(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, table)) => Self::new(schema, table),
            None => Self::new("public", text),
        }
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The table without its schema.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The name in ClickHouse: `table` for `public.table`, `schema.table` for others.
    pub fn mirror_name(&self) -> String {
        if self.schema == "public" { self.table.clone() } else { format!("{}.{}", self.schema, self.table) }
    }

    /// Quoted for PostgreSQL.
    pub fn quoted_postgres(&self) -> String {
        format!("{}.{}", quote_postgres(&self.schema), quote_postgres(&self.table))
    }

    /// Quoted for ClickHouse, in `database`.
    pub fn quoted_clickhouse(&self, database: &str) -> String {
        format!("{}.{}", quote_clickhouse(database), quote_clickhouse(&self.mirror_name()))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}
