//! What is refused, and how it is named.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Api, send, small_post, unique};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_members_are_all_named() {
    let api = Api::start().await;
    let good = small_post(&unique("strict"), "1", "2020-01-01T00:00:00Z");
    let with = |changes: Value| {
        let mut post = good.clone();
        for (name, value) in changes.as_object().expect("an object") {
            post[name] = value.clone();
        }
        post
    };
    let cases: Vec<(Value, Vec<&str>)> = vec![
        (
            json!({}),
            vec![
                "/platform required",
                "/post_id required",
                "/content required",
                "/sentiment_label required",
                "/posted_at required",
            ],
        ),
        (with(json!({"colour": "red", "a/b~c": 1})), vec!["/a~1b~0c unknown", "/colour unknown"]),
        (
            with(json!({"id": 1, "row_version": 2, "created_at": null})),
            vec!["/created_at read_only", "/id read_only", "/row_version read_only"],
        ),
        (with(json!({"platform": "", "post_id": null})), vec!["/platform invalid", "/post_id invalid"]),
        (
            with(json!({"platform": "ä".repeat(65), "author": "x".repeat(513)})),
            vec!["/platform invalid", "/author invalid"],
        ),
        (with(json!({"content": 7, "author": ["a"]})), vec!["/author invalid", "/content invalid"]),
        (with(json!({"content": "a\u{0}b"})), vec!["/content invalid"]),
        (with(json!({"sentiment_label": "Positive"})), vec!["/sentiment_label invalid"]),
        (with(json!({"sentiment_score": "0.1234"})), vec!["/sentiment_score invalid"]),
        (
            with(json!({"sentiment_score": 1.001, "confidence": -0.1})),
            vec!["/sentiment_score invalid", "/confidence invalid"],
        ),
        (with(json!({"sentiment_score": "NaN"})), vec!["/sentiment_score invalid"]),
        (
            with(json!({"likes": -1, "replies": 2_147_483_648_i64, "shares": 1.5})),
            vec!["/likes invalid", "/replies invalid", "/shares invalid"],
        ),
        (with(json!({"likes": "1"})), vec!["/likes invalid"]),
        (with(json!({"hashtags": ["a", null]})), vec!["/hashtags invalid"]),
        (with(json!({"hashtags": "a"})), vec!["/hashtags invalid"]),
        (with(json!({"posted_at": "2020-01-01T00:00:00"})), vec!["/posted_at invalid"]),
        (with(json!({"posted_at": "2020-01-01T00:00:00.1234567Z"})), vec!["/posted_at invalid"]),
        (with(json!({"posted_at": "2300-01-01T00:00:00Z"})), vec!["/posted_at invalid"]),
        (with(json!({"posted_at": 1577836800})), vec!["/posted_at invalid"]),
    ];
    for (body, named) in cases {
        let answer = api.post(&body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (422, "invalid-body"), "{body}: {answer:?}");
        assert_eq!(answer.named(), named, "{body}");
    }
    let path = format!("/v1/sentiment-social/{}", api.create(&good).await);
    let answer = api.send_json(Method::PATCH, &path, &json!({"content": null, "id": 3, "likes": -1})).await;
    assert_eq!(
        (answer.status, answer.named()),
        (422, vec!["/content invalid".into(), "/likes invalid".into(), "/id read_only".into()])
    );
    let answer = api.send_json(Method::PUT, &path, &json!({"likes": 1})).await;
    assert_eq!((answer.status, answer.named().len()), (422, 5));
}

