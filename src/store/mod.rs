//! The only code that knows a driver: PostgreSQL, ClickHouse, Kafka, Kafka Connect. Timeouts and error classes live here.

pub mod advisory_lock;
pub mod api_keys;
pub mod buffers;
pub mod builds;
pub mod checkpoint;
pub mod clickhouse;
pub mod connect;
pub mod connector;
pub mod connector_config;
pub mod dead_letters;
pub mod kafka;
mod kafka_fetch;
pub mod lease;
pub mod migrate;
pub mod mirror;
pub mod pool;
pub mod postgres;
pub mod posts;
mod record_batch;
pub mod replication;
pub mod requests;
pub mod rows_by_key;
pub mod sinks;
pub mod table_shapes;
pub mod table_states;
