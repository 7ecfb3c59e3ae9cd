//! Answers that are given again: as long as nothing changed, once for all who ask, and ended with the last who waits.

use std::time::{Duration, Instant};

use platform::store::clickhouse::ClickHouse;
use reqwest::Method;
use serde::Deserialize;

use super::consistency::advance;
use super::{Answer, Api, send, unique};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::wait_until;
use platform::domain::Lsn;

const SOON: Duration = Duration::from_secs(20);

/// An API with one endpoint over a table of its own, and with more of `files`.
pub(super) async fn with_table(
    files: &[(&str, &str)],
    change: impl FnOnce(&mut platform::config::Settings),
) -> (Api, String) {
    let table = unique("kept").replace('-', "_");
    let folder = tempfile::tempdir().expect("a folder");
    let count = format!(
        "-- summary: Rows\n-- table: {table}\n-- param least UInt32 default 0: from\n\
         select count() as found from analytics.{table} where n >= {{least:UInt32}}"
    );
    std::fs::write(folder.path().join("count.sql"), count).expect("written");
    for (name, sql) in files {
        std::fs::write(folder.path().join(name), sql.replace("TABLE", &table)).expect("written");
    }
    let api = Api::start_with(|settings| {
        settings.api.endpoints_dir = folder.path().display().to_string();
        settings.api.query_timeout_ms = 60_000;
        change(settings);
    })
    .await;
    let clickhouse = api.clickhouse().await;
    let sql = format!("create table analytics.{table} (n UInt32) engine = MergeTree order by n");
    clickhouse.execute(&sql, &[]).await.expect("made");
    (api, table)
}

pub(super) async fn insert(api: &Api, table: &str, value: u32) {
    let sql = format!("insert into analytics.{table} values ({value})");
    api.clickhouse().await.execute(&sql, &[]).await.expect("inserted");
}

