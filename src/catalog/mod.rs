//! Pure knowledge of tables: a table's shape in PostgreSQL, what it becomes in ClickHouse, and one codec a type.
//!
//! ```text
//! PgType ──► Codec ──► ClickHouse type, DDL
//!               │
//!   JSON cell ──┤
//!               ├──► Column ──► Block ──► Native bytes
//! binary cell ──┘
//! ```
//!
//! The sink decodes JSON, the load decodes PostgreSQL's binary format; both write the same bytes into the same columns.

mod aggregate;
mod array_json;
mod binary_cell;
mod block;
mod bucket;
mod bucket_unit;
mod clickhouse_type;
mod codec;
mod column;
mod ddl;
#[cfg(test)]
mod debezium_tests;
mod decimal;
pub mod endpoint;
pub mod endpoint_parameter;
pub mod endpoint_range;
mod endpoint_sql;
mod evolution;
#[cfg(test)]
mod evolution_tests;
mod json_row;
mod mapping;
#[cfg(test)]
mod paths_tests;
mod pg_type;
mod postgres_text;
mod relation;
mod row_binary;
mod table;
mod trust;

pub use aggregate::{Aggregate, Check, HeaderError, OWN_COLUMNS, SOURCE};
pub use binary_cell::{CopyReader, MalformedCopy};
pub use block::{Appended, Block, META_COLUMNS, RowError, RowMeta};
pub use bucket_unit::BucketUnit;
pub use codec::{CellError, Codec};
pub use column::Column;
pub use ddl::{CHECKPOINT_SETTINGS, create_mirror, create_moments, create_view, is_time, mirror_columns, moments_name};
pub use evolution::{
    Comparison, Evolution, Mirror, MirrorColumn, comment_relation, compare, drop_mirror, follow, loosened,
};
pub use json_row::{Placeholder, ReadRow, RowReader};
pub use mapping::{Inexact, MappingError, Rules};
pub use pg_type::{NullIs, PgType, TypeRow};
pub use relation::Relation;
pub use row_binary::{key_expression, row_expression, take_bytes};
pub use table::{ColumnRow, Identity, Refusal, Table, TableColumn, TableRow};
pub use trust::Trust;
