//! Posts that are created at the same time share statements; each request has the answer that it would have had alone.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Api, send, small_post, unique};

/// Long enough for a busy machine, shorter than a statement may take.
const SOON: Duration = Duration::from_secs(20);

/// With one worker, so that requests meet.
async fn one_worker() -> Api {
    Api::start_with(|settings| {
        settings.api.workers = 1;
        settings.api.query_timeout_ms = 60_000;
    })
    .await
}

/// Posts that differ in which members they have.
fn varied(platform: &str, at: usize) -> Value {
    let mut post = small_post(platform, &format!("id {at} \"é\""), "2020-02-29T23:59:59.123456Z");
    let members = [
        ("author", json!("Ann\u{1F600}")),
        ("hashtags", json!(["a,b", "q\"\\", "NULL", ""])),
        ("sentiment_score", json!("-0.125")),
        ("confidence", json!(1)),
        ("likes", json!(at)),
        ("raw", json!({"n": 1.50, "list": [null, "x"]})),
    ];
    for (bit, (name, value)) in members.into_iter().enumerate() {
        if at >> bit & 1 == 1 {
            post[name] = value;
        }
    }
    post
}

/// Without what differs from one creation to the next.
fn lasting(answer: &Answer) -> Value {
    let mut post = answer.json();
    let members = post.as_object_mut().expect("an object");
    for name in ["id", "platform", "created_at", "updated_at"] {
        assert!(members.remove(name).is_some(), "{name} of {answer:?}");
    }
    post
}

#[tokio::test(flavor = "multi_thread")]
async fn together_is_answered_as_alone() {
    let api = one_worker().await;
    let (alone, together) = (unique("alone"), unique("together"));
    let mut expected = Vec::new();
    for at in 0..64 {
        let answer = api.post(&varied(&alone, at)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        expected.push(lasting(&answer));
    }
    let bodies: Vec<Value> = (0..64).map(|at| varied(&together, at)).collect();
    let answers = join_all(bodies.iter().map(|body| api.post(body))).await;
    for (answer, expected) in answers.iter().zip(&expected) {
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(lasting(answer), *expected);
        let id = answer.json()["id"].to_string();
        assert_eq!(answer.header("location"), Some(format!("/v1/sentiment-social/{id}").as_str()));
        assert_eq!(answer.header("etag"), Some("\"1\""));
        let token = answer.header("x-consistency-token").expect("a token");
        let valid = send(api.request(Method::GET, "/v1/consistency").header("x-consistency-token", token)).await;
        assert_ne!(valid.status, 400, "{valid:?}");
    }
    // The time of creation is the transaction's.
    let row = api
        .postgres()
        .await
        .query_one(
            "select count(*), count(distinct created_at) from sentiment_social where platform = $1",
            &[&together],
        )
        .await
        .expect("counted");
    let (posts, statements): (i64, i64) = (row.get(0), row.get(1));
    assert!(posts == 64 && statements < 64, "{posts} posts in {statements} transactions");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_post_does_wrong_the_others_do_not_feel() {
    let api = one_worker().await;
    let name = unique("mixed");
    // Every tenth is what PostgreSQL's jsonb refuses; of the others, each is sent twice.
    let bodies: Vec<Value> = (0..100)
        .map(|at| {
            let mut body = small_post(&name, &format!("{}", at / 2), "2020-01-01");
            if at % 10 == 9 {
                body["post_id"] = json!(format!("bad {at}"));
                body["raw"] = json!({"text": "\u{0}"});
            }
            body
        })
        .collect();
    let requests = bodies.iter().map(|body| {
        send(api.request(Method::POST, "/v1/sentiment-social").header("prefer", "return=minimal").json(body))
    });
    let answers = join_all(requests).await;
    let mut created = Vec::new();
    for (at, answer) in answers.iter().enumerate() {
        match (at % 10 == 9, answer.status) {
            (true, 422) => assert_eq!(answer.problem(), "invalid-body"),
            (false, 201) => {
                assert_eq!(answer.body, "", "{answer:?}");
                created.push(at / 2);
            }
            (false, 409) => assert_eq!(answer.problem(), "duplicate-post"),
            _ => panic!("{at}: {answer:?}"),
        }
    }
    created.sort_unstable();
    assert_eq!(created, (0..50).collect::<Vec<_>>(), "each post was created once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_meets_a_lock_waits_for_it_alone() {
    let api = one_worker().await;
    let name = unique("locked");
    let mut other = api.postgres().await;
    let transaction = other.transaction().await.expect("begun");
    transaction
        .execute(
            "insert into sentiment_social (platform, post_id, content, sentiment_label, posted_at) \
             values ($1, '20', '', 'neutral', '2020-01-01')",
            &[&name],
        )
        .await
        .expect("inserted, not committed");

    let create = |at: usize| {
        let body = small_post(&name, &at.to_string(), "2020-01-01");
        let api = &api;
        async move { api.post(&body).await }
    };
    let meets = create(20);
    let others = join_all((0..60).filter(|at| *at != 20).map(create));
    let mut meets = std::pin::pin!(meets);
    let others = tokio::select! {
        biased;
        others = tokio::time::timeout(SOON, others) => others.expect("the others do not wait for the lock"),
        answer = &mut meets => panic!("it was answered while the lock was held: {answer:?}"),
    };
    assert!(others.iter().all(|answer| answer.status == 201), "{others:?}");
    transaction.commit().await.expect("committed");
    let answer = meets.await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "duplicate-post"));
}
