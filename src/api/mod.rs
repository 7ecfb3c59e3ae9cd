//! HTTP API over both databases: posts in PostgreSQL, analytics and statistics in ClickHouse, one file a resource.
//!
//! A request goes through `envelope` (id, problem bodies, headers, metrics), then to its handler, whose extractors check the
//! API key (`auth`). Handlers read parameters and bodies strictly (`query`, `body`) and never write SQL themselves:
//! `posts_sql` and the files under `sql/endpoints` have it.

mod analytics;
mod answers;
mod auth;
mod batch_input;
mod body;
mod conditions;
mod connector;
mod consistency;
mod consistency_resource;
mod context;
mod cors;
mod cursor;
mod database_errors;
mod dead_letters;
mod durations;
mod encoding;
mod endpoints;
mod entity_tags;
mod envelope;
mod events;
mod fallback;
mod health;
mod idempotency;
mod keys;
mod keyset;
mod lag;
mod openapi;
mod overload;
mod pages;
mod pipeline;
mod pipeline_health;
mod pipeline_tables;
mod post;
mod post_input;
mod post_json;
mod post_sort;
mod posts;
mod posts_batch;
mod posts_batch_sql;
mod posts_list;
mod posts_list_sql;
mod posts_sql;
mod problem;
mod query;
mod ranges;
mod rate_limit;
mod replica;
mod requests;
mod results;
mod runs;
mod server;
mod state;
mod stats;
mod stats_days;
mod stats_freshness;
mod traceparent;

pub use endpoints::{files as endpoint_files, load as load_endpoints};
pub use server::{Running, document, start};
