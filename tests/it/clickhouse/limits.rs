//! Limits on size, time, number and memory, and clients that leave.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::{make_posts, with_posts};
use crate::support::clickhouse_server::{ClickHouseServer, wait_until};

async fn code(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.send().await.expect("an answer");
    let code =
        answer.headers().get("X-ClickHouse-Exception-Code").map(|code| code.to_str().expect("a text").to_owned());
    (answer.status().as_u16(), code.unwrap_or_default())
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_also_when_it_is_packed() {
    let server = ClickHouseServer::start_with(None, &["--max-body-mb", "1"]).await;
    make_posts(&server).await;
    let url = "query=INSERT%20INTO%20mirror.posts%20(text)%20FORMAT%20LineAsString";
    let fits = vec![b'x'; 1 << 20];
    assert_eq!(code(server.post(url).body(fits)).await.0, 200);
    let large = vec![b'x'; (1 << 20) + 1];
    let bomb = zstd::encode_all(std::io::repeat(b'x').take_bytes(1 << 30), 1).expect("packed");
    assert!(bomb.len() < 200_000, "a small body of a gigabyte");
    assert_eq!(code(server.post(url).body(large)).await, (413, "229".into()));
    assert_eq!(code(server.post(url).header("Content-Encoding", "zstd").body(bomb)).await, (413, "229".into()));
    server.wait_until_idle().await;
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "1\n");
    assert!(server.memory_peak_mb() < 700, "{} MiB", server.memory_peak_mb());
}

/// `Read::take` without importing the whole trait into the tests above.
trait TakeBytes {
    fn take_bytes(self, count: u64) -> std::io::Take<Self>
    where
        Self: Sized;
}

impl<R: std::io::Read> TakeBytes for R {
    fn take_bytes(self, count: u64) -> std::io::Take<Self> {
        std::io::Read::take(self, count)
    }
}

