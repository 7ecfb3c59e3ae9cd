//! Pure knowledge of tables: shapes, types, value codecs, DDL, file headers.

pub mod endpoint;
pub mod endpoint_parameter;
