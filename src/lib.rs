//! `platform`: PostgreSQL as the system of record, mirrored exactly into ClickHouse, with statistics and one HTTP API.
//!
//! Folders follow the way of a change: `store` talks to the outside, `catalog` says what a table looks like, `cdc`
//! applies the log, `batch` moves whole tables and days, `api` serves both databases, `embedded` runs them all on one
//! machine. `cmd` composes. Imports go one way: `cmd → {api, cdc, batch, embedded} → store → catalog → domain`.

#[macro_use]
pub mod failpoint;

pub mod api;
pub mod batch;
pub mod catalog;
pub mod cdc;
pub mod cmd;
pub mod config;
pub mod domain;
pub mod embedded;
pub mod shutdown;
pub mod store;
pub mod telemetry;
