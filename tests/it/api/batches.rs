//! `POST /v1/sentiment-social/batch`: all or none, or each by itself.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Api, send, small_post, unique};

const PATH: &str = "/v1/sentiment-social/batch";

async fn batch(api: &Api, parameters: &str, items: &Value) -> Answer {
    api.send_json(Method::POST, &format!("{PATH}{parameters}"), items).await
}

async fn stored(api: &Api, platform: &str) -> Vec<Value> {
    let path = format!("/v1/sentiment-social?platform={platform}&sort=id&limit=200");
    api.get(&path).await.json()["items"].as_array().expect("items").clone()
}

fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_posts_are_created_in_their_order_with_one_token() {
    let api = Api::start().await;
    let name = unique("batch");
    let mut rich = small_post(&name, "rich", "2020-01-02T03:04:05.678901Z");
    rich["hashtags"] = json!(["a,b", "{x}", "\"q\"", "NULL", "", "back\\slash"]);
    rich["raw"] = json!({"n": [1, null, "ä"]});
    rich["sentiment_score"] = json!("-0.7");
    rich["confidence"] = json!(1);
    rich["likes"] = json!(7);
    rich["author"] = json!("O'Brien");
    let items = json!([small_post(&name, "1", "2020-01-01"), rich, small_post(&name, "2", "2020-01-03")]);
    let answer = batch(&api, "", &items).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.header("x-consistency-token").is_some_and(|token| token.starts_with("v1.")));
    let result = answer.json();
    assert_eq!((&result["created"], &result["refused"]), (&json!(3), &json!(0)));
    let posts = stored(&api, &name).await;
    let ids: Vec<&Value> = posts.iter().map(|post| &post["id"]).collect();
    let told: Vec<&Value> = result["items"].as_array().expect("items").iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, told, "ids rise in the order of the body");
    let one = api.get(&format!("/v1/sentiment-social/{}", ids[1])).await;
    assert_eq!(one.header("etag"), Some(format!("\"{}\"", result["items"][1]["row_version"]).as_str()));
    // The same post by itself is stored the same way.
    let mut twin = items[1].clone();
    twin["post_id"] = json!("twin");
    let twin = api.post(&twin).await.json();
    for (member, value) in one.json().as_object().expect("a post") {
        if !["id", "post_id", "created_at", "updated_at"].contains(&member.as_str()) {
            assert_eq!(&twin[member], value, "{member}");
        }
    }
    assert_eq!(posts[0]["likes"], 0);
    assert_eq!(posts[0]["hashtags"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_read_as_an_array_is() {
    let api = Api::start().await;
    let name = unique("lines");
    let body =
        format!("\n{}\r\n", lines(&[small_post(&name, "1", "2020-01-01"), small_post(&name, "2", "2020-01-01")]));
    let request = api.request(Method::POST, PATH).header("content-type", "application/x-ndjson");
    let answer = send(request.body(body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(stored(&api, &name).await.len(), 2);
    for (kind, status) in [("text/csv", 415), ("application/json", 400)] {
        let request = api.request(Method::POST, PATH).header("content-type", kind);
        let answer = send(request.body(lines(&[small_post(&name, "3", "2020-01-01")]) + "{}")).await;
        assert_eq!(answer.status, status, "{kind}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_names_every_wrong_item_and_writes_nothing() {
    let api = Api::start().await;
    let name = unique("atomic");
    api.create(&small_post(&name, "taken", "2020-01-01")).await;
    api.create(&small_post(&name, "too", "2020-01-01")).await;
    let good = || small_post(&name, &unique("good"), "2020-01-01");
    let mut bad = good();
    bad["likes"] = json!(-1);
    bad["colour"] = json!("red");
    let mut jsonb = good();
    jsonb["raw"] = json!({"a": "\u{0}"});
    let cases = [
        (json!([good(), bad, 7, good(), {}]), 422, "invalid-body", vec!["/1/likes", "/1/colour", "/2", "/4/platform"]),
        (json!([good(), jsonb, good()]), 422, "invalid-body", vec!["/1/raw"]),
        (
            json!([small_post(&name, "a", "2020-01-01"), good(), small_post(&name, "a", "2021-01-01")]),
            409,
            "duplicate-post",
            vec!["/2"],
        ),
        (
            json!([small_post(&name, "taken", "2020-01-01"), good(), small_post(&name, "too", "2020-01-01")]),
            409,
            "duplicate-post",
            vec!["/0", "/2"],
        ),
        (json!([]), 422, "invalid-body", vec![]),
        (json!(vec![1; 1001]), 422, "invalid-body", vec![]),
        (json!({}), 400, "invalid-json", vec![]),
        (json!("x"), 400, "invalid-json", vec![]),
    ];
    for (items, status, code, named) in cases {
        for mode in ["", "?mode=atomic"] {
            let answer = batch(&api, mode, &items).await;
            assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{items}: {answer:?}");
            let pointers: Vec<String> =
                answer.named().iter().map(|error| error.split(' ').next().expect("a pointer").to_owned()).collect();
            assert!(
                named.iter().all(|pointer| pointers.iter().any(|found| found == pointer)),
                "{named:?} in {pointers:?}"
            );
            assert_eq!(answer.header("x-consistency-token"), None);
        }
    }
    let every = batch(&api, "", &json!(vec![json!({}); 1000])).await;
    let pointers = every.named();
    assert!(
        (0..1000).all(|index| pointers.contains(&format!("/{index}/platform required"))),
        "a thousand items, all named"
    );
    assert_eq!(stored(&api, &name).await.len(), 2, "nothing was written");
    let answer = batch(&api, "?mode=some&x=1", &json!([])).await;
    assert_eq!((answer.status, answer.named()), (400, vec!["mode invalid".to_owned(), "x unknown".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_batch_has_a_result_for_every_item() {
    let api = Api::start().await;
    let name = unique("partial");
    api.create(&small_post(&name, "taken", "2020-01-01")).await;
    let mut jsonb = small_post(&name, "jsonb", "2020-01-01");
    jsonb["raw"] = json!("\u{0}");
    let items = json!([
        small_post(&name, "1", "2020-01-01"),
        {"likes": "x"},
        small_post(&name, "taken", "2020-01-01"),
        jsonb,
        small_post(&name, "1", "2020-01-01"),
        7,
        small_post(&name, "2", "2020-01-01"),
    ]);
    let answer = batch(&api, "?mode=partial", &items).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    assert!(answer.header("x-consistency-token").is_some());
    let result = answer.json();
    let told: Vec<(u64, u64, &str)> = result["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| {
            let code = item["code"].as_str().unwrap_or_default();
            (item["index"].as_u64().expect("an index"), item["status"].as_u64().expect("a status"), code)
        })
        .collect();
    assert_eq!(
        told,
        [
            (0, 201, ""),
            (1, 422, "invalid-body"),
            (2, 409, "duplicate-post"),
            (3, 422, "invalid-body"),
            (4, 409, "duplicate-post"),
            (5, 400, "invalid-json"),
            (6, 201, ""),
        ]
    );
    assert_eq!((&result["created"], &result["refused"]), (&json!(2), &json!(5)));
    assert_eq!(result["items"][1]["errors"][0]["pointer"], "/platform");
    assert_eq!(stored(&api, &name).await.len(), 3);
    let none = batch(&api, "?mode=partial", &json!([7])).await;
    assert_eq!((none.status, &none.json()["created"]), (207, &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_is_executed_once() {
    let api = Api::start().await;
    for mode in ["", "?mode=partial"] {
        let (key, name) = (unique("key"), unique("again"));
        let items = json!([small_post(&name, "1", "2020-01-01"), small_post(&name, "2", "2020-01-01")]);
        let post = |items: Value, mode: &str| {
            let request = api.request(Method::POST, &format!("{PATH}{mode}")).header("idempotency-key", &key);
            send(request.json(&items))
        };
        let first = post(items.clone(), mode).await;
        let again = post(items.clone(), mode).await;
        assert_eq!(
            (first.status, first.header("idempotency-replayed")),
            (if mode.is_empty() { 201 } else { 207 }, None)
        );
        assert_eq!((again.status, again.header("idempotency-replayed")), (first.status, Some("true")));
        assert_eq!(again.body, first.body);
        assert_eq!(stored(&api, &name).await.len(), 2);
        let other = post(json!([small_post(&name, "3", "2020-01-01")]), mode).await;
        assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
        let mode = if mode.is_empty() { "?mode=partial" } else { "" };
        assert_eq!(post(items.clone(), mode).await.status, 422, "another mode is another request");
    }
    // With a key, too, refused items are found and nothing is half done.
    let (key, name) = (unique("key"), unique("again"));
    let mut jsonb = small_post(&name, "jsonb", "2020-01-01");
    jsonb["raw"] = json!("\u{0}");
    let request = api.request(Method::POST, &format!("{PATH}?mode=partial")).header("idempotency-key", &key);
    let answer = send(request.json(&json!([jsonb, small_post(&name, "1", "2020-01-01")]))).await;
    assert_eq!((answer.status, &answer.json()["created"]), (207, &json!(1)), "{answer:?}");
}

/// One INSERT, not a thousand: counted by PostgreSQL itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_posts_are_one_statement() {
    let api = Api::start().await;
    let name = unique("thousand");
    let items: Vec<Value> =
        (0..1000).map(|number| small_post(&name, &number.to_string(), "2020-01-01T00:00:00Z")).collect();
    let began = Instant::now();
    let answer = batch(&api, "", &json!(items)).await;
    let took = began.elapsed();
    assert_eq!((answer.status, &answer.json()["created"]), (201, &json!(1000)), "{answer:?}");
    println!("a batch of 1,000 posts took {took:?}");
    let sql = "select count(distinct xmin::text)::int8, count(distinct created_at)::int8, count(*) \
               from sentiment_social where platform = $1";
    let row = api.postgres().await.query_one(sql, &[&name]).await.expect("counted");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (1, 1, 1000), "one transaction");
    let minimal = api.request(Method::POST, PATH).header("prefer", "return=minimal");
    let minimal = send(minimal.json(&json!([small_post(&name, "minimal", "2020-01-01")]))).await;
    assert_eq!((minimal.status, minimal.body.as_str()), (201, ""));
    let other = api.get("/v1/sentiment-social/batch").await;
    assert_eq!((other.status, other.header("allow")), (405, Some("OPTIONS, POST")));
}
