//! What runs on one machine without containers: `platform clickhouse` and `platform up`.

pub mod clickhouse;
pub mod up;