/// PostgreSQL's jsonb refuses what JSON allows: the table of SQLSTATEs answers, not a 500.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_database_refuses_is_still_the_clients_mistake() {
    let api = Api::start().await;
    for raw in [r#""\u0000""#, r#"{"a": "\ud800"}"#, "1e200000"] {
        let name = unique("jsonb");
        let body = format!(
            r#"{{"platform":"{name}","post_id":"1","content":"x","sentiment_label":"neutral","posted_at":"2020-01-01","raw":{raw}}}"#
        );
        let request = api.request(Method::POST, "/v1/sentiment-social").header("content-type", "application/json");
        let answer = send(request.body(body)).await;
        assert_eq!(answer.status, 422, "{raw}: {answer:?}");
        assert_eq!(answer.problem(), "invalid-body");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_object_are_refused() {
    let api = Api::start().await;
    let post = |kind: &'static str, body: &'static [u8]| {
        send(api.request(Method::POST, "/v1/sentiment-social").header("content-type", kind).body(body))
    };
    for (kind, body, status, code) in [
        ("application/json", &b""[..], 400, "invalid-json"),
        ("application/json", b"{", 400, "invalid-json"),
        ("application/json", b"[]", 400, "invalid-json"),
        ("application/json", b"{} {}", 400, "invalid-json"),
        ("application/json", b"{\"likes\":1,\"likes\":2}", 400, "invalid-json"),
        ("application/json", b"{\"content\":\"\xff\"}", 400, "invalid-json"),
        ("text/plain", b"{}", 415, "unsupported-media-type"),
        ("application/merge-patch+json", b"{}", 415, "unsupported-media-type"),
        ("application/json; charset=latin-1", b"{}", 415, "unsupported-media-type"),
        ("", b"{}", 415, "unsupported-media-type"),
    ] {
        let answer = post(kind, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{kind} {body:?}");
    }
    let packed = api.request(Method::POST, "/v1/sentiment-social").header("content-encoding", "gzip");
    let answer = send(packed.json(&json!({}))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-request"), "it is not gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_wrong_parameters_are_all_named() {
    let api = Api::start().await;
    let id = api.create(&small_post(&unique("parameters"), "1", "2020-01-01")).await;
    let list = "/v1/sentiment-social";
    for (path, named) in [
        (
            format!("{list}?colour=red&limit=0&sort=best&label=good"),
            vec!["label invalid", "sort invalid", "limit invalid", "colour unknown"],
        ),
        (format!("{list}?limit=201"), vec!["limit invalid"]),
        (format!("{list}?limit=+5"), vec!["limit invalid"]),
        (format!("{list}?limit=5&limit=6"), vec!["limit repeated"]),
        (format!("{list}?platform="), vec!["platform invalid"]),
        (format!("{list}?topic=%00"), vec!["topic invalid"]),
        (
            format!("{list}?posted_from=yesterday&posted_to=2020-13-01"),
            vec!["posted_from invalid", "posted_to invalid"],
        ),
        (format!("{list}?Limit=5"), vec!["Limit unknown"]),
        (format!("{list}/{id}?fields=id"), vec!["fields unknown"]),
        ("/v1/analytics/summary".into(), vec!["from required", "to required"]),
        ("/v1/analytics/summary?from=2014-01-01&to=2014-01-01".into(), vec!["to invalid"]),
        (
            "/v1/analytics/summary?from=2014-01-01&to=2014-01-02&label=good&form=csv".into(),
            vec!["label invalid", "form unknown"],
        ),
        (
            "/v1/analytics/timeseries?from=x&to=2014-01-02&interval=week".into(),
            vec!["from invalid", "interval invalid"],
        ),
        ("/v1/analytics/top?from=2014-01-01&to=2014-01-02&limit=101".into(), vec!["by required", "limit invalid"]),
        ("/v1/analytics/summary?from=2014-01-01&to=2014-01-02&format=xml".into(), vec!["format invalid"]),
        ("/v1/stats/daily?from=2014-01-01T00:00:00Z&to=2014-01-02".into(), vec!["from invalid"]),
        ("/v1/pipeline?x=1".into(), vec!["x unknown"]),
        ("/v1/version?x=1".into(), vec!["x unknown"]),
        ("/readyz?x=1".into(), vec!["x unknown"]),
        ("/livez?x=1".into(), vec!["x unknown"]),
        ("/metrics?x=1".into(), vec!["x unknown"]),
        ("/?x=1".into(), vec!["x unknown"]),
    ] {
        let answer = api.get(&path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-parameters"), "{path}: {answer:?}");
        assert_eq!(answer.named(), named, "{path}");
    }
    for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
        let path = if method == Method::POST { format!("{list}?x=1") } else { format!("{list}/{id}?x=1") };
        let answer = api.send_json(method.clone(), &path, &json!({})).await;
        assert_eq!((answer.status, answer.named()), (400, vec!["x unknown".to_owned()]), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_cannot_exist_are_not_found() {
    let api = Api::start().await;
    for id in ["0", "9223372036854775807", "9223372036854775808", "-1", "+1", "1.0", "x", "%00", "1%2F2"] {
        let answer = api.get(&format!("/v1/sentiment-social/{id}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"), "{id}");
    }
}
