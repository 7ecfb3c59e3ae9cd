//! The only code that knows a driver: PostgreSQL, ClickHouse, Kafka, Kafka Connect. Timeouts and error classes live here.

pub mod checkpoint;
pub mod clickhouse;
pub mod connector_status;
pub mod migrate;
pub mod pool;
pub mod postgres;
