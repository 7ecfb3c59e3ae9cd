//! Who may do what.

use std::time::Duration;

use platform::config::Auth;
use platform::domain::{ApiKey, Failure};
use platform::shutdown::Shutdown;
use reqwest::Method;
use serde_json::json;

use super::{Answer, Api, send, small_post, unique};
use crate::support::wait::wait_until;

const LIST: &str = "/v1/sentiment-social?limit=1";

async fn with(api: &Api, method: Method, path: &str, authorization: Option<&str>) -> Answer {
    let mut request = api.http.request(method.clone(), format!("http://{}{path}", api.address));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    if method != Method::GET {
        request = request.json(&small_post(&unique("auth"), "1", "2020-01-01"));
    }
    send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_key_nothing_is_shown() {
    let api = Api::start().await;
    let good = api.new_key(&["read"], "now() + interval '1 hour'").await;
    let expired = api.new_key(&["read"], "now() - interval '1 second'").await;
    let unknown = ApiKey::from_random(rand::random(), rand::random());
    let guessed = format!("pk_{}_{}", good.prefix(), "0".repeat(64));
    let cases = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer x".to_owned()),
        Some(format!("Basic {}", good.expose())),
        Some(good.expose().to_owned()),
        Some(format!("Bearer {}", good.expose().to_uppercase())),
        Some(format!("Bearer {guessed}")),
        Some(format!("Bearer {}", expired.expose())),
        Some(format!("Bearer {}", unknown.expose())),
    ];
    for authorization in &cases {
        let answer = with(&api, Method::GET, LIST, authorization.as_deref()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthorized"), "{authorization:?}");
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
    }
    for path in
        ["/v1/sentiment-social/1", "/v1/analytics/summary", "/v1/analytics/nothing", "/v1/stats/daily", "/v1/pipeline"]
    {
        assert_eq!(with(&api, Method::GET, path, None).await.status, 401, "{path}");
    }
    for authorization in [format!("Bearer {}", good.expose()), format!("bearer  {}", good.expose())] {
        assert_eq!(with(&api, Method::GET, LIST, Some(&authorization)).await.status, 200, "{authorization}");
    }
    for path in ["/", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs/", "/v1/version", "/problems"] {
        assert_eq!(with(&api, Method::GET, path, None).await.status, 200, "{path} is public");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_do_what_its_scopes_say() {
    let api = Api::start().await;
    let reader = format!("Bearer {}", api.new_key(&["read"], "null").await.expose());
    let writer = format!("Bearer {}", api.new_key(&["write"], "null").await.expose());
    let both = format!("Bearer {}", api.new_key(&["read", "write"], "null").await.expose());
    let post = "/v1/sentiment-social";
    for (key, method, path, status) in [
        (&reader, Method::GET, LIST, 200),
        (&reader, Method::POST, post, 403),
        (&reader, Method::DELETE, "/v1/sentiment-social/0", 403),
        (&writer, Method::GET, LIST, 403),
        (&writer, Method::POST, post, 201),
        (&writer, Method::DELETE, "/v1/sentiment-social/0", 404),
        (&both, Method::GET, LIST, 200),
        (&both, Method::POST, post, 201),
    ] {
        let answer = with(&api, method.clone(), path, Some(key)).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.problem(), "forbidden");
            assert!(
                answer.header("www-authenticate").is_some_and(|challenge| challenge.contains("insufficient_scope"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_within_seconds() {
    let api = Api::start().await;
    let key = api.new_key(&["read"], "null").await;
    let authorization = format!("Bearer {}", key.expose());
    assert_eq!(with(&api, Method::GET, LIST, Some(&authorization)).await.status, 200);
    let revoke = "update platform.api_keys set revoked_at = now() where prefix = $1";
    api.postgres().await.execute(revoke, &[&key.prefix()]).await.expect("revoked");
    wait_until("the key is refused", Duration::from_secs(7), || async {
        with(&api, Method::GET, LIST, Some(&authorization)).await.status == 401
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_can_be_switched_off_on_loopback_only() {
    let api = Api::start_with(|settings| settings.api.auth = Auth::Off).await;
    let answer = with(&api, Method::POST, "/v1/sentiment-social", None).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let path = answer.header("location").expect("a location").to_owned();
    let patch = api.http.patch(format!("http://{}{path}", api.address)).json(&json!({"likes": 1}));
    assert_eq!(send(patch).await.status, 200);
    let settings = Api::settings(|settings| {
        settings.api.auth = Auth::Off;
        settings.api.bind = "0.0.0.0:0".to_owned();
    })
    .await;
    let error = platform::api::start(&settings, &Shutdown::manual()).await.expect_err("refused");
    assert_eq!(Failure::exit_code_of(&error), 78);
    assert!(format!("{error:#}").contains("loopback"), "{error:#}");
}
