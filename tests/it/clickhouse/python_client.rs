//! `clickhouse-connect`, ClickHouse's client for Python.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::support::clickhouse_server::ClickHouseServer;

#[tokio::test]
async fn clickhouse_connect_works_unchanged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `make test`, which makes it", python.display());
    let server = ClickHouseServer::start().await;
    let (_, port) = server.url().rsplit_once(':').expect("a port");
    let run = Command::new(python)
        .arg(root.join("tests/python/clickhouse_connect_check.py"))
        .args(["127.0.0.1", port, ClickHouseServer::USER, ClickHouseServer::PASSWORD])
        .args([ClickHouseServer::READER, ClickHouseServer::READER_PASSWORD])
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(Duration::from_secs(120), run).await.expect("it ends in time").expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 12, "{said}");
}
