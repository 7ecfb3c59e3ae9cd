//! `platform endpoints`: for whoever writes the SQL.

use serde_json::Value;

use crate::support::clickhouse_server::ClickHouseServer;
use crate::support::stack::{Finished, command, finish};

fn run(server: Option<&ClickHouseServer>, folder: &tempfile::TempDir, arguments: &[&str]) -> Finished {
    let mut command = command(folder.path());
    command.arg("endpoints").args(arguments);
    if let Some(server) = server {
        command.env("PLATFORM__CLICKHOUSE__URL", server.url());
        command.env("PLATFORM__CLICKHOUSE__USER", ClickHouseServer::READER);
        command.env("PLATFORM__CLICKHOUSE__PASSWORD", ClickHouseServer::READER_PASSWORD);
    }
    finish(command)
}

fn last_json(finished: &Finished) -> Value {
    let line = finished.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

async fn with_table() -> ClickHouseServer {
    let server = ClickHouseServer::start().await;
    server.run("create database analytics").await;
    server
        .run("create table analytics.sentiment_social (id Int64, platform String, author Nullable(String), lang Nullable(String), \
              topic Nullable(String), hashtags Array(Nullable(String)), sentiment_label String, sentiment_score Nullable(Decimal(4, 3)), \
              likes Int32, replies Int32, shares Int32, posted_at DateTime64(6, 'UTC')) engine = MergeTree order by id")
        .await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_files_are_planned_by_clickhouse() {
    let server = with_table().await;
    let folder = tempfile::tempdir().expect("a folder");
    let checked = run(Some(&server), &folder, &["check"]).json();
    assert_eq!((&checked["explained"], &checked["findings"]), (&true.into(), &serde_json::json!([])), "{checked}");
    let listed = run(None, &folder, &["list"]).json();
    let names: Vec<&str> =
        listed.as_array().expect("a list").iter().map(|one| one["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["distribution", "summary", "timeseries", "top"]);
    assert!(listed.as_array().expect("a list").iter().all(|one| one["cached"] == true), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_works_and_a_wrong_one_is_named_with_its_line() {
    let server = with_table().await;
    let folder = tempfile::tempdir().expect("a folder");
    let written = run(None, &folder, &["new", "posts-a-day", "--dir", "mine"]).json();
    assert_eq!(written["file"], "mine/posts-a-day.sql");
    assert_eq!(run(Some(&server), &folder, &["check", "--dir", "mine"]).json()["findings"], serde_json::json!([]));
    assert_eq!(run(None, &folder, &["new", "posts-a-day", "--dir", "mine"]).code, Some(78), "nothing is overwritten");
    assert_eq!(run(None, &folder, &["new", "Posts"]).code, Some(2));

    let head = "-- summary: x\n-- table: sentiment_social\n";
    let range = "-- range: COLUMN from to\n-- param from Date required: x\n-- param to Date required: x\n";
    for (name, sql, line, problem, remedy) in [
        ("header", "-- tabel: x\nselect 1".to_owned(), 1, "\"tabel\" is not known", "docs/endpoints.md"),
        (
            "syntax",
            format!("{head}\nselect count()\nfrom analytics.sentiment_social\nwhere 1 = = 1"),
            6,
            "Syntax error",
            "syntax",
        ),
        ("column", format!("{head}select nothing from analytics.sentiment_social"), 3, "nothing", "describe table"),
        (
            "range",
            format!("{head}{range}select count() from {{rows}}").replace("COLUMN", "posted"),
            3,
            "no column posted",
            "times: posted_at",
        ),
        (
            "time",
            format!("{head}{range}select count() from {{rows}}").replace("COLUMN", "author"),
            3,
            "author as Nullable(String)",
            "posted_at",
        ),
        (
            "rows",
            format!("{head}{range}select\n  nothing from {{rows}}").replace("COLUMN", "posted_at"),
            6,
            "nothing",
            "describe table",
        ),
        ("table", format!("{head}select count() from analytics.nowhere"), 3, "nowhere", "platform load"),
        ("other", format!("{head}select count() from system.one"), 1, "does not read", "remove `-- table"),
        (
            "write",
            format!("{head}insert into analytics.sentiment_social (id) values (1)"),
            3,
            "Only SELECT",
            "one SELECT",
        ),
    ] {
        let wrong = tempfile::tempdir().expect("a folder");
        std::fs::write(wrong.path().join(format!("{name}.sql")), sql).expect("written");
        let finished = run(Some(&server), &wrong, &["check", "--dir", "."]);
        assert_eq!(finished.code, Some(78), "{name}: {finished:?}");
        let finding = last_json(&finished)["findings"][0].clone();
        assert_eq!((&finding["file"], &finding["line"]), (&format!("{name}.sql").into(), &line.into()), "{finding}");
        let says = |key: &str, text: &str| finding[key].as_str().is_some_and(|found| found.contains(text));
        assert!(says("problem", problem) && says("remedy", remedy), "{finding}");
    }
    let away = run(None, &folder, &["check", "--dir", "mine"]);
    assert_eq!(
        (away.code, &away.json()["explained"]),
        (Some(0), &false.into()),
        "without ClickHouse the headers are checked"
    );
}
