//! Starting, stopping, dying.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use super::make_posts;
use crate::support::clickhouse_server::{ClickHouseServer, wait_until};

/// Rows of one insert; each carries the insert's number, so that a torn one shows.
const BATCH_ROWS: u64 = 500;

async fn write_until_cut(url: String, writer: u64, acknowledged: Arc<Mutex<BTreeSet<u64>>>) {
    let client = reqwest::Client::new();
    for step in 0.. {
        let batch = writer * 1_000_000 + step;
        let rows: String = (0..BATCH_ROWS).map(|row| format!("{},{batch}\n", batch * BATCH_ROWS + row)).collect();
        let body = format!("INSERT INTO mirror.posts (id, text) FORMAT CSV\n{rows}");
        let request = client
            .post(format!("{url}/?wait_end_of_query=1"))
            .basic_auth(ClickHouseServer::USER, Some(ClickHouseServer::PASSWORD))
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                acknowledged.lock().expect("unpoisoned").insert(batch);
            }
            _ => return,
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_and_nothing_is_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..3_u64 {
        let server = ClickHouseServer::start_on(folder.path()).await;
        make_posts(&server).await;
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                tokio::spawn(write_until_cut(server.url().to_owned(), round * 2 + writer, Arc::clone(&acknowledged)))
            })
            .collect();
        let before = acknowledged.lock().expect("unpoisoned").len();
        let enough = || acknowledged.lock().expect("unpoisoned").len() >= before + 40;
        wait_until("40 inserts are acknowledged", || async { enough() }).await;
        server.kill().await;
        for writer in writers {
            writer.await.expect("it ended");
        }
    }
    let server = ClickHouseServer::start_on(folder.path()).await;
    let found = server.run("SELECT text, count() FROM mirror.posts GROUP BY text FORMAT TSV").await;
    let stored: BTreeSet<u64> = found
        .lines()
        .map(|line| {
            let (batch, rows) = line.split_once('\t').expect("two columns");
            assert_eq!(rows.parse::<u64>().expect("a count"), BATCH_ROWS, "batch {batch} is torn or doubled");
            batch.parse().expect("a number")
        })
        .collect();
    let acknowledged = acknowledged.lock().expect("unpoisoned");
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged inserts are lost", lost.len(), acknowledged.len());
    let surplus = stored.difference(&acknowledged).count();
    assert!(surplus <= 6, "at most one unacknowledged insert a writer: {surplus}");
}

#[tokio::test]
async fn a_second_process_on_the_folder_is_told_so() {
    let first = ClickHouseServer::start().await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let second = ClickHouseServer::command(elsewhere.path(), first.data_dir()).output().await.expect("it ran");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(75), "{said}");
    for word in [first.data_dir().to_str().expect("a path"), &first.pid().to_string(), "--data-dir"] {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
    assert_eq!(first.run("SELECT 1").await, "1\n", "the first one goes on");
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_named_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let port = ClickHouseServer::command(folder.path(), folder.path())
        .args(["--bind", &address])
        .output()
        .await
        .expect("it ran");
    let said = String::from_utf8_lossy(&port.stderr);
    assert_eq!(port.status.code(), Some(69), "{said}");
    assert!(said.contains(&address) && said.contains("--bind"), "{said}");
    let open = ClickHouseServer::command(folder.path(), folder.path())
        .args(["--bind", "0.0.0.0:0"])
        .env("PLATFORM__CLICKHOUSE__PASSWORD", "")
        .output()
        .await
        .expect("it ran");
    let said = String::from_utf8_lossy(&open.stderr);
    assert_eq!(open.status.code(), Some(78), "no administrator without a password beyond loopback: {said}");
    assert!(said.contains("PLATFORM__CLICKHOUSE__PASSWORD"), "{said}");
    let engine = ClickHouseServer::command(folder.path(), folder.path())
        .args(["--engine", "/nowhere/libchdb.so"])
        .output()
        .await
        .expect("it ran");
    let said = String::from_utf8_lossy(&engine.stderr);
    assert_eq!(engine.status.code(), Some(78), "{said}");
    assert!(said.contains("/nowhere/libchdb.so") && said.contains("make engines"), "{said}");
}

#[tokio::test]
async fn sigterm_lets_a_request_end_and_keeps_the_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = ClickHouseServer::start_on(folder.path()).await;
    make_posts(&server).await;
    let sql =
        "INSERT INTO mirror.posts (id) SELECT number + sleepEachRow(0.1) FROM numbers(10) SETTINGS max_block_size = 1";
    let running = tokio::spawn(server.post("").body(sql).send());
    server.wait_for_statements(1).await;
    let begun = std::time::Instant::now();
    let status = server.stop().await;
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(running.await.expect("sent").expect("an answer").status().is_success());
    let server = ClickHouseServer::start_on(folder.path()).await;
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "10\n");
}

#[tokio::test]
async fn the_session_is_utc_and_the_start_line_says_what_this_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = ClickHouseServer::start_in_zone(folder.path(), "America/New_York").await;
    let sql = "SELECT timezone(), toString(toDateTime('2026-07-01 12:00:00')), toUnixTimestamp('2026-07-01 12:00:00')";
    assert_eq!(server.run(sql).await, "UTC\t2026-07-01 12:00:00\t1782907200\n");
    let log = server.log();
    for word in ["libchdb", "one process", "no clusters", "no Keeper", "no users of the engine's own"] {
        assert!(log.contains(word), "{word} is missing: {log}");
    }
    assert_eq!(server.run("SELECT name FROM system.databases WHERE name NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema', 'default')").await, "");
}
