//! One post: create, read, change, replace, delete; exact values; conditional requests.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Api, send, small_post, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_created_read_changed_replaced_and_deleted() {
    let api = Api::start().await;
    let name = unique("life");
    let created = api.post(&small_post(&name, "1", "2020-01-02T03:04:05Z")).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = created.header("location").expect("a location").to_owned();
    assert_eq!(path, format!("/v1/sentiment-social/{}", created.json()["id"]));
    assert_eq!(created.header("etag"), Some("\"1\""));
    assert!(created.header("x-consistency-token").is_some_and(|token| token.starts_with("v1.")));

    let read = api.get(&path).await;
    assert_eq!((read.status, read.json()), (200, created.json()));
    assert_eq!(read.header("x-consistency-token"), None);

    let patched = api.send_json(Method::PATCH, &path, &json!({"likes": 7, "author": "ann"})).await;
    assert_eq!((patched.status, patched.header("etag")), (200, Some("\"2\"")), "{patched:?}");
    assert_eq!((&patched.json()["likes"], &patched.json()["content"]), (&json!(7), &json!("Hello")));
    assert!(patched.header("x-consistency-token").is_some());

    let replaced = api.send_json(Method::PUT, &path, &small_post(&name, "2", "2020-01-02T03:04:05Z")).await;
    assert_eq!(replaced.status, 200, "{replaced:?}");
    let (post, before) = (replaced.json(), created.json());
    assert_eq!((&post["likes"], &post["author"], &post["post_id"]), (&json!(0), &Value::Null, &json!("2")));
    assert_eq!((&post["id"], &post["created_at"]), (&before["id"], &before["created_at"]));

    let deleted = send(api.request(Method::DELETE, &path)).await;
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""), "{deleted:?}");
    assert!(deleted.header("x-consistency-token").is_some());
    for method in [Method::GET, Method::DELETE] {
        let gone = send(api.request(method, &path)).await;
        assert_eq!((gone.status, gone.problem().as_str()), (404, "not-found"));
    }
    let gone = api.send_json(Method::PATCH, &path, &json!({"likes": 1})).await;
    assert_eq!((gone.status, gone.problem().as_str()), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_exactly() {
    let api = Api::start().await;
    let name = unique("exact");
    let raw = r#"{"n": 12345678901234567890.123456789012345678901, "e": "\u00e9 \ud83d\ude00", "list": [1, null, {}]}"#;
    let body = format!(
        r#"{{"platform":"{name}","post_id":"ä \" \\ 😀","content":"line\nline\ttab \u0001 😀","author":"O'Brien; drop table x",
        "lang":"pt-BR","topic":"","hashtags":["a,b","{{x}}","\"q\"","NULL",""],"sentiment_label":"mixed","sentiment_score":-0.7,
        "confidence":"1.000","likes":2147483647,"replies":0,"shares":1,"model_name":"m","raw":{raw},
        "posted_at":"2020-02-29T23:59:59.123456+05:30"}}"#
    );
    let request =
        api.request(Method::POST, "/v1/sentiment-social").header("content-type", "application/json; charset=UTF-8");
    let created = send(request.body(body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let post = created.json();
    assert_eq!(post["post_id"], "ä \" \\ 😀");
    assert_eq!(post["content"], "line\nline\ttab \u{1} 😀");
    assert_eq!(post["author"], "O'Brien; drop table x");
    assert_eq!(post["topic"], "");
    assert_eq!(post["hashtags"], json!(["a,b", "{x}", "\"q\"", "NULL", ""]));
    assert_eq!((&post["sentiment_score"], &post["confidence"]), (&json!("-0.700"), &json!("1.000")));
    assert_eq!(post["likes"], 2_147_483_647);
    assert_eq!(post["posted_at"], "2020-02-29T18:29:59.123456Z");
    // As text: reading it as a float would hide what it must show.
    assert!(created.body.contains("12345678901234567890.123456789012345678901"), "{created:?}");
    let again = api.get(created.header("location").expect("a location")).await;
    assert_eq!(again.body, created.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_merges_json_and_null_takes_values_away() {
    let api = Api::start().await;
    let name = unique("merge");
    let mut post = small_post(&name, "1", "2020-01-01");
    post["raw"] = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
    post["likes"] = json!(5);
    post["lang"] = json!("en");
    post["hashtags"] = json!(["x"]);
    let path = format!("/v1/sentiment-social/{}", api.create(&post).await);
    let cases = [
        (json!({"raw": {"a": {"b": null, "e": 3}}}), json!({"a": {"c": 2, "e": 3}, "d": [1, 2]})),
        (json!({"raw": {"d": {"f": 1}}}), json!({"a": {"c": 2, "e": 3}, "d": {"f": 1}})),
        (json!({"raw": [1]}), json!([1])),
        (json!({"raw": {"g": null}}), json!({})),
        (json!({"raw": null}), Value::Null),
    ];
    for (patch, expected) in cases {
        let request = api.request(Method::PATCH, &path).header("content-type", "application/merge-patch+json");
        let answer = send(request.body(patch.to_string())).await;
        assert_eq!((answer.status, &answer.json()["raw"]), (200, &expected), "{patch}: {answer:?}");
    }
    let answer = api.send_json(Method::PATCH, &path, &json!({"likes": null, "lang": null, "hashtags": null})).await;
    let post = answer.json();
    assert_eq!((&post["likes"], &post["lang"], &post["hashtags"]), (&json!(0), &Value::Null, &json!([])));
    let version = post["row_version"].clone();
    let empty = api.send_json(Method::PATCH, &path, &json!({})).await;
    assert_eq!((empty.status, &empty.json()["row_version"]), (200, &version), "an empty patch changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_keep_lost_updates_away() {
    let api = Api::start().await;
    let path = format!("/v1/sentiment-social/{}", api.create(&small_post(&unique("etag"), "1", "2020-01-01")).await);
    for (tags, status) in [("\"1\"", 304), ("W/\"1\"", 304), ("\"0\", \"1\"", 304), ("*", 304), ("\"2\"", 200)] {
        let answer = send(api.request(Method::GET, &path).header("if-none-match", tags)).await;
        assert_eq!((answer.status, answer.header("etag")), (status, Some("\"1\"")), "{tags}");
        assert_eq!(answer.body.is_empty(), status == 304, "{tags}");
    }
    let patch = |tags: &str, likes: i32| {
        send(api.request(Method::PATCH, &path).header("if-match", tags).json(&json!({"likes": likes})))
    };
    assert_eq!(patch("\"1\"", 1).await.status, 200);
    for stale in ["\"1\"", "W/\"2\"", "\"x\""] {
        let answer = patch(stale, 2).await;
        assert_eq!((answer.status, answer.problem().as_str()), (412, "precondition-failed"), "{stale}");
    }
    let malformed = patch("2", 2).await;
    assert_eq!((malformed.status, malformed.problem().as_str()), (400, "invalid-header"));
    assert_eq!(api.get(&path).await.json()["likes"], 1);
    assert_eq!(patch("\"7\", \"2\"", 2).await.status, 200);
    assert_eq!(patch("*", 3).await.status, 200);
    let stale = send(api.request(Method::DELETE, &path).header("if-match", "\"1\"")).await;
    assert_eq!((stale.status, stale.problem().as_str()), (412, "precondition-failed"));
    assert_eq!(send(api.request(Method::DELETE, &path).header("if-match", "\"4\"")).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_changes_at_once_with_one_etag_one_wins() {
    let api = Api::start().await;
    let path = format!("/v1/sentiment-social/{}", api.create(&small_post(&unique("race"), "1", "2020-01-01")).await);
    let changes = (0..8).map(|likes| {
        send(api.request(Method::PATCH, &path).header("if-match", "\"1\"").json(&json!({"likes": likes})))
    });
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(changes).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_and_post_id_are_unique() {
    let api = Api::start().await;
    let name = unique("twice");
    api.create(&small_post(&name, "1", "2020-01-01")).await;
    let again = api.post(&small_post(&name, "1", "2021-01-01")).await;
    assert_eq!((again.status, again.problem().as_str()), (409, "duplicate-post"));
    let other = format!("/v1/sentiment-social/{}", api.create(&small_post(&name, "2", "2020-01-01")).await);
    let moved = api.send_json(Method::PATCH, &other, &json!({"post_id": "1"})).await;
    assert_eq!((moved.status, moved.problem().as_str()), (409, "duplicate-post"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_do_without_bodies() {
    let api = Api::start().await;
    let post = small_post(&unique("minimal"), "1", "2020-01-01");
    let created =
        send(api.request(Method::POST, "/v1/sentiment-social").header("prefer", "return=minimal").json(&post)).await;
    assert_eq!((created.status, created.body.as_str()), (201, ""), "{created:?}");
    assert_eq!(created.header("preference-applied"), Some("return=minimal"));
    let path = created.header("location").expect("a location").to_owned();
    let patch = api.request(Method::PATCH, &path).header("prefer", "return=minimal").json(&json!({"likes": 1}));
    let patched = send(patch).await;
    assert_eq!(
        (patched.status, patched.body.as_str(), patched.header("etag")),
        (204, "", Some("\"2\"")),
        "{patched:?}"
    );
    assert!(patched.header("x-consistency-token").is_some());
}
