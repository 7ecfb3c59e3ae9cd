//! Read your writes on the real stack.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use super::Hands;
use crate::support::Stack;
use crate::support::wait::wait_until;

const CLIENTS: usize = 8;
const WRITES: usize = 125;

struct Caller<'a> {
    http: Client,
    stack: &'a Stack,
}

impl<'a> Caller<'a> {
    fn of(stack: &'a Stack) -> Self {
        Self { http: Client::new(), stack }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.stack.api_url())).bearer_auth(self.stack.api_key())
    }

    /// Writes a post and returns its token.
    async fn write(&self, platform: &str, number: usize) -> String {
        let post = json!({"platform": platform, "post_id": number.to_string(), "content": "x", "sentiment_label": "positive",
                          "posted_at": "2031-01-01T12:00:00Z"});
        let answer = self.request(Method::POST, "/v1/sentiment-social").json(&post).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 201);
        answer.headers()["x-consistency-token"].to_str().expect("a text").to_owned()
    }

    /// Status and body of a read with a token.
    async fn read(&self, path: &str, token: &str, prefer: Option<&str>) -> (u16, Value) {
        let mut request = self.request(Method::GET, path).header("x-consistency-token", token);
        if let Some(prefer) = prefer {
            request = request.header("prefer", prefer);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }
}

fn total(set: &Value) -> u64 {
    let rows = set["data"].as_array().unwrap_or_else(|| panic!("no rows: {set}"));
    rows.iter().find(|row| row["dimension"] == "total").map_or(0, |row| row["posts"].as_u64().expect("a number"))
}

/// One client: each write is followed by a read that must have it; every other write is first asked for without a wait.
async fn client(stack: &Stack, number: usize) -> Vec<Duration> {
    let caller = Caller::of(stack);
    let platform = format!("tokens-{number}");
    let path = format!("/v1/analytics/summary?from=2031-01-01&to=2031-01-02&platform={platform}");
    let mut took = Vec::new();
    for written in 1..=WRITES {
        let began = Instant::now();
        let token = caller.write(&platform, written).await;
        let expected = u64::try_from(written).expect("small");
        if written % 5 == 0 {
            match caller.read(&path, &token, None).await {
                (200, set) => assert_eq!(total(&set), expected, "it says that it has the write"),
                (503, problem) => assert_eq!(problem["code"], "replica-behind"),
                other => panic!("{other:?}"),
            }
        }
        let (status, set) = caller.read(&path, &token, Some("wait=30")).await;
        assert_eq!((status, total(&set)), (200, expected), "client {number} misses write {written}: {set}");
        if written % 5 != 0 {
            took.push(began.elapsed());
        }
        if written % 25 == 0 {
            let daily = format!("/v1/stats/daily?from=2031-01-01&to=2031-01-02&platform={platform}");
            let (status, set) = caller.read(&daily, &token, Some("wait=30")).await;
            assert_eq!((status, set["data"][0]["posts"].as_u64()), (200, Some(expected)), "statistics too: {set}");
        }
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_a_write_of_their_own() {
    let stack = Stack::shared();
    wait_until("the first load is seen", Duration::from_secs(60), || async {
        let caller = Caller::of(stack);
        let answer = caller.request(Method::GET, "/v1/analytics/summary?from=2031-01-01&to=2031-01-02").send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() == 200)
    })
    .await;
    let clients = (0..CLIENTS).map(|number| client(stack, number));
    let mut took: Vec<Duration> = futures_util::future::join_all(clients).await.into_iter().flatten().collect();
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    eprintln!(
        "write to consistent read, {} reads by {CLIENTS} clients: p50 {:?}, p99 {:?}",
        took.len(),
        at(50),
        at(99)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_commits_late_is_not_applied_before() {
    let stack = Stack::shared();
    let caller = Caller::of(stack);
    let mut hands = Hands::of(stack).await;
    let late = hands.postgres.transaction().await.expect("begun");
    late.batch_execute(
        "insert into sentiment_social (platform, post_id, content, sentiment_label, posted_at) \
         values ('tokens-late', '1', 'x', 'mixed', '2032-01-01')",
    )
    .await
    .expect("inserted");
    // Others commit meanwhile, and the watermark passes the place of the row in the log.
    const PATH: &str = "/v1/analytics/summary?from=2032-01-01&to=2032-01-02&platform=tokens-late";
    for number in 0..3 {
        let token = caller.write("tokens-early", number).await;
        let (status, set) = caller.read(PATH, &token, Some("wait=30")).await;
        assert_eq!((status, total(&set)), (200, 0), "it is not committed: {set}");
    }
    late.commit().await.expect("committed");
    let row = hands.postgres.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.expect("read");
    let position: platform::domain::Lsn = row.get::<_, String>(0).parse().expect("a position");
    let token = platform::domain::Token { log: 1, lsn: position }.to_string();
    let mut answers = 0;
    wait_until("it is applied", Duration::from_secs(60), || {
        answers += 1;
        let token = token.clone();
        let caller = Caller::of(stack);
        async move {
            let answer =
                caller.request(Method::GET, &format!("/v1/consistency/{token}")).send().await.expect("an answer");
            let verdict: Value = answer.json().await.expect("JSON");
            if verdict["applied"] != true {
                // Whoever waits moves the stream.
                let (status, _) = caller.read(PATH, &token, Some("wait=1")).await;
                assert!(matches!(status, 200 | 503));
                return false;
            }
            let (status, set) = caller.read(PATH, &token, None).await;
            assert_eq!((status, total(&set)), (200, 1), "said to be applied: {set}");
            true
        }
    })
    .await;
    assert!(answers > 0);
}
