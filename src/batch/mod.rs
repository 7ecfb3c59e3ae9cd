//! Jobs that move many rows: whole tables into ClickHouse, files and synthetic posts into PostgreSQL, days of statistics,
//! and the proof that both databases hold the same rows.

pub mod aggregates;
pub mod generate;
pub mod import;
mod jobs;
pub mod load;
pub mod post;
mod refresh;
mod refresh_groups;
mod refresh_pace;
pub mod verify;

pub use jobs::Jobs;
pub use refresh::Refresher;
