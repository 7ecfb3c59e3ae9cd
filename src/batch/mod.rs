//! Jobs that move many rows: files and synthetic posts into PostgreSQL, days of statistics in ClickHouse.

pub mod generate;
pub mod import;
pub mod post;
