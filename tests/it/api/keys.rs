//! `/v1/keys` and `platform keys`: who may call, made and ended by callers and by the administrator.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Api, send, stack, unique};
use crate::support::wait::wait_until;

async fn with_key(api: &Api, key: &str, method: Method, path: &str) -> Answer {
    send(api.http.request(method, format!("http://{}{path}", api.address)).bearer_auth(key)).await
}

async fn listed(api: &Api, prefix: &str) -> Option<Value> {
    let mut path = "/v1/keys?limit=200".to_owned();
    loop {
        let page = api.get(&path).await.json();
        let found = page["items"].as_array().expect("items").iter().find(|key| key["prefix"] == prefix).cloned();
        if found.is_some() {
            return found;
        }
        path = format!("/v1/keys?limit=200&cursor={}", page["next"].as_str()?);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_shown_once_used_and_revoked() {
    let api = Api::start().await;
    let name = unique("key");
    let body =
        json!({"name": name, "scopes": ["write", "read"], "expires_at": "2290-01-01T00:00:00Z", "rate_limit": 1000});
    let made = api.send_json(Method::POST, "/v1/keys", &body).await;
    assert_eq!((made.status, made.header("cache-control")), (201, Some("no-store")), "{made:?}");
    let key = made.json();
    let (secret, prefix) =
        (key["key"].as_str().expect("a key").to_owned(), key["prefix"].as_str().expect("a prefix").to_owned());
    assert!(secret.starts_with(&format!("pk_{prefix}_")));
    let expected =
        json!({"name": name, "scopes": ["read", "write"], "rate_limit": 1000, "expires_at": "2290-01-01T00:00:00Z"});
    for (member, value) in expected.as_object().expect("members") {
        assert_eq!(&key[member], value, "{member}");
    }
    let read = with_key(&api, &secret, Method::GET, "/v1/sentiment-social?limit=1").await;
    assert_eq!((read.status, read.header("ratelimit-policy")), (200, Some("\"key\";q=1000;w=60")), "{read:?}");
    assert_eq!(with_key(&api, &secret, Method::GET, "/v1/keys").await.status, 403);
    let shown = listed(&api, &prefix).await.expect("it is in the list");
    assert_eq!((shown.get("key"), &shown["revoked_at"]), (None, &Value::Null));
    assert!(shown["created_by"].as_str().is_some_and(|by| by.starts_with("key ")), "{shown}");
    let row = "select encode(sha256, 'hex') from platform.api_keys where prefix = $1";
    let stored: String = api.postgres().await.query_one(row, &[&prefix]).await.expect("stored").get(0);
    assert!(!secret.contains(&stored));

    let path = format!("/v1/keys/{prefix}");
    assert_eq!(send(api.request(Method::DELETE, &path)).await.status, 204);
    wait_until("the key is refused", Duration::from_secs(10), || async {
        with_key(&api, &secret, Method::GET, "/v1/sentiment-social?limit=1").await.status == 401
    })
    .await;
    assert!(listed(&api, &prefix).await.expect("it stays in the list")["revoked_at"].is_string());
    for gone in [path.as_str(), "/v1/keys/00000000", "/v1/keys/x", "/v1/keys/%00"] {
        let answer = send(api.request(Method::DELETE, gone)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_cannot_revoke_itself_and_wrong_ones_are_not_made() {
    let api = Api::start().await;
    let own = platform::domain::ApiKey::parse(&api.key).expect("a key").prefix().to_owned();
    let answer = send(api.request(Method::DELETE, &format!("/v1/keys/{own}"))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "own-key"));
    assert_eq!(api.get("/v1/keys?limit=1").await.status, 200, "it still stands");
    for (body, named) in [
        (json!({}), vec!["/name required", "/scopes required"]),
        (json!({"name": "", "scopes": ["owner"]}), vec!["/name invalid", "/scopes invalid"]),
        (json!({"name": "n", "scopes": ["read"], "expires_at": "2001-01-01"}), vec!["/expires_at invalid"]),
        (
            json!({"name": "n", "scopes": ["read"], "rate_limit": 0, "prefix": "x"}),
            vec!["/prefix unknown", "/rate_limit invalid"],
        ),
    ] {
        let answer = api.send_json(Method::POST, "/v1/keys", &body).await;
        let mut found = answer.named();
        found.sort();
        assert_eq!((answer.status, found), (422, named.iter().map(|name| (*name).to_owned()).collect()), "{body}");
    }
    let repeated = api.request(Method::POST, "/v1/keys").header("idempotency-key", "x");
    let repeated = send(repeated.json(&json!({"name": "n", "scopes": ["read"]}))).await;
    assert_eq!((repeated.status, repeated.problem().as_str()), (400, "invalid-header"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_keys_hold_every_key_once() {
    let api = Api::start().await;
    for number in 0..5 {
        let body = json!({"name": format!("page {number}"), "scopes": ["read"]});
        assert_eq!(api.send_json(Method::POST, "/v1/keys", &body).await.status, 201);
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/keys?limit=2".to_owned());
    loop {
        let page = api.get(&path).await.json();
        seen.extend(
            page["items"]
                .as_array()
                .expect("items")
                .iter()
                .map(|key| key["prefix"].as_str().expect("a text").to_owned()),
        );
        let Some(next) = page["next"].as_str().filter(|_| seen.len() < 12) else { break };
        path = format!("/v1/keys?limit=2&cursor={next}");
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert!(count >= 5 && seen.len() == count, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_keys() {
    let api = Api::start().await;
    let name = unique("command");
    let stack = stack().await;
    let run = |arguments: Vec<String>| async move {
        let work = move || stack.platform(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(work).await.expect("run")
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let made =
        run(words(&format!("keys create --name {name} --scopes read,admin --expires 2290-01-01 --rate-limit 5")))
            .await
            .json();
    let (secret, prefix) = (made["key"].as_str().expect("a key"), made["prefix"].as_str().expect("a prefix"));
    assert_eq!((&made["scopes"], &made["rate_limit"]), (&json!(["read", "admin"]), &json!(5)));
    assert_eq!(with_key(&api, secret, Method::GET, "/v1/keys?limit=1").await.status, 200);
    assert_eq!(with_key(&api, secret, Method::POST, "/v1/sentiment-social").await.status, 403);
    let list = run(words("keys list")).await;
    assert!(list.stdout.lines().any(|line| line.contains(&name)) && !list.stdout.contains(secret), "{list:?}");
    assert_eq!(run(words(&format!("keys revoke {prefix}"))).await.json()["status"], "revoked");
    assert_eq!(run(words(&format!("keys revoke {prefix}"))).await.code, Some(99));
    for (arguments, code) in [
        ("keys create --name x", 2),
        ("keys create --name x --scopes owner", 2),
        ("keys create --name x --scopes read --expires 2001-01-01", 64),
        ("keys create --name x --scopes read --expires soon", 64),
        ("keys create --name x --scopes read --rate-limit 0", 2),
    ] {
        assert_eq!(run(words(arguments)).await.code, Some(code), "{arguments}");
    }
}
