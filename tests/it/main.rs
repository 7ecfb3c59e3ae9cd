//! Integration tests on real parts: one binary, so that they share what takes seconds to start.

mod support;

mod api;
mod batch;
mod clickhouse;
mod end_to_end;
mod up;
