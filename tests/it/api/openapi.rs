//! The OpenAPI document: kept as a snapshot, and true.

use reqwest::Method;
use serde_json::Value;

use super::{Api, send};

/// A change of the API is a change of this snapshot, in the same commit: `INSTA_UPDATE=always cargo test openapi`.
#[test]
fn the_document_is_as_reviewed() {
    let endpoints = platform::api::load_endpoints("").expect("the shipped endpoints");
    let document = platform::api::document(&endpoints);
    let text = serde_json::to_string_pretty(&document).expect("JSON");
    insta::with_settings!({prepend_module_to_snapshot => false, snapshot_path => "snapshots"}, {
        insta::assert_snapshot!("openapi", text.replace(concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\""), "\"version\": \"…\""));
    });
}

#[test]
fn every_route_is_named() {
    let endpoints = platform::api::load_endpoints("").expect("the shipped endpoints");
    let document = serde_json::to_value(platform::api::document(&endpoints)).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let mut routes: Vec<String> = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        routes.extend(item.as_object().expect("an item").keys().map(|method| format!("{method} {path}")));
    }
    routes.sort();
    insta::assert_snapshot!(routes.join("\n"), @r"
    delete /v1/dead-letters/{id}
    delete /v1/keys/{prefix}
    delete /v1/sentiment-social/{id}
    get /livez
    get /metrics
    get /openapi.json
    get /readyz
    get /v1/analytics/distribution
    get /v1/analytics/summary
    get /v1/analytics/timeseries
    get /v1/analytics/top
    get /v1/consistency/{token}
    get /v1/dead-letters
    get /v1/dead-letters/{id}
    get /v1/etl/runs
    get /v1/etl/runs/{id}
    get /v1/events
    get /v1/keys
    get /v1/pipeline
    get /v1/pipeline/lag
    get /v1/pipeline/requests/{id}
    get /v1/pipeline/tables
    get /v1/pipeline/tables/{table}
    get /v1/reconciliations
    get /v1/reconciliations/{id}
    get /v1/sentiment-social
    get /v1/sentiment-social/{id}
    get /v1/stats/daily
    get /v1/stats/freshness
    get /v1/version
    patch /v1/sentiment-social/{id}
    post /v1/dead-letters/{id}/retry
    post /v1/etl/runs
    post /v1/keys
    post /v1/pipeline/connector/restart
    post /v1/pipeline/tables/{table}/resync
    post /v1/reconciliations
    post /v1/sentiment-social
    post /v1/sentiment-social/batch
    put /v1/sentiment-social/{id}
    ");
}

/// Every reference leads somewhere, every operation has an id of its own, a summary and a success.
#[test]
fn the_document_is_complete() {
    let endpoints = platform::api::load_endpoints("").expect("the shipped endpoints");
    let document = serde_json::to_value(platform::api::document(&endpoints)).expect("JSON");
    let text = document.to_string();
    for rest in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = rest.split('"').next().expect("a name");
        assert!(!document["components"]["schemas"][name].is_null(), "{name} is not described");
    }
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            ids.push(
                operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no id")).to_owned(),
            );
            assert!(
                operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()),
                "{method} {path} has no summary"
            );
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} has no success");
            for (status, response) in responses {
                assert!(response["description"].is_string(), "{method} {path} {status} has no description");
            }
            let needs_key = path.starts_with("/v1/") && path != "/v1/version";
            let keys =
                operation["security"].as_array().is_some_and(|keys| keys.iter().any(|key| key["api_key"].is_array()));
            assert_eq!(keys, needs_key, "{method} {path}");
            assert_eq!(responses.contains_key("401"), needs_key, "{method} {path}");
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are unique: {ids:?}");
}

/// Every documented operation exists, and answers with a status that it documents.
#[tokio::test(flavor = "multi_thread")]
async fn every_documented_operation_answers_as_documented() {
    let api = Api::start().await;
    let served = api.get("/openapi.json").await.json();
    for (path, item) in served["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let answer =
                send(api.request(method.clone(), &path.replace("{id}", "0").replace("{prefix}", "00000000"))).await;
            let documented: &Value = &operation["responses"][answer.status.to_string()];
            assert!(!documented.is_null(), "{method} {path} answers {} undocumented: {answer:?}", answer.status);
            assert_ne!(answer.status, 405, "{method} {path}");
            let kind =
                answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
            let kinds: Vec<&str> = documented["content"]
                .as_object()
                .map(|content| content.keys().map(String::as_str).collect())
                .unwrap_or_default();
            assert!(
                kinds.contains(&kind.as_str()) || answer.body.is_empty(),
                "{method} {path}: {kind} is not one of {kinds:?}"
            );
        }
    }
}
