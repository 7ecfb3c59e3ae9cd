//! The HTTP API on a real PostgreSQL and the real ClickHouse engine, over TCP.
//!
//! All tests share both databases: each uses its own platform names, years and pipelines, so that they may run in any order
//! and in parallel.

mod analytics;
mod auth;
mod batches;
mod bombs;
mod caching;
mod consistency;
mod contract;
mod conventions;
mod creations;
mod endpoint_files;
mod entity_tags;
mod every_route;
mod failures;
mod idempotency;
mod keys;
mod limits;
mod listing;
mod listing_order;
mod openapi;
mod operations;
mod pages;
mod pipeline_down;
mod posts;
mod ranges;
mod raw_sockets;
mod rights;
mod roles;
mod slow_clients;
mod statistics;
mod strictness;
mod timeouts;

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use platform::api;
use platform::catalog::Aggregate;
use platform::config::Settings;
use platform::domain::ApiKey;
use platform::shutdown::Shutdown;
use platform::store::clickhouse::ClickHouse;
use platform::store::{aggregates, postgres, results};
use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Options, Stack};

/// PostgreSQL, ClickHouse and their schemas, started once for all tests of this folder.
async fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    static TABLES: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let start = || {
        STACK.get_or_init(|| {
            Stack::start_with(Options {
                parts: Some("postgres,clickhouse,migrate"),
                shared: true,
                ..Options::default()
            })
        })
    };
    let stack = tokio::task::spawn_blocking(start).await.expect("started");
    TABLES.get_or_init(|| make_tables(stack)).await;
    stack
}

/// The aggregate behind `/v1/stats/daily`.
fn daily() -> Aggregate {
    aggregates::all("").expect("the shipped ones").swap_remove(0)
}

/// Settings of the stack for an API on a free port, with the role that it has in production.
fn api_settings(stack: &Stack) -> Settings {
    let mut settings = stack.settings();
    let password = settings.postgres.api_password.expose_secret();
    let (_, rest) = stack.postgres_url().split_once('@').expect("a user");
    settings.postgres.url = SecretString::from(format!("postgres://platform_api:{password}@{rest}"));
    "127.0.0.1:0".clone_into(&mut settings.api.bind);
    settings.api.workers = 2;
    settings
}

/// What the load and the batch half make when they run.
async fn make_tables(stack: &Stack) {
    let clickhouse = ClickHouse::new(&stack.settings().clickhouse).expect("a client");
    let daily = daily();
    for table in [
        "create table if not exists analytics.sentiment_social (id Int64, platform String, post_id String, author Nullable(String), \
         content String, lang Nullable(String), topic Nullable(String), hashtags Array(Nullable(String)), sentiment_label String, \
         sentiment_score Nullable(Decimal(4, 3)), confidence Nullable(Decimal(4, 3)), likes Int32, replies Int32, shares Int32, \
         model_name Nullable(String), raw Nullable(String), posted_at DateTime64(6, 'UTC'), created_at DateTime64(6, 'UTC'), \
         updated_at DateTime64(6, 'UTC'), row_version Int64) engine = MergeTree order by id",
        "create table if not exists DAILY (day Date, platform String, topic Nullable(String), \
         lang Nullable(String), sentiment_label String, posts UInt64, authors UInt64, mean_score Nullable(Decimal(9, 6)), \
         min_score Nullable(Decimal(4, 3)), max_score Nullable(Decimal(4, 3)), median_score Nullable(Decimal(9, 6)), likes Int64, \
         replies Int64, shares Int64, build_id UUID) engine = MergeTree partition by day order by (day, platform, sentiment_label)",
    ] {
        clickhouse.execute(&table.replace("DAILY", &daily.result_table()), &[]).await.expect("made");
    }
    results::show(&clickhouse, &daily).await.expect("shown");
}

