//! 504 as a table: every operation that documents it gives it when its database does not answer in time.

use std::time::{Duration, Instant};

use platform::api;
use platform::config::{Auth, Settings};
use platform::shutdown::Shutdown;
use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;
use platform::store::table_states::{self, StateChange, TableState};
use reqwest::Method;
use serde_json::{Value, json};

use super::every_route::{Operation, operations};
use super::{Answer, Api, api_settings, make_tables, send, small_post};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::wait_until;
use crate::support::{Options, Stack};

const LIMIT_MS: u64 = 400;
/// Far beyond the limit, for a machine on which much else runs; far below every other limit.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A body that nothing but the database can refuse.
fn body(operation: &Operation) -> Option<Value> {
    let post = || small_post("late", "1", "2020-01-01");
    Some(match (operation.method.as_str(), operation.template.as_str()) {
        ("POST", "/v1/sentiment-social") | ("PUT", _) => post(),
        ("POST", "/v1/sentiment-social/batch") => json!([post()]),
        ("PATCH", _) => json!({ "likes": 1 }),
        ("POST", "/v1/keys") => json!({ "name": "late", "scopes": ["read"] }),
        ("POST", "/v1/etl/runs") => json!({ "date": "2020-01-01" }),
        ("POST", "/v1/reconciliations") => json!({}),
        _ => return None,
    })
}

/// A path that could be that of something that exists.
fn path(operation: &Operation) -> String {
    let id = match operation.template.as_str() {
        template if template.starts_with("/v1/etl/") || template.starts_with("/v1/reconciliations") => {
            "01890000-0000-7000-8000-000000000000"
        }
        template if template.starts_with("/v1/dead-letters") => "YQ",
        _ => "1",
    };
    let filled = operation.template.replace("{id}", id).replace("{table}", "sentiment_social");
    let filled = filled.replace("{prefix}", "00000000");
    assert!(!filled.contains('{'), "{filled}");
    match operation.path.split_once('?') {
        Some((_, query)) => format!("{filled}?{query}"),
        None => filled,
    }
}

async fn ask(api: &Api, operation: &Operation) -> Answer {
    let request = api.http.request(operation.method.clone(), format!("http://{}{}", api.address, path(operation)));
    send(match body(operation) {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

/// Databases of its own: nobody else could use them while they do not answer.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_over_a_database_that_hangs_answers_504() {
    let options = Options { parts: Some("postgres,clickhouse,migrate"), ..Options::default() };
    let stack = tokio::task::spawn_blocking(|| Stack::start_with(options)).await.expect("started");
    make_tables(&stack).await;
    let live = StateChange::of("platform", TableState::Live, "");
    let clickhouse = ClickHouse::new(&stack.settings().clickhouse).expect("a client");
    table_states::store(&clickhouse, "sentiment_social", &live).await.expect("stored");
    let proxy = Proxy::before(stack.settings().clickhouse.url.trim_start_matches("http://").to_owned()).await;
    let mut settings = settings(&stack);
    settings.clickhouse.url = format!("http://{}", proxy.address());
    let shutdown = Shutdown::manual();
    let running = api::start(&settings, &shutdown).await.unwrap_or_else(|error| panic!("{error:#}"));
    let (address, http) = (running.address, reqwest::Client::new());
    let api = Api { address, http, key: String::new(), settings, shutdown, running: Some(running) };
    wait_until("the table is known", Duration::from_secs(20), || async {
        api.get("/v1/pipeline/tables/sentiment_social").await.status == 200
    })
    .await;

    let late: Vec<Operation> =
        operations(&api).await.into_iter().filter(|operation| operation.documents(504)).collect();
    for (method, template) in [
        (Method::POST, "/v1/sentiment-social"),
        (Method::GET, "/v1/sentiment-social"),
        (Method::GET, "/v1/analytics/summary"),
        (Method::GET, "/v1/stats/daily"),
    ] {
        let documented = late.iter().any(|operation| operation.method == method && operation.template == template);
        assert!(documented, "{method} {template}");
    }
    let mut other = postgres::connect(&stack.settings().postgres, "test").await.expect("connected");
    let transaction = other.transaction().await.expect("begun");
    transaction.batch_execute(LOCK_ALL).await.expect("locked");
    proxy.set(Mode::Stalled);
    let mut wrong = Vec::new();
    for operation in &late {
        let began = Instant::now();
        let answer = ask(&api, operation).await;
        if (answer.status, began.elapsed() < AT_ONCE) != (504, true) {
            wrong.push(format!("{} {} after {:?}: {answer:?}", operation.method, operation.template, began.elapsed()));
            continue;
        }
        assert_eq!(answer.problem(), "timeout", "{operation:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Nothing stays behind: all of them answer again.
    transaction.rollback().await.expect("ended");
    proxy.set(Mode::Open);
    for operation in &late {
        let answer = ask(&api, operation).await;
        assert!(answer.status < 500, "{operation:?}: {answer:?}");
    }
    let metrics = api.get("/metrics").await.body;
    assert!(metrics.contains("platform_api_problems_total{code=\"timeout\"}"), "{metrics}");
}

/// Every table of PostgreSQL that the API could ask.
const LOCK_ALL: &str = "do $$ declare place regclass; begin \
    for place in select oid::regclass from pg_class where relkind in ('r', 'p') \
        and relnamespace in ('public'::regnamespace, 'platform'::regnamespace) loop \
        execute format('lock table %s in access exclusive mode', place); \
    end loop; end $$";

/// Without keys, so that it is the operation that waits and not the look at its key.
fn settings(stack: &Stack) -> Settings {
    let mut settings = api_settings(stack);
    settings.api.auth = Auth::Off;
    settings.api.query_timeout_ms = LIMIT_MS;
    settings
}
