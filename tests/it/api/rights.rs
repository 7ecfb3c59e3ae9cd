//! What the SELECT of an endpoint file may not do, with the login that the API has: nothing but read the engine's own tables.

use serde_json::json;

use super::{Api, small_post};
use crate::support::clickhouse_server::ClickHouseServer;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_file_only_reads() {
    let server = ClickHouseServer::start().await;
    for sql in ["create database analytics", "create table analytics.notes (n UInt32) engine = MergeTree order by n"] {
        server.run(sql).await;
    }
    server.run("insert into analytics.notes values (1)").await;
    let secret = tempfile::NamedTempFile::new_in(server.data_dir()).expect("a file");
    std::fs::write(secret.path(), "a secret\n").expect("written");
    let file = secret.path().display().to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let here = listener.local_addr().expect("an address");
    let forbidden: Vec<(&str, String)> = vec![
        ("file", format!("select * from file('{file}', 'LineAsString')")),
        ("url", format!("select * from url('http://{here}/', 'LineAsString')")),
        ("remote", format!("select * from remote('{here}', system.one)")),
        ("postgres", format!("select * from postgresql('{here}', 'a', 'b', 'c', 'd')")),
        ("outfile", "select 1 into outfile '/tmp/platform-rights-test'".to_owned()),
        ("insert", "insert into analytics.notes values (2)".to_owned()),
        ("insert-select", "insert into analytics.notes select 2".to_owned()),
        ("create", "create table analytics.other (n UInt8) engine = Memory".to_owned()),
        ("drop", "drop table analytics.notes".to_owned()),
        ("alter", "alter table analytics.notes delete where 1".to_owned()),
        ("kill", "kill query where 1".to_owned()),
        ("system", "system stop merges".to_owned()),
        ("settings", "select n from analytics.notes settings readonly = 0".to_owned()),
        ("two", "select 1; drop table analytics.notes".to_owned()),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, sql: &str| {
        let text = format!("-- summary: x\n-- table: notes\n{sql}");
        std::fs::write(folder.path().join(format!("{name}.sql")), text).expect("written");
    };
    for (name, sql) in &forbidden {
        write(name, sql);
    }
    write("allowed", "select n from analytics.notes");
    let url = server.url().to_owned();
    let api = Api::start_with(|settings| {
        settings.api.endpoints_dir = folder.path().display().to_string();
        settings.clickhouse.url = url;
        settings.clickhouse.user = ClickHouseServer::READER.to_owned();
        settings.clickhouse.password = ClickHouseServer::READER_PASSWORD.to_owned().into();
    })
    .await;
    for (name, sql) in &forbidden {
        let answer = api.get(&format!("/v1/analytics/{name}")).await;
        assert!(answer.status >= 500, "{sql}: {answer:?}");
        answer.problem();
        for word in ["secret", "readonly", "notes", here.to_string().as_str()] {
            assert!(!answer.body.contains(word), "{sql}: {answer:?}");
        }
    }
    assert!(!std::path::Path::new("/tmp/platform-rights-test").exists());
    let called = tokio::time::timeout(std::time::Duration::from_millis(100), listener.accept()).await;
    assert!(called.is_err(), "the engine has called somebody");
    assert_eq!(api.get("/v1/analytics/allowed").await.json()["data"], json!([{"n": 1}]), "nothing was changed");
    assert_eq!(server.run("select count() from analytics.notes").await, "1\n");
    // The rest of the API needs none of it.
    assert_eq!(api.post(&small_post(&super::unique("rights"), "1", "2020-01-01")).await.status, 201);
}
