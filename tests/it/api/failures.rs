//! Databases that are away, slow or busy, and the end of the process.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::{Api, send, small_post, stack, unique};
use crate::support::wait::wait_until;

/// An address where nobody listens.
fn nobody() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgresql_posts_answer_503_and_analytics_go_on() {
    let api = Api::start_with(|settings| {
        settings.postgres.url = SecretString::from(format!("postgres://platform_api@{}/platform", nobody()));
        settings.api.auth = platform::config::Auth::Off;
    })
    .await;
    for answer in [api.get("/v1/sentiment-social").await, api.post(&small_post("x", "1", "2020-01-01")).await] {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "database-unavailable"));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(api.get("/v1/analytics/summary?from=1902-01-01&to=1902-01-02").await.status, 200);
    let ready = api.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["status"], &ready.json()["checks"][0]["name"]),
        (503, &json!("not_ready"), &json!("postgres"))
    );
    assert_eq!(api.get("/livez").await.status, 200);
    assert!(api.get("/").await.body.contains("down"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_clickhouse_analytics_answer_503_and_posts_go_on() {
    let api = Api::start_with(|settings| settings.clickhouse.url = format!("http://{}", nobody())).await;
    for path in ["/v1/analytics/summary?from=1902-01-01&to=1902-01-02", "/v1/stats/daily?from=1902-01-01&to=1902-01-02"]
    {
        let answer = api.get(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "database-unavailable"), "{path}");
    }
    let created = api.post(&small_post(&unique("alone"), "1", "2020-01-01")).await;
    assert_eq!(created.status, 201, "{created:?}");
    let token = created.header("x-consistency-token").expect("a token").to_owned();
    let request = api.request(Method::GET, "/v1/analytics/summary?from=1902-01-01&to=1902-01-02");
    let answer = send(request.header("x-consistency-token", token)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let ready = api.get("/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    let checks = ready.json()["checks"].clone();
    let ok: Vec<(&str, bool)> = checks
        .as_array()
        .expect("checks")
        .iter()
        .map(|check| (check["name"].as_str().expect("a name"), check["ok"].as_bool().expect("a bool")))
        .collect();
    assert_eq!(ok, [("postgres", true), ("clickhouse", false), ("drain", true)]);
    assert_eq!(api.get("/v1/pipeline").await.json()["clickhouse_unreachable"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_locks_and_connections_end() {
    let api = Api::start_with(|settings| {
        settings.api.workers = 1;
        settings.api.postgres_connections_per_worker = 1;
        settings.api.acquire_timeout_ms = 300;
        settings.api.query_timeout_ms = 1500;
    })
    .await;
    let path = format!("/v1/sentiment-social/{}", api.create(&small_post(&unique("locked"), "1", "2020-01-01")).await);
    let mut other = api.postgres().await;
    let id: i64 = path.rsplit('/').next().expect("an id").parse().expect("a number");
    let transaction = other.transaction().await.expect("begun");
    transaction.execute("select 1 from sentiment_social where id = $1 for update", &[&id]).await.expect("locked");
    let began = Instant::now();
    let patch = json!({"likes": 1});
    let (locked, waiting) = tokio::join!(api.send_json(Method::PATCH, &path, &patch), async {
        // The first request has the only connection once it waits for the row.
        let watching = api.postgres().await;
        wait_until("the first request waits for the row", Duration::from_secs(20), || async {
            let sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%sentiment_social%'";
            watching.query_one(sql, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0)
        })
        .await;
        api.get(&path).await
    });
    assert_eq!((locked.status, locked.problem().as_str()), (504, "timeout"), "{locked:?}");
    assert_eq!((waiting.status, waiting.problem().as_str()), (503, "overloaded"), "{waiting:?}");
    assert_eq!(waiting.header("retry-after"), Some("1"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    transaction.rollback().await.expect("ended");
    assert_eq!(
        api.send_json(Method::PATCH, &path, &json!({"likes": 1})).await.status,
        200,
        "the connection is good again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_requests_in_flight_get_their_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let slow = "-- summary: x\n-- table: one\n-- param n UInt32 required: n\n\
                select sum(sleepEachRow(0.5)) as in_flight, max({n:UInt32}) as n from numbers(10) settings max_block_size = 1";
    std::fs::write(folder.path().join("slow.sql"), slow).expect("written");
    let mut api = Api::start_with(|settings| {
        settings.api.endpoints_dir = folder.path().display().to_string();
        // Most of them are idle at the end, and end before those that still answer.
        settings.api.workers = 12;
        settings.api.postgres_connections_per_worker = 1;
    })
    .await;
    // Connections that are open before the end, to every worker; each of them has asked ClickHouse.
    let looks = join_all((0..36).map(|_| api.get("/readyz"))).await;
    assert!(looks.iter().all(|look| look.status == 200), "{looks:?}");
    let said_so = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    let running = api.running.take().expect("it runs");
    let (answers, (), ()) = tokio::join!(
        async {
            // Each another question: equal ones would share one query.
            let ask = async |n: u32| api.get(&format!("/v1/analytics/slow?n={n}")).await;
            let answers = join_all((1..=6).map(ask)).await;
            assert!(!ended.load(Ordering::SeqCst), "the answers came before the end");
            answers
        },
        async {
            let engine = api.clickhouse().await;
            wait_until("the queries run", Duration::from_secs(20), || async {
                let sql = "select 1 as one from system.processes where query like '%in_flight%' \
                           and query not like '%system.processes%'";
                engine.fetch_all::<serde_json::Value>(sql, &[]).await.is_ok_and(|rows| rows.len() == 6)
            })
            .await;
            api.shutdown.token().cancel();
            wait_until("readiness is red", Duration::from_secs(5), || async { api.get("/readyz").await.status == 503 })
                .await;
            said_so.store(true, Ordering::SeqCst);
        },
        async {
            running.ended().await.expect("a good end");
            ended.store(true, Ordering::SeqCst);
        }
    );
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(said_so.load(Ordering::SeqCst));
    let refused = api.http.get(format!("http://{}/livez", api.address)).send().await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_ends_in_order_on_sigterm() {
    let settings = Api::settings(|_| {}).await;
    let address = nobody();
    let mut command = stack().await.command(&["serve", "--bind", &address.to_string()]);
    command.env("PLATFORM__POSTGRES__URL", settings.postgres.url.expose_secret());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let http = reqwest::Client::new();
    wait_until("it serves", Duration::from_secs(60), || async {
        let answer = http.get(format!("http://{address}/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("signalled");
    let mut status = None;
    let deadline = Duration::from_secs(20);
    wait_until("it ends", deadline, || {
        status = child.try_wait().expect("a child");
        let ended = status.is_some();
        async move { ended }
    })
    .await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}