/// A word that no other test uses.
fn unique(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{word}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An API on a free port, ended when it is dropped.
struct Api {
    address: SocketAddr,
    http: reqwest::Client,
    key: String,
    settings: Settings,
    shutdown: Shutdown,
    running: Option<api::Running>,
}

impl Api {
    /// With the settings of the stack, a pipeline of its own and the role that the API has in production.
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        // The cause of a 5xx is in the log only. Whoever comes first sets it up for all.
        let log = tracing_subscriber::fmt().with_env_filter("platform=warn").with_ansi(false);
        let _ = log.with_writer(std::io::stderr).try_init();
        let settings = Self::settings(change).await;
        let shutdown = Shutdown::manual();
        let running = api::start(&settings, &shutdown).await.unwrap_or_else(|error| panic!("{error:#}"));
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let key = stack().await.api_key().to_owned();
        Self { address: running.address, http, key, settings, shutdown, running: Some(running) }
    }

    async fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = api_settings(stack().await);
        // A test may read the event stream to its end.
        settings.api.events_seconds_max = 2;
        settings.sink.pipeline = unique("pipeline");
        change(&mut settings);
        settings
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address)).bearer_auth(&self.key)
    }

    async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    async fn send_json(&self, method: Method, path: &str, body: &Value) -> Answer {
        send(self.request(method, path).json(body)).await
    }

    async fn post(&self, body: &Value) -> Answer {
        self.send_json(Method::POST, "/v1/sentiment-social", body).await
    }

    /// Creates a post and returns its id.
    async fn create(&self, body: &Value) -> i64 {
        let answer = self.post(body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_i64().expect("an id")
    }

    /// An administrator's connection to PostgreSQL.
    async fn postgres(&self) -> Client {
        postgres::connect(&stack().await.settings().postgres, "test").await.expect("connected")
    }

    /// An administrator's client of ClickHouse.
    async fn clickhouse(&self) -> ClickHouse {
        ClickHouse::new(&stack().await.settings().clickhouse).expect("a client")
    }

    /// Makes a key with these scopes and this end, an SQL expression.
    async fn new_key(&self, scopes: &[&str], expires_at: &str) -> ApiKey {
        let key = ApiKey::from_random(rand::random(), rand::random());
        let sql = format!(
            "insert into platform.api_keys (prefix, sha256, scopes, expires_at) values ($1, $2, $3, {expires_at})"
        );
        let (prefix, sha256) = (key.prefix(), key.sha256());
        self.postgres().await.execute(&sql, &[&prefix, &sha256.as_slice(), &scopes]).await.expect("stored");
        key
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shutdown.token().cancel();
    }
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a text"))
    }

    /// The code of a problem, after checking that it has everything that RFC 9457 and our own rules want.
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().expect("a code").to_owned();
        assert_eq!(problem["type"], format!("/problems/{code}"), "{self:?}");
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{self:?}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self:?}");
        assert!(problem["instance"].as_str().is_some_and(|path| path.starts_with('/')), "{self:?}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{self:?}");
        for word in ["sentiment_social_", "SQLSTATE", "DB::Exception", "ERROR:", "panicked", "/src/"] {
            assert!(!self.body.contains(word), "text of a database or of the program: {self:?}");
        }
        code
    }

    /// What `errors` names: `/likes invalid`, `limit unknown`, …
    fn named(&self) -> Vec<String> {
        let problem = self.json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let name =
            |error: &Value| error["pointer"].as_str().or(error["parameter"].as_str()).expect("a name").to_owned();
        errors.iter().map(|error| format!("{} {}", name(error), error["code"].as_str().expect("a code"))).collect()
    }
}

async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.text().await.expect("a text") }
}

/// A small valid post of `platform`.
fn small_post(platform: &str, post_id: &str, posted_at: &str) -> Value {
    serde_json::json!({
        "platform": platform, "post_id": post_id, "content": "Hello", "sentiment_label": "positive", "posted_at": posted_at,
    })
}
