//! The conventions as a table: what holds for every operation of the OpenAPI document, asked of every one of them.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::{Answer, Api, send};

/// An operation of the document.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: Method,
    /// As the document has it.
    pub(super) template: String,
    /// With something in the place of every template, and the query parameters that must be there.
    pub(super) path: String,
    /// Needs a key.
    secured: bool,
    /// Takes a body.
    body: bool,
    /// Its answers may last, so that they are not waited for.
    stream: bool,
    description: Value,
}

impl Operation {
    pub(super) fn documents(&self, status: u16) -> bool {
        !self.description["responses"][status.to_string()].is_null()
    }

    fn request(&self, api: &Api, key: Option<&str>) -> RequestBuilder {
        self.request_to(api, key, &self.path)
    }

    fn request_to(&self, api: &Api, key: Option<&str>, path: &str) -> RequestBuilder {
        let request = api.http.request(self.method.clone(), format!("http://{}{path}", api.address));
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        if self.body { request.header("content-type", "application/json").body("{}") } else { request }
    }
}

/// A value that a required parameter takes.
fn example(parameter: &Value) -> String {
    let schema = &parameter["schema"];
    if let Some(word) = schema["enum"][0].as_str() {
        return word.to_owned();
    }
    match (parameter["name"].as_str(), schema["type"].as_str()) {
        (Some("to"), _) => "2020-01-02".to_owned(),
        (Some("from"), _) => "2020-01-01".to_owned(),
        (_, Some("integer")) => "1".to_owned(),
        _ => "x".to_owned(),
    }
}

pub(super) async fn operations(api: &Api) -> Vec<Operation> {
    let document = api.get("/openapi.json").await.json();
    let mut operations = Vec::new();
    for (template, item) in document["paths"].as_object().expect("paths") {
        for (method, description) in item.as_object().expect("an item") {
            let parts = template.split('/').map(|part| if part.starts_with('{') { "0" } else { part });
            let path = parts.collect::<Vec<_>>().join("/");
            let parameters = description["parameters"].as_array().cloned().unwrap_or_default();
            let needed = parameters.iter().filter(|one| one["in"] == "query" && one["required"] == true);
            let pairs: Vec<String> =
                needed.map(|one| format!("{}={}", one["name"].as_str().expect("a name"), example(one))).collect();
            operations.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                template: template.clone(),
                path: if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) },
                secured: description["security"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one["api_key"].is_array())),
                body: !description["requestBody"].is_null(),
                stream: !description["responses"]["200"]["content"]["text/event-stream"].is_null(),
                description: description.clone(),
            });
        }
    }
    assert!(operations.len() > 15);
    operations
}

