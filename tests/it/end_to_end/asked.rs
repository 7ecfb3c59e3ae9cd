//! What callers of the API ask of the running platform is done: days are built, both databases compared, a table loaded anew,
//! the connector restarted, a parked row tried again.

use reqwest::Method;
use serde_json::{Value, json};

use super::{CATCH_UP, Hands};
use crate::support::wait::wait_until;
use crate::support::{Options, Stack};

struct Caller<'a> {
    stack: &'a Stack,
    http: reqwest::Client,
}

impl Caller<'_> {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.stack.api_url()));
        let request = request.bearer_auth(self.stack.api_key());
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Asks, and waits for the end.
    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, asked) = self.call(method, path, body).await;
        assert_eq!(status, 202, "{path}: {asked}");
        let place = format!("/v1/pipeline/requests/{}", asked["id"]);
        let is_over =
            || async { !["waiting", "begun"].contains(&self.get(&place).await["status"].as_str().expect("a word")) };
        wait_until(path, CATCH_UP, is_over).await;
        self.get(&place).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_callers_of_the_api_ask_for_is_done() {
    // The refresher would be quicker than the jobs that are asked for.
    let environment = vec![("PLATFORM__ETL__REFRESH_INTERVAL_MS".to_owned(), "0".to_owned())];
    let stack = Stack::start_with(Options { environment, ..Options::default() });
    let hands = Hands::of(&stack).await;
    let caller = Caller { stack: &stack, http: reqwest::Client::new() };
    hands
        .run(
            "insert into sentiment_social (platform, post_id, content, sentiment_label, sentiment_score, posted_at) \
              select 'asked', g::text, 'x', 'positive', 0.5, '2031-02-03 04:05:06+00' from generate_series(1, 50) g",
        )
        .await;

    let run = caller
        .done(
            Method::POST,
            "/v1/etl/runs",
            Some(json!({"from": "2031-02-03", "to": "2031-02-04", "aggregate": "sentiment_daily"})),
        )
        .await;
    assert_eq!((&run["status"], &run["result"]["built"]), (&json!("done"), &json!(2)), "{run}");
    let again = caller
        .done(Method::POST, "/v1/etl/runs", Some(json!({"date": "2031-02-03", "aggregate": "sentiment_daily"})))
        .await;
    assert_eq!(again["status"], "unchanged", "{again}");
    let history = caller.get("/v1/etl/runs?date=2031-02-03").await;
    let ends: Vec<&Value> = history["items"].as_array().expect("runs").iter().map(|run| &run["status"]).collect();
    assert_eq!(ends, ["unchanged", "done"]);
    assert_eq!((&history["items"][1]["rows_in"], &history["items"][1]["rows_out"]), (&json!(50), &json!(1)));
    let unknown =
        caller.done(Method::POST, "/v1/etl/runs", Some(json!({"date": "2031-02-03", "aggregate": "none"}))).await;
    assert_eq!(unknown["status"], "failed", "{unknown}");

    let order = Some(json!({"tables": ["sentiment_social"]}));
    let compared = caller.done(Method::POST, "/v1/reconciliations", order).await;
    assert_eq!(
        (&compared["status"], &compared["result"]["comparison"]),
        (&json!("done"), &json!("equal")),
        "{compared}"
    );
    let report = caller.get("/v1/reconciliations?limit=1").await["items"][0].clone();
    assert_eq!((&report["status"], &report["report"]["tables"][0]["rows_postgres"]), (&json!("equal"), &json!(50)));

    let before = caller.get("/v1/pipeline/tables/sentiment_social").await;
    let resync = caller.done(Method::POST, "/v1/pipeline/tables/sentiment_social/resync", None).await;
    assert_eq!(resync["status"], "done", "{resync}");
    let loaded = || async {
        let now = caller.get("/v1/pipeline/tables/sentiment_social").await;
        now["state"] == "live" && now["changed_at"] != before["changed_at"] && now["rows_loaded"] == 50
    };
    wait_until("the table is loaded anew", CATCH_UP, loaded).await;

    let restarted = caller.done(Method::POST, "/v1/pipeline/connector/restart", None).await;
    assert_eq!(restarted["status"], "done", "{restarted}");

    hands.run("update sentiment_social set posted_at = 'infinity' where platform = 'asked' and post_id = '7'").await;
    hands.caught_up().await;
    let letters = caller.get("/v1/dead-letters").await;
    let letter = letters["items"][0]["id"].as_str().expect("a letter").to_owned();
    hands.run("update sentiment_social set posted_at = '2031-02-05' where platform = 'asked' and post_id = '7'").await;
    hands.caught_up().await;
    let retried = caller.done(Method::POST, &format!("/v1/dead-letters/{letter}/retry"), None).await;
    assert_eq!(retried["status"], "done", "{retried}");
    assert_eq!(caller.get("/v1/dead-letters").await["items"], json!([]));

    let sampled =
        || async { caller.get("/v1/pipeline/lag").await["points"].as_array().is_some_and(|points| !points.is_empty()) };
    wait_until("the lag is remembered", CATCH_UP, sampled).await;
}
