//! Clients that are slow, many, or gone: they cost little, and others are answered meanwhile.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Api, send, small_post, unique};
use crate::support::wait::wait_until;

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.address).await.expect("connected")
}

/// What comes until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end_are_cut_off_while_others_are_answered() {
    let api = Api::start().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(&api).await;
        stream.write_all(b"GET /v1/sentiment-social HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("written");
        slow.push(stream);
    }
    assert_eq!(api.get("/v1/sentiment-social?limit=1").await.status, 200);
    // One of them goes on drop by drop: that does not help it.
    let dripping = slow.pop().expect("one");
    wait_until("the one that drips is cut off", Duration::from_secs(40), || {
        let sent = dripping.try_write(b"a").is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
        async move { sent }
    })
    .await;
    for mut stream in slow {
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_are_answered_408() {
    let api = Api::start_with(|settings| settings.api.body_timeout_ms = 700).await;
    let head = format!(
        "POST /v1/sentiment-social HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        api.key
    );
    for length in ["Content-Length: 100\r\n\r\n{\"plat", "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"pla\r\n"] {
        let mut stream = connect(&api).await;
        stream.write_all(format!("{head}{length}").as_bytes()).await.expect("written");
        // The framework keeps reading what is left of the body, so the answer is read to the end of the problem, not of the
        // connection.
        let mut answer = Vec::new();
        let reading = async {
            while !answer.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut answer).await.expect("read"), 0, "closed before the answer");
            }
        };
        tokio::time::timeout(Duration::from_secs(40), reading).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"code\":\"request-timeout\""), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_keep_nobody_waiting() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if soft < 8192 {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).expect("more files");
    }
    let api = Api::start().await;
    let mut idle = Vec::new();
    for number in 0..1000 {
        let mut stream = connect(&api).await;
        // Half of them have had an answer.
        if number % 2 == 0 {
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.expect("an answer");
            assert_eq!(&first, b"HTTP/1.1 200");
        }
        idle.push(stream);
    }
    let name = unique("idle");
    for number in 0..20 {
        let answer = api.post(&small_post(&name, &number.to_string(), "2020-01-01")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    assert_eq!(api.get(&format!("/v1/sentiment-social?platform={name}")).await.status, 200);
    assert_eq!(idle.len(), 1000);
}

/// A client that goes away takes its statement with it: PostgreSQL's own list of what runs is the witness.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_its_statement() {
    let api = Api::start_with(|settings| {
        settings.api.workers = 1;
        settings.api.postgres_connections_per_worker = 1;
        settings.api.query_timeout_ms = 300_000;
        settings.postgres.statement_timeout_ms = 300_000;
        settings.api.acquire_timeout_ms = 20_000;
    })
    .await;
    let id = api.create(&small_post(&unique("gone"), "1", "2020-01-01")).await;
    let path = format!("/v1/sentiment-social/{id}");
    let mut other = api.postgres().await;
    let transaction = other.transaction().await.expect("begun");
    transaction.execute("select 1 from sentiment_social where id = $1 for update", &[&id]).await.expect("locked");
    let pid: i32 = transaction.query_one("select pg_backend_pid()", &[]).await.expect("a number").get(0);
    let watching = api.postgres().await;
    let waiting = async || {
        let sql =
            "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid)) and usename = 'platform_api'";
        watching.query_one(sql, &[&pid]).await.expect("counted").get::<_, i64>(0)
    };
    let body = json!({"likes": 1}).to_string();
    let head = format!("PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", api.key);
    let request = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for _ in 0..5 {
        let mut stream = connect(&api).await;
        stream.write_all(request.as_bytes()).await.expect("written");
        wait_until("the statement waits for the row", Duration::from_secs(20), || async { waiting().await == 1 }).await;
        drop(stream);
        wait_until("the statement has ended", Duration::from_secs(20), || async { waiting().await == 0 }).await;
    }
    // The only connection is good for the next one.
    let answer = api.get("/v1/sentiment-social?limit=1").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    transaction.rollback().await.expect("ended");
    let patched = send(api.request(Method::PATCH, &path).json(&json!({"likes": 2}))).await;
    assert_eq!(
        (patched.status, &patched.json()["row_version"]),
        (200, &json!(2)),
        "none of the abandoned ones was executed"
    );
    assert!(api.get("/metrics").await.body.contains("platform_api_abandoned_queries_total"));
}
