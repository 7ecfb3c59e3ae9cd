//! HTTP API over both databases: posts in PostgreSQL, analytics and statistics in ClickHouse, one file a resource.
//!
//! A request goes through `envelope` (id, problem bodies, headers, metrics), then to its handler, whose extractors check the
//! API key (`auth`). Handlers read parameters and bodies strictly (`query`, `body`) and never write SQL themselves:
//! `posts_sql` and the files under `sql/endpoints` have it.

mod analytics;
mod answers;
mod auth;
mod body;
mod conditions;
mod connector;
mod consistency;
mod consistency_resource;
mod cursor;
mod database_errors;
mod dead_letters;
mod endpoints;
mod envelope;
mod events;
mod fallback;
mod health;
mod idempotency;
mod keyset;
mod lag;
mod openapi;
mod pages;
mod pipeline;
mod pipeline_health;
mod pipeline_tables;
mod post;
mod post_input;
mod posts;
mod posts_sql;
mod problem;
mod query;
mod replica;
mod requests;
mod results;
mod runs;
mod server;
mod state;
mod stats;
mod stats_days;
mod stats_freshness;

pub use endpoints::{files as endpoint_files, load as load_endpoints};
pub use server::{Running, document, start};