#[tokio::test]
async fn no_request_lifts_the_limit_on_time() {
    let server = ClickHouseServer::start_with(None, &["--max-execution-s", "1"]).await;
    for (query, settings) in [("", ""), ("max_execution_time=0", ""), ("max_execution_time=100", "")] {
        let begun = Instant::now();
        let sql = format!("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1 {settings}");
        assert_eq!(code(server.post(query).body(sql)).await, (408, "159".into()), "{query}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    let sql = "SELECT 1 SETTINGS max_execution_time = 0";
    assert_eq!(code(server.post("").body(sql)).await.1, "452", "nor does a SETTINGS clause");
    assert_eq!(code(server.post("max_execution_time=0.5").body("SELECT 1")).await.0, 200);
}

#[tokio::test]
async fn statements_beyond_the_number_wait_and_then_are_refused() {
    let server = ClickHouseServer::start_with(None, &["--max-concurrency", "2"]).await;
    let slow = |seconds: u32| {
        let sql =
            format!("SELECT sleepEachRow(0.5) FROM numbers({}) SETTINGS max_block_size = 1 FORMAT Null", seconds * 2);
        tokio::spawn(server.post("").body(sql).send())
    };
    let full = || async {
        let request = server.post("").timeout(Duration::from_millis(500)).body("SELECT 1");
        request.send().await.is_err_and(|error| error.is_timeout())
    };
    let tasks = [slow(60), slow(4)];
    wait_until("both places are taken", full).await;
    // One becomes free within the 10 seconds that a request waits.
    assert_eq!(code(server.post("").body("SELECT 1")).await.0, 200);
    let more = slow(60);
    wait_until("both places are taken again", full).await;
    let begun = Instant::now();
    assert_eq!(code(server.post("").body("SELECT 1")).await, (500, "202".into()));
    assert!(begun.elapsed() > Duration::from_secs(9));
    assert_eq!(reqwest::get(format!("{}/ping", server.url())).await.expect("an answer").status().as_u16(), 200);
    for task in tasks.into_iter().chain([more]) {
        task.abort();
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_statement_with_it() {
    let server = with_posts().await;
    for sql in [
        // Nothing was answered yet; a format that is not streamed; a stream; a change.
        "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
        "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1 FORMAT JSON",
        "SELECT number FROM numbers(1000000000000)",
        "INSERT INTO mirror.posts (id) SELECT number FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
    ] {
        let request = tokio::spawn(server.post("").body(sql).send());
        server.wait_for_statements(1).await;
        // The answer's body is not read; its connection is closed with the task.
        request.abort();
        drop(request.await);
        server.wait_until_idle().await;
    }
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "0\n");
}

#[tokio::test]
async fn a_large_answer_read_slowly_stays_out_of_memory() {
    let server = ClickHouseServer::start().await;
    let sql = "SELECT number, repeat('x', 1000) FROM numbers(5000000)";
    let answer = server.post("").body(sql).send().await.expect("an answer");
    let mut pieces = answer.bytes_stream();
    let mut bytes = 0_u64;
    let begun = Instant::now();
    while let Some(piece) = pieces.next().await {
        bytes += u64::try_from(piece.expect("a piece").len()).expect("fits");
        // About 200 MB/s for the first 3 seconds; then as fast as it comes.
        while begun.elapsed() < Duration::from_secs(3) && begun.elapsed() < Duration::from_nanos(bytes * 5) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(bytes, 5_043_888_890);
    assert!(server.memory_peak_mb() < 1000, "{} MiB", server.memory_peak_mb());
}

#[tokio::test]
async fn an_answer_that_cannot_be_streamed_is_bounded() {
    let server = ClickHouseServer::start().await;
    let wide = "SELECT number, randomPrintableASCII(1000) AS s FROM numbers(1000000) FORMAT JSON";
    assert_eq!(code(server.post("").body(wide)).await.1, "396");
    assert_eq!(code(server.post("max_result_bytes=0").body(wide)).await.1, "396", "a request cannot lift it");
    let long = "SELECT number % 2 AS a FROM numbers(100000000) FORMAT JSON";
    assert_eq!(code(server.post("max_result_rows=0").body(long)).await.1, "396");
    assert_eq!(code(server.post("").body("SELECT number FROM numbers(100000) FORMAT JSON")).await.0, 200);
    assert!(server.memory_peak_mb() < 1200, "{} MiB", server.memory_peak_mb());
}

#[tokio::test]
async fn a_large_insert_of_wide_rows_stays_out_of_memory() {
    let server = with_posts().await;
    let row_count = 1_000_000;
    let text = "x".repeat(1000);
    let pieces = futures_util::stream::iter((0..row_count / 1000).map(move |piece| {
        let rows: String = (0..1000).map(|row| format!("{}\t{text}\n", piece * 1000 + row)).collect();
        Ok::<_, std::convert::Infallible>(rows)
    }));
    let url = "query=INSERT%20INTO%20mirror.posts%20(id,text)%20FORMAT%20TSV";
    let request = server.post(url).body(reqwest::Body::wrap_stream(pieces));
    assert_eq!(code(request).await, (200, String::new()));
    let found = server.run("SELECT count(), sum(id), sum(length(text)) FROM mirror.posts").await;
    assert_eq!(found, "1000000\t499999500000\t1000000000\n");
    assert!(server.memory_peak_mb() < 1200, "{} MiB", server.memory_peak_mb());
}

#[tokio::test]
async fn one_insert_is_one_part() {
    let server = with_posts().await;
    server.run("SYSTEM STOP MERGES mirror.posts").await;
    let url = "query=INSERT%20INTO%20mirror.posts%20(id,text)%20FORMAT%20";
    let rows: String = (0..60_000).map(|id| format!("{id}\t{}\n", "x".repeat(1000))).collect();
    assert_eq!(code(server.post(&format!("{url}TSV")).body(rows)).await.0, 200);
    // One block of 200,000 rows, as the loader sends them.
    let select =
        "SELECT number AS id, 'post' AS text FROM numbers(200000) FORMAT Native SETTINGS max_block_size = 200000";
    let block = server.post("").body(select).send().await.expect("an answer").bytes().await.expect("bytes");
    assert_eq!(code(server.post(&format!("{url}Native")).body(block)).await.0, 200);
    let parts = server.run("SELECT rows FROM system.parts WHERE database = 'mirror' AND active ORDER BY rows").await;
    assert_eq!(parts, "60000\n200000\n");
}

#[tokio::test]
async fn a_statement_has_the_threads_that_it_asks_for_within_the_default_memory() {
    let server = ClickHouseServer::start().await;
    let sql = "EXPLAIN PIPELINE SELECT sum(number) FROM numbers_mt(100000000) SETTINGS max_threads = 4";
    let pipeline = server.run(sql).await;
    assert!(pipeline.contains("× 4"), "{pipeline}");
}
