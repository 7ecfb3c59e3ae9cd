//! `platform clickhouse`, driven by the clients that people use.

mod crate_client;
