//! `platform clickhouse`, driven by the clients that people use.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a helper that fails is a failed test")]

mod bodies;
mod crate_client;
mod http;
mod life;
mod limits;
mod python_client;

use crate::support::clickhouse_server::ClickHouseServer;

/// A server with `mirror.posts`.
async fn with_posts() -> ClickHouseServer {
    let server = ClickHouseServer::start().await;
    make_posts(&server).await;
    server
}

async fn make_posts(server: &ClickHouseServer) {
    server.run("CREATE DATABASE IF NOT EXISTS mirror").await;
    server
        .run(
            "CREATE TABLE IF NOT EXISTS mirror.posts (id UInt64, text String, score Nullable(Float64)) \
             ENGINE = MergeTree ORDER BY id",
        )
        .await;
}