/// What every answer has, whatever it says.
fn check(operation: &Operation, answer: &Answer, what: &str) {
    let told = format!("{} {} {what}: {answer:?}", operation.method, operation.path);
    for header in
        ["x-request-id", "server-timing", "x-content-type-options", "cache-control", "content-security-policy", "vary"]
    {
        assert!(answer.header(header).is_some(), "{header} of {told}");
    }
    assert!(answer.status < 500 || [503, 504].contains(&answer.status), "{told}");
    assert!(operation.documents(answer.status), "{} is not documented: {told}", answer.status);
    if answer.status >= 400 && operation.path != "/readyz" {
        answer.problem();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_refuses_what_none_accepts() {
    let api = Api::start().await;
    let long = format!("x={}", "y".repeat(8200));
    for operation in operations(&api).await {
        let key = Some(api.key.as_str());
        let with =
            |pair: &str| format!("{}{}{pair}", operation.path, if operation.path.contains('?') { "&" } else { "?" });
        let unknown = send(operation.request_to(&api, key, &with("no_such_parameter=1"))).await;
        check(&operation, &unknown, "with an unknown parameter");
        assert_eq!(
            (unknown.status, unknown.named()),
            (400, vec!["no_such_parameter unknown".to_owned()]),
            "{operation:?}"
        );
        let long = send(operation.request_to(&api, key, &with(&long))).await;
        check(&operation, &long, "with a long query");
        assert_eq!((long.status, long.problem().as_str()), (414, "uri-too-long"), "{operation:?}");
        if operation.documents(406) {
            let answer = send(operation.request(&api, key).header("accept", "image/png")).await;
            check(&operation, &answer, "as an image");
            assert_eq!((answer.status, answer.problem().as_str()), (406, "not-acceptable"), "{operation:?}");
        }
        if operation.body {
            let url = format!("http://{}{}", api.address, operation.path);
            let request = api.http.request(operation.method.clone(), url).bearer_auth(&api.key).body("a,b");
            let answer = send(request.header("content-type", "text/csv")).await;
            check(&operation, &answer, "with CSV");
            assert_eq!((answer.status, answer.problem().as_str()), (415, "unsupported-media-type"), "{operation:?}");
            let answer = send(operation.request(&api, key).header("content-encoding", "compress")).await;
            check(&operation, &answer, "with another compression");
            assert_eq!(answer.status, 415, "{operation:?}");
            let answer = send(operation.request(&api, key).body(" ".repeat(9_000_000))).await;
            check(&operation, &answer, "with a large body");
            assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"), "{operation:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_knows_who_may_call_it() {
    let api = Api::start().await;
    let mut keys = Vec::new();
    for scope in ["read", "write", "admin"] {
        keys.push((scope, api.new_key(&[scope], "null").await));
    }
    let spent = api.new_key(&["read", "write", "admin"], "null").await;
    let limit = "update platform.api_keys set rate_limit = 1 where prefix = $1";
    api.postgres().await.execute(limit, &[&spent.prefix()]).await.expect("limited");
    let used = api.http.get(format!("http://{}/v1/keys?limit=1", api.address)).bearer_auth(spent.expose());
    assert_eq!(send(used).await.status, 200);
    for operation in operations(&api).await.into_iter().filter(|operation| !operation.stream) {
        let answer = send(operation.request(&api, None)).await;
        check(&operation, &answer, "without a key");
        assert_eq!(answer.status == 401, operation.secured, "{operation:?}: {answer:?}");
        if !operation.secured {
            continue;
        }
        let mut open = 0;
        for (scope, key) in &keys {
            let answer = send(operation.request(&api, Some(key.expose()))).await;
            check(&operation, &answer, scope);
            open += usize::from(answer.status != 403);
        }
        assert_eq!(open, 1, "one scope is enough, and no other one does: {operation:?}");
        let answer = send(operation.request(&api, Some(spent.expose()))).await;
        check(&operation, &answer, "with a key that is spent");
        assert_eq!((answer.status, answer.problem().as_str()), (429, "rate-limited"), "{operation:?}");
        assert!(answer.header("retry-after").is_some() && answer.header("ratelimit").is_some(), "{operation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_resource_knows_its_methods() {
    let api = Api::start().await;
    let operations = operations(&api).await;
    for operation in &operations {
        let path = operation.path.split('?').next().expect("a path");
        let twins = operations.iter().filter(|other| other.path.split('?').next() == Some(path));
        let mut expected: Vec<&str> = twins.map(|other| other.method.as_str()).chain(["OPTIONS"]).collect();
        if expected.contains(&"GET") {
            expected.push("HEAD");
        }
        expected.sort_unstable();
        let expected = expected.join(", ");
        let options = send(api.http.request(Method::OPTIONS, format!("http://{}{path}", api.address))).await;
        assert_eq!((options.status, options.header("allow")), (204, Some(expected.as_str())), "{path}");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECTED"] {
            if expected.contains(method) {
                continue;
            }
            let answer = send(api.request(method.parse().expect("a method"), path)).await;
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some(expected.as_str())),
                "{method} {path}: {answer:?}"
            );
        }
        if operation.method == Method::GET && !operation.stream {
            let get = send(operation.request(&api, Some(&api.key))).await;
            let head = api.http.head(format!("http://{}{}", api.address, operation.path)).bearer_auth(&api.key);
            let head = send(head).await;
            assert_eq!((head.status, head.body.as_str()), (get.status, ""), "HEAD {path}");
            assert_eq!(head.header("content-type"), get.header("content-type"), "HEAD {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_need_if_match_where_it_is_required() {
    let api = Api::start_with(|settings| settings.api.require_if_match = true).await;
    let body = super::small_post(&super::unique("required"), "1", "2020-01-01");
    let id = api.create(&body).await;
    let path = format!("/v1/sentiment-social/{id}");
    for method in [Method::PATCH, Method::PUT, Method::DELETE] {
        let answer = send(api.request(method.clone(), &path).json(&body)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (428, "precondition-required"), "{method}");
        let answer = send(api.request(method.clone(), &path).header("if-match", "\"99\"").json(&body)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (412, "precondition-failed"), "{method}");
    }
    assert_eq!(send(api.request(Method::PUT, &path).header("if-match", "\"1\"").json(&body)).await.status, 200);
    assert_eq!(send(api.request(Method::DELETE, &path).header("if-match", "*").json(&body)).await.status, 204);
}
