//! Pure knowledge of tables: shapes, types, value codecs, DDL, file headers.
