//! The official `clickhouse` crate.

use clickhouse::{Compression, Row};
use serde::{Deserialize, Serialize};

use crate::support::clickhouse_server::ClickHouseServer;

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Post {
    id: u64,
    text: String,
    score: Option<f64>,
}

fn posts(count: u64) -> Vec<Post> {
    (0..count)
        .map(|id| Post { id, text: format!("post {id}\t'\\\n✓"), score: (id % 3 != 0).then_some(id as f64 / 7.0) })
        .collect()
}

async fn with_table() -> ClickHouseServer {
    let server = ClickHouseServer::start().await;
    server.run("CREATE DATABASE mirror").await;
    server
        .run("CREATE TABLE mirror.posts (id UInt64, text String, score Nullable(Float64)) ENGINE = MergeTree ORDER BY id")
        .await;
    server
}

#[tokio::test]
async fn typed_rows_come_back_as_they_went_with_and_without_lz4() {
    let server = with_table().await;
    for compression in [Compression::None, Compression::Lz4] {
        server.run("TRUNCATE TABLE mirror.posts").await;
        let client = server.client().with_database("mirror").with_compression(compression);
        let sent = posts(10_000);
        let mut insert = client.insert::<Post>("posts").await.expect("an insert");
        for post in &sent {
            insert.write(post).await.expect("written");
        }
        insert.end().await.expect("stored");
        let found: Vec<Post> = client.query("SELECT ?fields FROM posts ORDER BY id").fetch_all().await.expect("rows");
        assert_eq!(found, sent);
    }
}

#[tokio::test]
async fn parameters_are_typed_by_the_engine() {
    let server = ClickHouseServer::start().await;
    let client = server.client();
    let hostile = "x'); DROP TABLE t; --\\";
    let (text, number): (String, u64) = client
        .query("SELECT {text:String}, {number:UInt64} + 1")
        .param("text", hostile)
        .param("number", 41)
        .fetch_one()
        .await
        .expect("a row");
    assert_eq!((text.as_str(), number), (hostile, 42));
    let wrong = client.query("SELECT {number:UInt64}").param("number", "1 OR 1").fetch_one::<u64>().await;
    assert!(wrong.expect_err("not a number").to_string().contains("Code: 457"));
}
