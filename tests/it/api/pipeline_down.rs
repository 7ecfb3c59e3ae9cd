//! Tokens while the pipeline is down, for who is lenient, as a resource, and when too many wait.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use platform::domain::{Lsn, Token};
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::consistency::{advance, stand_in, summary, with_pipeline, write};
use super::{Api, send, unique};
use crate::support::wait::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_down_is_not_waited_for() {
    let (api, sink) = with_pipeline().await;
    let pipeline = api.settings.sink.pipeline.clone();
    let token = write(&api).await.to_string();
    advance(&api, 1, 1, Lsn::new(1)).await;
    let behind = summary(&api, &token, Some("wait=1")).await;
    assert_eq!((behind.status, behind.problem().as_str()), (503, "replica-behind"), "it may still come");
    let admin = api.postgres().await;
    let down = async |why: &str| {
        let began = Instant::now();
        wait_until(why, Duration::from_secs(15), || async {
            let answer = summary(&api, &token, Some("wait=30")).await;
            assert_eq!(answer.status, 503, "{answer:?}");
            answer.problem() == "pipeline-down"
                && answer.json()["detail"].as_str().is_some_and(|text| text.contains(why))
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(15), "at once, not after the wait");
        let resource = api.get(&format!("/v1/consistency/{token}")).await.json();
        assert!(resource["pipeline_down"].as_str().is_some_and(|text| text.contains(why)), "{resource}");
    };
    admin
        .execute(
            "insert into platform.pipelines (name, paused_at, paused_by) values ($1, now(), 'a test')",
            &[&pipeline],
        )
        .await
        .expect("paused");
    down("paused by a test").await;
    admin
        .execute("update platform.pipelines set paused_at = null where name = $1", &[&pipeline])
        .await
        .expect("resumed");
    wait_until("the pause has ended", Duration::from_secs(15), || async {
        summary(&api, &token, None).await.problem() == "replica-behind"
    })
    .await;

    // Who waits when it happens is told, too.
    let mut waiting = Box::pin(summary(&api, &token, Some("wait=30")));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "it waits");
    sink.batch_execute("select pg_advisory_unlock_all()").await.expect("given back");
    let told = waiting.await;
    assert_eq!((told.status, told.problem().as_str(), told.header("retry-after")), (503, "pipeline-down", Some("5")));
    down("no sink is running").await;
    sink.execute("select pg_advisory_lock(hashtextextended('platform.sink.' || $1, 0))", &[&pipeline])
        .await
        .expect("taken");

    sink.execute("select pg_drop_replication_slot($1)", &[&pipeline]).await.expect("dropped");
    down("no replication slot").await;

    // A halted sink gives its lease back, and says that it is there.
    let halted = "select pg_advisory_unlock_all(), pg_try_advisory_lock_shared(hashtextextended('platform.sink.halted.' || $1, 0))";
    sink.execute(halted, &[&pipeline]).await.expect("halted");
    sink.execute("select pg_create_logical_replication_slot($1, 'pgoutput', true)", &[&pipeline])
        .await
        .expect("a slot");
    let said = "insert into platform.sinks (pipeline, state, reason, detail, remedy, since, holder) \
                values ($1, 'halted', 'heartbeat-gap', 'secret detail', 'run `platform load`', now(), 'test')";
    admin.execute(said, &[&pipeline]).await.expect("said");
    down("the sink has halted (heartbeat-gap); run `platform load`").await;
    let answer = summary(&api, &token, None).await;
    assert!(!answer.body.contains("secret"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_lenient_gets_what_there_is() {
    let (api, sink) = with_pipeline().await;
    let token = write(&api).await.to_string();
    advance(&api, 1, 1, Lsn::new(1)).await;
    for (prefer, least) in [("handling=lenient", 0), ("wait=1, handling=lenient", 1)] {
        let began = Instant::now();
        let answer = summary(&api, &token, Some(prefer)).await;
        assert_eq!((answer.status, answer.header("x-data-stale")), (200, Some("true")), "{answer:?}");
        assert_eq!(answer.header("preference-applied"), Some(prefer));
        assert_eq!(answer.header("x-data-as-of-lsn"), Some("0/1"), "it says what it has seen");
        assert!(began.elapsed() >= Duration::from_secs(least));
    }
    sink.batch_execute("select pg_advisory_unlock_all()").await.expect("given back");
    wait_until("a pipeline that is down is no reason to wait", Duration::from_secs(15), || async {
        let began = Instant::now();
        let answer = summary(&api, &token, Some("wait=10, handling=lenient")).await;
        assert_eq!((answer.status, answer.header("x-data-stale")), (200, Some("true")), "{answer:?}");
        began.elapsed() < Duration::from_secs(5)
    })
    .await;
    advance(&api, 2, 1, Lsn::new(u64::MAX >> 8)).await;
    let seen = summary(&api, &token, Some("handling=lenient")).await;
    assert_eq!((seen.status, seen.header("x-data-stale")), (200, None), "it has seen the write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_a_resource() {
    let (api, _sink) = with_pipeline().await;
    let token = write(&api).await;
    let path = format!("/v1/consistency/{token}");
    let before = api.get(&path).await.json();
    assert_eq!(
        (&before["applied"], &before["applied_lsn"], &before["lag_ms"]),
        (&false.into(), &serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(before["lag_bytes"].as_u64(), Some(token.lsn.get()));
    advance(&api, 1, 1, Lsn::new(token.lsn.get() - 16)).await;
    wait_until("the checkpoint is seen", Duration::from_secs(10), || async {
        !api.get(&path).await.json()["applied_lsn"].is_null()
    })
    .await;
    let behind = api.get(&path).await;
    assert_eq!((behind.status, behind.header("preference-applied")), (200, None));
    let behind = behind.json();
    assert_eq!(
        (&behind["applied"], &behind["lag_bytes"], &behind["pipeline_down"]),
        (&false.into(), &16.into(), &serde_json::Value::Null)
    );
    assert_eq!(behind["required_lsn"], token.lsn.to_string());
    assert!(behind["lag_ms"].as_i64().is_some_and(|lag| lag >= 1500), "{behind}");

    let mut waiting = Box::pin(send(api.request(Method::GET, &path).header("prefer", "wait=25")));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "it waits");
    advance(&api, 2, 1, token.lsn).await;
    let applied = waiting.await;
    assert_eq!((applied.status, applied.header("preference-applied")), (200, Some("wait=25")));
    let applied = applied.json();
    assert_eq!((&applied["applied"], &applied["lag_bytes"]), (&true.into(), &0.into()));
    assert!(applied["waited_ms"].as_u64().is_some_and(|waited| waited >= 300), "{applied}");
    for (text, status, code) in [
        ("v1.1.XYZ".to_owned(), 400, "invalid-consistency-token"),
        (Token { lsn: Lsn::new(token.lsn.get() + (1 << 40)), ..token }.to_string(), 400, "invalid-consistency-token"),
        (Token { log: 9, ..token }.to_string(), 409, "other-log"),
    ] {
        let answer = api.get(&format!("/v1/consistency/{text}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_may_wait() {
    let api = Api::start_with(|settings| {
        settings.sink.pipeline = unique("tokens").replace('-', "_");
        settings.api.waiters_max = 1;
    })
    .await;
    let _sink = stand_in(&api).await;
    let token = write(&api).await;
    advance(&api, 1, 1, Lsn::new(1)).await;
    let text = token.to_string();
    let mut first = Box::pin(summary(&api, &text, Some("wait=25")));
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut first).await.is_err(), "it waits");
    let second = summary(&api, &text, Some("wait=25")).await;
    assert_eq!(
        (second.status, second.problem().as_str(), second.header("retry-after")),
        (503, "overloaded", Some("1"))
    );
    advance(&api, 2, 1, token.lsn).await;
    assert_eq!(first.await.status, 200);
    assert_eq!(summary(&api, &text, Some("wait=25")).await.status, 200, "the place is free again");
}

/// A Kafka Connect whose connector runs and whose only task is in the state that is set.
async fn connect_with_task(state: Arc<Mutex<&'static str>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let task = *state.lock().expect("not poisoned");
            let body = serde_json::json!({
                "name": "x", "type": "source", "connector": {"state": "RUNNING", "worker_id": "w"},
                "tasks": [{"id": 0, "state": task, "worker_id": "w", "trace": "secret"}],
            })
            .to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let mut request = [0; 4096];
            if socket.read(&mut request).await.is_ok() {
                drop(socket.write_all(answer.as_bytes()).await);
            }
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_whose_task_has_failed_is_down() {
    let task = Arc::new(Mutex::new("RUNNING"));
    let url = connect_with_task(Arc::clone(&task)).await;
    let api = Api::start_with(|settings| {
        settings.sink.pipeline = unique("tokens").replace('-', "_");
        settings.connect.url = url;
    })
    .await;
    let _sink = stand_in(&api).await;
    let token = write(&api).await.to_string();
    advance(&api, 1, 1, Lsn::new(1)).await;
    for (state, code) in [("RUNNING", "replica-behind"), ("FAILED", "pipeline-down"), ("RESTARTING", "replica-behind")]
    {
        *task.lock().expect("not poisoned") = state;
        wait_until(state, Duration::from_secs(20), || async { summary(&api, &token, None).await.problem() == code })
            .await;
    }
    *task.lock().expect("not poisoned") = "FAILED";
    let began = Instant::now();
    let told = summary(&api, &token, Some("wait=30")).await;
    assert_eq!((told.status, told.problem().as_str()), (503, "pipeline-down"));
    assert!(told.body.contains("the connector is FAILED") && !told.body.contains("secret"), "{told:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "not after the wait");
}
