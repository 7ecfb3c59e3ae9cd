//! Endpoints out of a folder of SQL files: served, documented, bounded; a wrong one stops the start.

use platform::domain::Failure;
use platform::shutdown::Shutdown;
use serde_json::json;

use super::Api;

const ECHO: &str = "-- summary: What was asked for\n-- description: Every type.\n-- table: system.one\n";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

/// Every byte as `%XX`.
fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn start(folder: &tempfile::TempDir) -> Api {
    Api::start_with(|settings| {
        settings.api.endpoints_dir = folder.path().display().to_string();
        settings.api.query_timeout_ms = 1000;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_an_endpoint() {
    let echo = format!(
        "{}-- param day Date default 2020-01-01: a day\n-- param at DateTime optional: a moment\n\
         -- param text String optional: a text\n-- param word Enum(one,two) default two: a word\n\
         -- param small UInt32 default 10 min 1 max 100: a number\n-- param big Int64 optional: a number\n\
         select {{day:Date32}} as day, {{at:Nullable(DateTime64(6, 'UTC'))}} as at, {{text:Nullable(String)}} as text,\n\
         {{word:String}} as word, {{small:UInt32}} as small, {{big:Nullable(Int64)}} as big, toDecimal64('1.10', 2) as exact",
        ECHO.replace("system.one", "one")
    );
    let folder = folder(&[("echo.sql", &echo), ("notes.txt", "not an endpoint")]);
    let api = start(&folder).await;
    let answer = api.get("/v1/analytics/echo").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected =
        json!({"day": "2020-01-01", "at": null, "text": null, "word": "two", "small": 10, "big": null, "exact": "1.1"});
    assert_eq!(answer.json()["data"], json!([expected]));
    // Whatever is in a value, it is a value: quotes, backslashes, what looks like NULL or like SQL.
    for text in ["", "\\N", "NULL", "it's \\' \"x\"", "a\tb\nc\\d", "{x:String}", "') or 1=1 --", "ä😀"] {
        let query = [
            ("text", text),
            ("at", "2020-02-29T12:00:00.000001+12:00"),
            ("big", "-9223372036854775808"),
            ("word", "one"),
        ];
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        let request = api.request(reqwest::Method::GET, &format!("/v1/analytics/echo?{}", query.join("&")));
        let answer = super::send(request).await;
        assert_eq!(answer.status, 200, "{text:?}: {answer:?}");
        let row = &answer.json()["data"][0];
        assert_eq!((&row["text"], &row["word"]), (&json!(text), &json!("one")), "{text:?}");
        assert_eq!((&row["at"], &row["big"]), (&json!("2020-02-29T00:00:00.000001Z"), &json!(i64::MIN)), "{text:?}");
    }
    assert_eq!(api.get("/v1/analytics/summary").await.status, 404, "the folder replaces the shipped ones");
    let openapi = api.get("/openapi.json").await.json();
    let operation = &openapi["paths"]["/v1/analytics/echo"]["get"];
    assert_eq!(operation["summary"], "What was asked for");
    let small =
        operation["parameters"].as_array().expect("parameters").iter().find(|parameter| parameter["name"] == "small");
    let schema = &small.expect("described")["schema"];
    assert_eq!(
        (&schema["type"], &schema["minimum"], &schema["maximum"], &schema["default"]),
        (&json!("integer"), &json!(1), &json!(100), &json!(10))
    );
    assert_eq!(api.get("/v1/version").await.json()["analytics"], json!(["echo"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_does_wrong_is_a_problem() {
    let head = "-- summary: x\n-- table: one\n";
    let files = [
        ("slow.sql", "select sleepEachRow(1) as s from numbers(3) settings max_block_size = 1"),
        ("large.sql", "select number from numbers(100001)"),
        ("broken.sql", "select nothing from nowhere.at_all_"),
        ("wrong.sql", "select throwIf(number = 1, 'secret value') as t from numbers(2)"),
    ]
    .map(|(name, sql)| (name, format!("{head}{sql}")));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, sql)| (*name, sql.as_str())).collect();
    let folder = folder(&files);
    let api = start(&folder).await;
    for (name, status, code) in [
        ("slow", 504, "timeout"),
        ("large", 422, "result-too-large"),
        ("broken", 503, "table-unavailable"),
        ("wrong", 500, "internal"),
    ] {
        let answer = api.get(&format!("/v1/analytics/{name}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{name}: {answer:?}");
        assert!(!answer.body.contains("secret") && !answer.body.contains("nowhere"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_stops_the_start_and_is_named() {
    for (text, expected) in [
        ("-- summary: x\n-- tabel: one\nselect 1", "bad.sql, line 2"),
        ("-- summary: x\n-- table: one\n-- param n UInt32 default x: n\nselect {n:UInt32}", "bad.sql, line 3"),
        ("-- summary: x\n-- table: one\n\nselect {n:UInt32}", "bad.sql, line 4"),
        ("-- summary: x\n-- table: one\n-- param n UInt32 optional: n\nselect\n  {n:UInt32}", "bad.sql, line 5"),
        ("-- table: one\nselect 1", "no `-- summary"),
    ] {
        let folder = folder(&[("bad.sql", text)]);
        let settings = Api::settings(|settings| settings.api.endpoints_dir = folder.path().display().to_string()).await;
        let error = platform::api::start(&settings, &Shutdown::manual()).await.expect_err("refused");
        assert_eq!(Failure::exit_code_of(&error), 78);
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
}