async fn get_with(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = api.request(Method::GET, path);
    send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

fn tag(answer: &Answer) -> String {
    assert!(matches!(answer.status, 200 | 304), "{answer:?}");
    answer.header("etag").expect("a tag").to_owned()
}

/// Asks until the table's version is known and the answer is kept.
pub(super) async fn until_kept(api: &Api, path: &str) -> Answer {
    wait_until("the answer is kept", SOON, || async {
        api.get(path).await.header("cache-status") == Some("platform; hit")
    })
    .await;
    api.get(path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_stays_while_no_row_changes_whatever_the_watermark_does() {
    let (api, table) = with_table(&[], |_| {}).await;
    const PATH: &str = "/v1/analytics/count?least=1";
    insert(&api, &table, 1).await;
    advance(&api, 1, 1, Lsn::new(100)).await;
    wait_until("the row is seen", SOON, || async {
        let answer = api.get(PATH).await;
        answer.status == 200 && answer.json()["data"][0]["found"] == 1 && answer.header("x-data-as-of-lsn").is_some()
    })
    .await;
    let first = until_kept(&api, PATH).await;
    let kept = tag(&first);
    assert!(kept.starts_with('"'), "a strong tag: {kept}");
    for headers in [[("if-none-match", kept.as_str())], [("if-none-match", "\"7\", *")]] {
        let unchanged = get_with(&api, PATH, &headers).await;
        assert_eq!(
            (unchanged.status, unchanged.body.as_str(), tag(&unchanged)),
            (304, "", kept.clone()),
            "{headers:?}"
        );
    }
    // Heartbeats move the watermark of a stream on which nothing happens.
    for batch in 2..4 {
        let watermark = Lsn::new(100 + batch);
        advance(&api, batch, 1, watermark).await;
        wait_until("the watermark is seen", SOON, || async {
            let answer = get_with(&api, PATH, &[("if-none-match", &kept)]).await;
            assert_eq!(answer.status, 304, "no row has changed: {answer:?}");
            answer.header("x-data-as-of-lsn") == Some(watermark.to_string().as_str())
        })
        .await;
        let answer = api.get(PATH).await;
        assert_eq!((answer.body.as_str(), answer.header("cache-status")), (first.body.as_str(), Some("platform; hit")));
    }
    assert_ne!(tag(&api.get("/v1/analytics/count?least=0").await), kept, "another question");
    assert_ne!(tag(&api.get("/v1/analytics/count?least=1&format=csv").await), kept, "another format");

    insert(&api, &table, 2).await;
    wait_until("the change is seen", SOON, || async {
        let answer = get_with(&api, PATH, &[("if-none-match", &kept)]).await;
        answer.status == 200 && answer.json()["data"][0]["found"] == 2 && tag(&answer) != kept
    })
    .await;
    let metrics = api.get("/metrics").await.body;
    for source in ["hit", "miss", "not_modified"] {
        assert!(metrics.contains(&format!("platform_api_answers_total{{source=\"{source}\"}}")), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_want_none_that_is_kept() {
    let momentary = "-- summary: x\n-- table: TABLE\nselect now64(6) as moment, count() as found from analytics.TABLE";
    let off = "-- summary: x\n-- table: TABLE\n-- cache: off\nselect count() as found from analytics.TABLE";
    let (api, table) = with_table(&[("moment.sql", momentary), ("off.sql", off)], |_| {}).await;
    insert(&api, &table, 1).await;
    let kept = until_kept(&api, "/v1/analytics/count").await;
    for directive in ["no-cache", "max-age=0, no-store"] {
        let fresh = get_with(&api, "/v1/analytics/count", &[("cache-control", directive)]).await;
        assert_eq!(fresh.header("cache-status"), Some("platform; fwd=request"), "{fresh:?}");
        assert_eq!(fresh.json()["data"], kept.json()["data"]);
        let tags = [("cache-control", directive), ("if-none-match", kept.header("etag").expect("a tag"))];
        let computed = get_with(&api, "/v1/analytics/count", &tags).await;
        assert_eq!(computed.header("cache-status"), Some("platform; fwd=request"), "it was asked: {computed:?}");
    }
    for name in ["moment", "off"] {
        for _ in 0..2 {
            let answer = api.get(&format!("/v1/analytics/{name}")).await;
            assert_eq!(
                (answer.status, answer.header("etag"), answer.header("cache-status")),
                (200, None, None),
                "{name}"
            );
        }
    }
    let (small, _) = with_table(&[], |settings| settings.api.cache_bytes_max = 0).await;
    for _ in 0..2 {
        let answer = small.get("/v1/analytics/count").await;
        wait_until("the table's version is known", SOON, || async {
            small.get("/v1/analytics/count").await.header("etag").is_some()
        })
        .await;
        assert_ne!(answer.header("cache-status"), Some("platform; hit"), "nothing is kept: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_needs_no_clickhouse_and_says_how_old_it_is() {
    let url = super::stack().await.settings().clickhouse.url;
    let proxy = Proxy::before(url.trim_start_matches("http://").to_owned()).await;
    let address = proxy.address();
    let (api, table) = with_table(&[], |settings| settings.clickhouse.url = format!("http://{address}")).await;
    const PATH: &str = "/v1/analytics/count";
    insert(&api, &table, 1).await;
    advance(&api, 1, 1, Lsn::new(7)).await;
    wait_until("the checkpoint is seen", SOON, || async { api.get(PATH).await.header("x-data-as-of-lsn").is_some() })
        .await;
    let kept = until_kept(&api, PATH).await;
    proxy.set(Mode::Closed);
    wait_until("ClickHouse is away", SOON, || async { api.get("/v1/analytics/count?least=9").await.status == 503 })
        .await;
    insert(&api, &table, 2).await;
    advance(&api, 2, 1, Lsn::new(8)).await;
    let answer = api.get(PATH).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, kept.body.as_str()));
    assert_eq!(answer.header("x-data-as-of-lsn"), Some("0/7"), "not more than it has seen");
    let unchanged = get_with(&api, PATH, &[("if-none-match", kept.header("etag").expect("a tag"))]).await;
    assert_eq!((unchanged.status, unchanged.header("x-data-as-of-lsn")), (304, Some("0/7")));
    proxy.set(Mode::Open);
    wait_until("the change is seen", SOON, || async {
        let answer = api.get(PATH).await;
        answer.status == 200
            && answer.json()["data"][0]["found"] == 2
            && answer.header("x-data-as-of-lsn") == Some("0/8")
    })
    .await;
}

/// A SELECT that takes 30 seconds, unless it is ended.
const SLOW: &str = "-- summary: x\n-- table: TABLE\nselect sleepEachRow(0.5) as s, 'TABLE-slow' as mark from numbers(60) \
                    settings max_block_size = 1";

/// How many queries with this text ClickHouse runs now.
async fn running(clickhouse: &ClickHouse, mark: &str) -> u64 {
    #[derive(Deserialize)]
    struct Row {
        running: String,
    }
    let sql = "select count() as running from system.processes where position(query, {mark:String}) > 0 \
               and position(query, 'system.processes') = 0";
    let row: Option<Row> = clickhouse.fetch_optional(sql, &[("mark", mark)]).await.expect("read");
    row.expect("a row").running.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_run_once_and_end_with_the_last_who_asks() {
    let (api, table) = with_table(&[("slow.sql", SLOW)], |_| {}).await;
    let clickhouse = api.clickhouse().await;
    let mark = format!("{table}-slow");
    wait_until("the table's version is known", SOON, || async {
        api.get("/v1/analytics/count").await.header("etag").is_some()
    })
    .await;
    let ask = || tokio::spawn(send(api.request(Method::GET, "/v1/analytics/slow")));
    let first = ask();
    wait_until("it runs", SOON, || async { running(&clickhouse, &mark).await == 1 }).await;
    let others = [ask(), ask(), ask()];
    // Another question is another query.
    let other = tokio::spawn(send(api.request(Method::GET, "/v1/analytics/slow?format=csv")));
    wait_until("the other one runs", SOON, || async { running(&clickhouse, &mark).await == 2 }).await;
    first.abort();
    other.abort();
    wait_until("the other one is ended", SOON, || async { running(&clickhouse, &mark).await == 1 }).await;
    let began = Instant::now();
    for waiting in &others {
        assert!(!waiting.is_finished(), "the first one's going did not end it");
    }
    for waiting in others {
        waiting.abort();
    }
    wait_until("it is ended", SOON, || async { running(&clickhouse, &mark).await == 0 }).await;
    assert!(began.elapsed() < Duration::from_secs(20), "long before it would have ended by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_query_gets_its_answer() {
    let slow = SLOW.replace("numbers(60)", "numbers(4)");
    let (api, table) = with_table(&[("slow.sql", &slow)], |_| {}).await;
    let clickhouse = api.clickhouse().await;
    wait_until("the table's version is known", SOON, || async {
        api.get("/v1/analytics/count").await.header("etag").is_some()
    })
    .await;
    let first = tokio::spawn(send(api.request(Method::GET, "/v1/analytics/slow")));
    wait_until("it runs", SOON, || async { running(&clickhouse, &format!("{table}-slow")).await == 1 }).await;
    let asked = (0..3).map(|_| send(api.request(Method::GET, "/v1/analytics/slow")));
    let joined = futures_util::future::join_all(asked).await;
    let first = first.await.expect("an answer");
    assert_eq!((first.status, first.header("cache-status")), (200, Some("platform; fwd=miss")), "{first:?}");
    for answer in joined {
        let source = answer.header("cache-status").expect("a source");
        assert!(["platform; fwd=miss; collapsed", "platform; hit"].contains(&source), "{answer:?}");
        assert_eq!((answer.body.as_str(), tag(&answer)), (first.body.as_str(), tag(&first)));
    }
}
