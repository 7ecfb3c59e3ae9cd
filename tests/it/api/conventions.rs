//! What holds for every route: ids, headers, methods, formats, limits.

use reqwest::Method;
use serde_json::json;

use super::{Api, send, small_post, unique};

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_ids() {
    let api = Api::start().await;
    for given in ["abc", "0af7651916cd43dd8448eb211c80319c", "a.b_c:d-e", &"x".repeat(128)] {
        let answer = send(api.request(Method::GET, "/livez").header("x-request-id", given)).await;
        assert_eq!(answer.header("x-request-id"), Some(given));
    }
    for refused in ["", "a b", "<script>", &"x".repeat(129)] {
        let answer = send(api.request(Method::GET, "/livez").header("x-request-id", refused)).await;
        let id = answer.header("x-request-id").expect("an id");
        assert_ne!(id, refused);
        assert_eq!(id.len(), 36, "a UUID: {id}");
    }
    let answer = send(api.request(Method::GET, "/nowhere").header("x-request-id", "mine")).await;
    assert_eq!(
        (answer.problem().as_str(), &answer.json()["request_id"], &answer.json()["instance"]),
        ("not-found", &json!("mine"), &json!("/nowhere"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_security_headers() {
    let api = Api::start().await;
    for path in [
        "/",
        "/livez",
        "/docs/",
        "/v1/version",
        "/v1/sentiment-social?limit=1",
        "/nowhere",
        "/v1/sentiment-social?x=1",
        "/openapi.json",
    ] {
        let answer = api.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert!(answer.header("cache-control").is_some(), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("http"), "{path}: {policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_known_or_refused_with_allow() {
    let api = Api::start().await;
    let id = api.create(&small_post(&unique("methods"), "1", "2020-01-01")).await;
    for (path, allow) in [
        ("/v1/sentiment-social".to_owned(), "GET, HEAD, OPTIONS, POST"),
        (format!("/v1/sentiment-social/{id}"), "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/v1/analytics/summary".to_owned(), "GET, HEAD, OPTIONS"),
        ("/v1/stats/daily".to_owned(), "GET, HEAD, OPTIONS"),
        ("/livez".to_owned(), "GET, HEAD, OPTIONS"),
        ("/".to_owned(), "GET, HEAD, OPTIONS"),
        ("/docs/".to_owned(), "GET, HEAD, OPTIONS"),
        ("/problems/not-found".to_owned(), "GET, HEAD, OPTIONS"),
    ] {
        let options = send(api.request(Method::OPTIONS, &path)).await;
        assert_eq!((options.status, options.header("allow"), options.body.as_str()), (204, Some(allow), ""), "{path}");
        for method in [
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::TRACE,
            Method::from_bytes(b"BREW").expect("a method"),
        ] {
            if allow.contains(method.as_str()) {
                continue;
            }
            let answer = send(api.request(method.clone(), &path)).await;
            assert_eq!((answer.status, answer.problem().as_str()), (405, "method-not-allowed"), "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
    }
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        for path in [
            "/nowhere",
            "/v1",
            "/v1/",
            "/v1/sentiment-social/",
            "/v2/sentiment-social",
            "//",
            "/docs/nothing.js",
            "/problems/x",
        ] {
            let answer = send(api.request(method.clone(), path)).await;
            if method == Method::GET {
                assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"), "{path}");
            } else {
                assert!([404, 405, 204].contains(&answer.status), "{method} {path}: {answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_get_without_the_body() {
    let api = Api::start().await;
    let id = api.create(&small_post(&unique("head"), "1", "2020-01-01")).await;
    let paths = [format!("/v1/sentiment-social/{id}"), "/livez".into(), "/".into(), "/v1/sentiment-social/0".into()];
    for path in &paths {
        let (get, head) = (api.get(path).await, send(api.request(Method::HEAD, path)).await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("etag"), get.header("etag"), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        let length: usize = head.header("content-length").expect("a length").parse().expect("a number");
        // The start page says how long its questions took.
        assert!(length == get.body.len() || path == "/", "{path}: {length} {}", get.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_that_nobody_offers_are_refused() {
    let api = Api::start().await;
    for path in [
        "/v1/sentiment-social",
        "/v1/sentiment-social/1",
        "/v1/pipeline",
        "/v1/stats/daily?from=2020-01-01&to=2020-01-02",
    ] {
        let answer = send(api.request(Method::GET, path).header("accept", "application/xml")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (406, "not-acceptable"), "{path}");
        let answer = send(api.request(Method::GET, path).header("accept", "application/xml, */*;q=0.1")).await;
        assert_ne!(answer.status, 406, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_limit() {
    let api = Api::start_with(|settings| settings.api.body_bytes_max = 2000).await;
    let mut post = small_post(&unique("limit"), "1", "2020-01-01");
    post["content"] = json!("x".repeat(1500));
    assert_eq!(api.post(&post).await.status, 201);
    post["content"] = json!("x".repeat(2000));
    let announced = api.post(&post).await;
    assert_eq!((announced.status, announced.problem().as_str()), (413, "body-too-large"));
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100])));
    let request = api.request(Method::POST, "/v1/sentiment-social").header("content-type", "application/json");
    let streamed = send(request.body(reqwest::Body::wrap_stream(chunks))).await;
    assert_eq!((streamed.status, streamed.problem().as_str()), (413, "body-too-large"));
    assert_eq!(api.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_for_those_who_take_it() {
    let api = Api::start().await;
    for coding in ["gzip", "zstd"] {
        let answer = api
            .request(Method::GET, "/openapi.json")
            .header("accept-encoding", coding)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.headers().get("content-encoding").map(|value| value.as_bytes()), Some(coding.as_bytes()));
        assert!(
            answer.headers().get("vary").is_some_and(|vary| vary
                .to_str()
                .expect("text")
                .to_lowercase()
                .contains("accept-encoding"))
        );
        let packed = answer.bytes().await.expect("bytes");
        let plain = match coding {
            "gzip" => std::io::read_to_string(flate2::read::GzDecoder::new(&packed[..])).expect("gzip"),
            _ => String::from_utf8(zstd::decode_all(&packed[..]).expect("zstd")).expect("text"),
        };
        assert_eq!(plain, api.get("/openapi.json").await.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_by_route() {
    let api = Api::start().await;
    api.get("/v1/sentiment-social/1").await;
    api.get("/v1/sentiment-social/2").await;
    api.get("/v1/nowhere").await;
    let answer = api.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "platform_api_request_duration_seconds_bucket{route=\"/v1/sentiment-social/{id}\",method=\"GET\",status=\"404\",le=\"0.01\"}",
        "platform_api_request_duration_seconds_count{route=\"unmatched\",method=\"GET\",status=\"404\"}",
        "platform_api_postgres_connections{state=\"limit\"}",
        "platform_build_info{version=",
        "platform_replica_reachable",
        "platform_api_problems_total{code=\"not-found\"}",
    ] {
        assert!(answer.body.contains(line), "{line} is not in\n{}", answer.body);
    }
    assert!(!answer.body.contains("/v1/sentiment-social/1\""), "ids are no labels");
}
