//! `Idempotency-Key`: a repeated request creates nothing and gets the first answer.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Api, send, small_post, unique};

async fn post(api: &Api, key: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, "/v1/sentiment-social").header("idempotency-key", key).json(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer() {
    let api = Api::start().await;
    let (key, name) = (unique("key"), unique("idempotent"));
    let body = small_post(&name, "1", "2020-01-01");
    let first = post(&api, &key, &body).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None), "{first:?}");
    let path = first.header("location").expect("a location").to_owned();
    api.send_json(Method::PATCH, &path, &json!({"likes": 9})).await;
    let again = post(&api, &key, &body).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(again.body, first.body, "the first answer, not the present state");
    assert_eq!((again.header("location"), again.header("etag")), (first.header("location"), first.header("etag")));
    assert!(again.header("x-consistency-token").is_some());
    assert_eq!(
        api.get(&format!("/v1/sentiment-social?platform={name}")).await.json()["items"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request_of_one_caller() {
    let api = Api::start().await;
    let (key, name) = (unique("key"), unique("reused"));
    assert_eq!(post(&api, &key, &small_post(&name, "1", "2020-01-01")).await.status, 201);
    let other = post(&api, &key, &small_post(&name, "2", "2020-01-01")).await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
    let second_caller = api.new_key(&["write"], "null").await;
    let request = api.http.request(Method::POST, format!("http://{}/v1/sentiment-social", api.address));
    let request = request.bearer_auth(second_caller.expose()).header("idempotency-key", &key);
    assert_eq!(
        send(request.json(&small_post(&name, "3", "2020-01-01"))).await.status,
        201,
        "another caller's keys are others"
    );
    for bad in ["", " ", &"x".repeat(256)] {
        let answer = post(&api, bad, &small_post(&name, "4", "2020-01-01")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-header"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_does_not_use_up_its_key() {
    let api = Api::start().await;
    let (key, name) = (unique("key"), unique("failed"));
    let id = api.create(&small_post(&name, "1", "2020-01-01")).await;
    let body = small_post(&name, "1", "2020-01-01");
    assert_eq!(post(&api, &key, &body).await.problem(), "duplicate-post");
    assert_eq!(post(&api, &key, &json!({})).await.problem(), "invalid-body");
    assert_eq!(send(api.request(Method::DELETE, &format!("/v1/sentiment-social/{id}"))).await.status, 204);
    assert_eq!(post(&api, &key, &body).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_request_still_runs_is_told_so() {
    let api = Api::start().await;
    let (key, name) = (unique("key"), unique("running"));
    let body = small_post(&name, "1", "2020-01-01");
    let mut other = api.postgres().await;
    let transaction = other.transaction().await.expect("begun");
    let prefix = platform::domain::ApiKey::parse(&api.key).expect("a key").prefix().to_owned();
    transaction
        .execute("select pg_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 7))", &[&prefix, &key])
        .await
        .expect("locked");
    let answer = post(&api, &key, &body).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "idempotency-key-in-use"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    transaction.rollback().await.expect("ended");
    assert_eq!(post(&api, &key, &body).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_post_comes() {
    let api = Api::start().await;
    let (key, name) = (unique("key"), unique("storm"));
    let body = small_post(&name, "1", "2020-01-01");
    let answers = futures_util::future::join_all((0..12).map(|_| post(&api, &key, &body))).await;
    let fresh = answers.iter().filter(|answer| answer.status == 201 && answer.header("idempotency-replayed").is_none());
    assert_eq!(fresh.count(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(answer.problem(), "idempotency-key-in-use");
    }
    assert_eq!(
        api.get(&format!("/v1/sentiment-social?platform={name}")).await.json()["items"].as_array().map(Vec::len),
        Some(1)
    );
}
