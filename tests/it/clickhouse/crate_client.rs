//! The official `clickhouse` crate.

use clickhouse::{Compression, Row};
use serde::{Deserialize, Serialize};

use super::with_posts;
use crate::support::clickhouse_server::ClickHouseServer;

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Post {
    id: u64,
    text: String,
    score: Option<f64>,
}

fn posts(count: u32) -> Vec<Post> {
    (0..count)
        .map(|id| Post {
            id: id.into(),
            text: format!("post {id}\t'\\\n✓"),
            score: (id % 3 != 0).then(|| f64::from(id) / 7.0),
        })
        .collect()
}

#[tokio::test]
async fn typed_rows_come_back_as_they_went_with_and_without_lz4() {
    let server = with_posts().await;
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
async fn parameters_are_typed_by_the_engine_and_never_become_sql() {
    let server = ClickHouseServer::start().await;
    let client = server.client();
    let hostile = "x'); DROP TABLE t; -- {number:UInt64} \\ \n\t✓";
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
    let many = "é".repeat(200_000);
    let length: u64 =
        client.query("SELECT length({text:String})").param("text", &many).fetch_one().await.expect("beyond a URL");
    assert_eq!(length, 400_000);
}

#[tokio::test]
async fn errors_come_with_their_number_and_leave_the_next_answer_clean() {
    let server = with_posts().await;
    for compression in [Compression::None, Compression::Lz4] {
        let client = server.client().with_compression(compression);
        for (sql, code) in [
            ("SELECT * FROM mirror.nothing", "Code: 60."),
            ("SELECT * FROM nowhere.posts", "Code: 81."),
            ("SELEC 1", "Code: 62."),
            ("SELECT missing FROM mirror.posts", "Code: 47."),
            ("SELECT throwIf(number = 500000) FROM numbers(1000000)", "Code: 395."),
            ("INSERT INTO mirror.posts (id) SELECT throwIf(number = 500) FROM numbers(1000)", "Code: 395."),
        ] {
            let error = client.query(sql).execute().await.expect_err(sql).to_string();
            assert!(error.contains(code), "{sql}: {error}");
            let next: Vec<u64> = client.query("SELECT toUInt64(42)").fetch_all().await.expect("an answer");
            assert_eq!(next, [42], "after {sql}");
        }
    }
}

#[tokio::test]
async fn a_failure_in_the_middle_of_a_stream_is_an_error_not_a_short_answer() {
    let server = ClickHouseServer::start().await;
    for compression in [Compression::None, Compression::Lz4] {
        let client = server.client().with_compression(compression);
        let query = client.query("SELECT number + throwIf(number = 9000000) FROM numbers(10000000)");
        let mut rows = query.fetch::<u64>().expect("a cursor");
        let mut seen = 0_u64;
        let error = loop {
            match rows.next().await {
                Ok(Some(_)) => seen += 1,
                Ok(None) => panic!("{seen} rows passed for the whole"),
                Err(error) => break error,
            }
        };
        assert!(seen > 0, "it failed in the middle");
        let text = error.to_string();
        assert!(text.contains("Code: 395"), "{text}");
    }
}

#[tokio::test]
async fn a_million_rows_stream_in_and_out() {
    let server = with_posts().await;
    let client = server.client().with_database("mirror");
    let mut insert = client.insert::<Post>("posts").await.expect("an insert");
    for id in 0..1_000_000_u32 {
        let post = Post { id: id.into(), text: "x".repeat(usize::try_from(id % 300).expect("small")), score: None };
        insert.write(&post).await.expect("written");
    }
    insert.end().await.expect("stored");
    let expected = (0..1_000_000_usize).map(|id| id % 300).sum::<usize>();
    let mut rows = client.query("SELECT ?fields FROM posts").fetch::<Post>().expect("a cursor");
    let (mut count, mut sum, mut characters) = (0_u64, 0_u64, 0_usize);
    while let Some(post) = rows.next().await.expect("a row") {
        count += 1;
        sum += post.id;
        characters += post.text.len();
    }
    assert_eq!((count, sum, characters), (1_000_000, 499_999_500_000, expected));
}

#[tokio::test]
async fn an_insert_that_is_dropped_stores_nothing() {
    let server = with_posts().await;
    let client = server.client().with_database("mirror");
    for _ in 0..5 {
        let mut insert = client.insert::<Post>("posts").await.expect("an insert");
        for post in posts(200_000) {
            insert.write(&post).await.expect("written");
        }
        drop(insert);
    }
    // A statement that comes after them on the same table sees what they left.
    let mut insert = client.insert::<Post>("posts").await.expect("an insert");
    insert.write(&posts(1)[0]).await.expect("written");
    insert.end().await.expect("stored");
    server.wait_until_idle().await;
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "1\n");
}

#[tokio::test]
async fn settings_of_one_request_never_reach_another() {
    let server = ClickHouseServer::start().await;
    let tasks = (0..12_u64).map(|number| {
        let client = server.client();
        tokio::spawn(async move {
            for step in 0..40 {
                let value = 1000 + number * 100 + step;
                let sql = "SELECT toUInt64(getSetting('max_block_size')), {value:UInt64}";
                let with = client.query(sql).param("value", value).with_setting("max_block_size", value.to_string());
                assert_eq!(with.fetch_one::<(u64, u64)>().await.expect("a row"), (value, value));
                let without = client.query(sql).param("value", value).fetch_one::<(u64, u64)>().await.expect("a row");
                assert_eq!(without, (65409, value));
            }
        })
    });
    for outcome in futures_util::future::join_all(tasks).await {
        outcome.expect("no task failed");
    }
}

#[tokio::test]
async fn this_programs_own_client_works_with_it() {
    let server = ClickHouseServer::start().await;
    let store = platform::store::clickhouse::ClickHouse::new(&server.settings()).expect("a client");
    store.execute("CREATE DATABASE mirror", &[]).await.expect("made");
    store.execute("CREATE TABLE mirror.t (a UInt8) ENGINE = MergeTree ORDER BY a", &[]).await.expect("made");
    // One block: a column, two rows.
    let block = b"\x01\x02\x01a\x05UInt8\x20\x0a".as_slice();
    store.insert_native("mirror.t", &["a"], block.into(), &[]).await.expect("stored");
    let found = store.fetch_bytes("SELECT a FROM mirror.t WHERE a > {n:UInt8}", &[("n", "10")], "TSV").await;
    assert_eq!(found.expect("rows"), "32\n");
    let missing = store.execute("SELECT * FROM mirror.nothing", &[]).await.expect_err("no such table");
    assert_eq!(missing.code(), Some(60));
}
