//! Integration tests on real parts: one binary, so that they share what takes seconds to start.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test ends by a panic"
)]

mod support;

mod aggregates;
mod airflow;
mod api;
mod batch;
mod clickhouse;
mod demo;
mod end_to_end;
mod endpoints;
mod healthcheck;
mod readme;
mod up;
