//! The HTTP server: composes what handlers share, starts the workers, drains them at the end.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::{ServiceFactory, ServiceRequest};
use actix_web::middleware::{Compress, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, get, web};
use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::{AppExt as _, UtoipaApp, scope};

use super::answers::Answers;
use super::auth::KeyCache;
use super::connector::ConnectorWatch;
use super::cors::Origins;
use super::durations::Durations;
use super::envelope::envelope;
use super::overload::Places;
use super::pipeline_health::PipelineHealth;
use super::problem::{ApiResult, Problem};
use super::query::Query;
use super::ranges::Ranges;
use super::rate_limit::Buckets;
use super::replica::Replica;
use super::shared_inserts::SharedInserts;
use super::state::{Shared, State, Worker};
use super::{
    analytics, consistency_resource, dead_letters, endpoints, entity_tags, events, fallback, health, idempotency, keys,
    lag, openapi, pages, pipeline, pipeline_tables, posts, posts_batch, posts_list, requests, runs, stats,
    stats_freshness,
};
use crate::config::{self, Auth, Settings};
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;
use crate::store::pool::{Limits, Pool};
use crate::{store, telemetry};

/// How long `/readyz` says 503 before the server stops to accept connections.
const DRAIN_NOTICE: Duration = Duration::from_millis(500);
/// How long a client may take to send its request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Pause between two clean-ups of idempotency keys.
const CLEAN_UP_PAUSE: Duration = Duration::from_secs(600);

/// A server that answers already.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Waits until the shutdown was asked for and requests in flight have ended.
    ///
    /// # Errors
    /// The server failed.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.task.await.context("the HTTP server's task")?.context("the HTTP server")
    }
}

/// Starts the server; it ends with `shutdown`.
///
/// # Errors
/// `Failure::Config` for settings or endpoint files that are wrong, and for an address that cannot be listened on.
pub async fn start(settings: &Settings, shutdown: &Shutdown) -> anyhow::Result<Running> {
    let listener = listen(&settings.api).await?;
    let address = listener.local_addr().context("the listening address")?;
    let metrics = telemetry::metrics_handle()?;
    telemetry::spawn_metrics_upkeep(metrics.clone(), shutdown);
    let shared = Arc::new(share(settings, metrics, shutdown)?);
    spawn_clean_up(settings.postgres.clone(), shutdown);
    // A pool that cannot be made is a wrong setting: found here, not in a worker.
    let limits = limits(settings);
    Pool::new(&settings.postgres, limits)?;
    let (for_workers, settings_of_workers) = (Arc::clone(&shared), settings.clone());
    let make_app = move || {
        let worker = worker(&for_workers, &settings_of_workers, limits);
        let (app, _) = routes(App::new().app_data(worker)).split_for_parts();
        // The wrap that is written last runs first.
        app.wrap(Compress::default()).wrap(from_fn(entity_tags::by_coding)).wrap(from_fn(envelope))
    };
    let server = HttpServer::new(make_app)
        .workers(worker_count(settings.api.workers))
        .listen(listener)
        .context("taking the listener")?
        .disable_signals()
        .tcp_nodelay(true)
        .h1_allow_half_closed(false)
        .client_request_timeout(HEAD_LIMIT)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(settings.api.drain_timeout_s)
        .shutdown_signal(drained(Arc::clone(&shared), shutdown.token().clone()))
        .run();
    Ok(Running { address, task: tokio::spawn(server) })
}

/// Resolves when the server shall stop to accept: some time after it has begun to say so.
async fn drained(shared: Arc<Shared>, stop: tokio_util::sync::CancellationToken) {
    stop.cancelled().await;
    shared.draining.store(true, Ordering::Relaxed);
    tracing::info!("draining: no new requests, those in flight get to end");
    tokio::time::sleep(DRAIN_NOTICE).await;
}

async fn listen(api: &config::Api) -> anyhow::Result<TcpListener> {
    let wrong = |what: String| Failure::Config(format!("api.bind {:?}: {what}", api.bind));
    let found = tokio::net::lookup_host(&api.bind).await.map_err(|error| wrong(format!("{error}; write HOST:PORT")))?;
    let addresses: Vec<SocketAddr> = found.collect();
    if api.auth == Auth::Off && !addresses.iter().all(|address| address.ip().is_loopback()) {
        let text =
            "api.auth is \"off\": then api.bind must be a loopback address, or anybody on the network could write";
        return Err(Failure::Config(text.to_owned()).into());
    }
    if api.auth == Auth::Off {
        tracing::warn!("api.auth is \"off\": every process of this machine may read and write");
    }
    let listener = TcpListener::bind(addresses.as_slice()).map_err(|error| wrong(error.to_string()))?;
    listener.set_nonblocking(true).context("preparing the listener")?;
    Ok(listener)
}

fn share(settings: &Settings, metrics: PrometheusHandle, shutdown: &Shutdown) -> anyhow::Result<Shared> {
    let endpoints = endpoints::load(&settings.api.endpoints_dir)?;
    let document = document(&endpoints);
    let json = serde_json::to_vec(&document).context("writing the OpenAPI document")?;
    Ok(Shared {
        settings: settings.api.clone(),
        pipeline: settings.sink.pipeline.clone(),
        replica: Replica::start(ClickHouse::new(&settings.clickhouse)?, settings.sink.pipeline.clone(), shutdown),
        clickhouse_of_answers: request_clickhouse(settings)?,
        buckets: Buckets::new(settings.api.rate_limit_requests, settings.api.rate_limit_window_s),
        origins: Origins::parse(&settings.api.cors_origins)?,
        endpoints,
        ranges: Ranges::default(),
        daily: endpoints::daily()?,
        aggregates: store::aggregates::all(&settings.etl.aggregates_dir)?,
        answers: Answers::new(settings.api.cache_entries_max, settings.api.cache_bytes_max, Handle::current()),
        health: PipelineHealth::default(),
        metrics,
        connector: ConnectorWatch::new(&settings.connect, &settings.sink.pipeline)?,
        openapi: (document, web::Bytes::from(json)),
        draining: AtomicBool::new(false),
        barrier: AtomicU64::new(0),
        waiters: Semaphore::new(settings.api.waiters_max),
        streams: Arc::new(Semaphore::new(settings.api.event_streams_max)),
        pools: Mutex::default(),
    })
}

/// The OpenAPI document of the API with these endpoints.
pub fn document(endpoints: &[crate::catalog::endpoint::Endpoint]) -> OpenApi {
    let (_, collected) = routes(App::new()).split_for_parts();
    openapi::complete(collected, endpoints)
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        connections: settings.api.postgres_connections_per_worker,
        acquire: Duration::from_millis(settings.api.acquire_timeout_ms),
        statement: Duration::from_millis(settings.api.query_timeout_ms.min(settings.postgres.statement_timeout_ms)),
    }
}

/// ClickHouse with the limit of a request.
fn request_clickhouse(settings: &Settings) -> anyhow::Result<ClickHouse> {
    Ok(ClickHouse::new(&settings.clickhouse)?.with_timeout(Duration::from_millis(settings.api.query_timeout_ms)))
}

/// Called in each worker's thread.
#[expect(clippy::expect_used, reason = "the same settings made both clients when the server started")]
fn worker(shared: &Arc<Shared>, settings: &Settings, limits: Limits) -> State {
    let pool = Pool::new(&settings.postgres, limits).expect("settings that were checked at the start");
    let clickhouse = request_clickhouse(settings).expect("settings that were checked at the start");
    shared.pools.lock().unwrap_or_else(PoisonError::into_inner).push(pool.clone());
    let api = &shared.settings;
    let part = |all: usize| all.div_ceil(worker_count(api.workers));
    web::Data::new(Worker {
        shared: Arc::clone(shared),
        creations: SharedInserts::new(pool.clone(), part(api.postgres_waiting_max), shared.time_max()),
        pool,
        clickhouse,
        keys: KeyCache::default(),
        durations: Durations::default(),
        in_flight: Places::new(part(api.in_flight_max)),
        waiting: Places::new(part(api.postgres_waiting_max)),
    })
}

fn worker_count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// Every route. What is added by `service` is in the OpenAPI document; pages for people are added by `map`.
fn routes<T>(app: App<T>) -> UtoipaApp<T>
where
    T: ServiceFactory<ServiceRequest, Config = (), Error = actix_web::Error, InitError = ()>,
{
    let v1 = scope("/v1")
        .service(posts::create_post)
        .service(posts_batch::create_posts)
        .service(posts_list::list_posts)
        .service(posts::get_post)
        .service(posts::patch_post)
        .service(posts::put_post)
        .service(posts::delete_post)
        .service(analytics::Analytics)
        .service(stats::get_daily)
        .service(stats_freshness::get_freshness)
        .service(consistency_resource::get_consistency)
        .service(pipeline::get_pipeline)
        .service(lag::get_lag)
        .service(pipeline_tables::list_tables)
        .service(pipeline_tables::get_table)
        .service(pipeline_tables::resync_table)
        .service(pipeline_tables::restart_connector)
        .service(requests::get_request)
        .service(dead_letters::list_dead_letters)
        .service(dead_letters::get_dead_letter)
        .service(dead_letters::retry_dead_letter)
        .service(dead_letters::delete_dead_letter)
        .service(runs::list_etl_runs)
        .service(runs::get_etl_run)
        .service(runs::start_etl_run)
        .service(runs::list_reconciliations)
        .service(runs::get_reconciliation)
        .service(runs::start_reconciliation)
        .service(events::get_events)
        .service(keys::list_keys)
        .service(keys::create_key)
        .service(keys::revoke_key)
        .service(health::get_version);
    app.into_utoipa_app()
        .openapi(openapi::frame())
        .service(health::livez)
        .service(health::readyz)
        .service(health::metrics)
        .service(openapi_json)
        .service(v1)
        .map(|app| {
            app.service(pages::start_page)
                .service(pages::style)
                .service(pages::docs_root)
                .service(pages::docs)
                .service(pages::problems)
                .service(pages::problem)
                .default_service(web::to(fallback::fallback))
        })
}

/// This document.
#[utoipa::path(tag = "operations", responses((status = 200, body = Object, description = "OpenAPI 3.1"), (status = 400, body = Problem)))]
#[get("/openapi.json")]
async fn openapi_json(state: State, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(state.shared.openapi.1.clone()))
}

/// Removes expired idempotency keys now and then. Every process does: they take different rows or none.
fn spawn_clean_up(postgres: config::Postgres, shutdown: &Shutdown) {
    let stop = shutdown.token().clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CLEAN_UP_PAUSE) => {}
            }
            if let Err(error) = clean_up(&postgres).await {
                tracing::warn!(error = format!("{error:#}"), "expired idempotency keys stay for now");
            }
        }
    });
}

async fn clean_up(postgres: &config::Postgres) -> anyhow::Result<()> {
    let client = store::postgres::connect(postgres, "platform serve").await?;
    while idempotency::clean_up(&client).await? > 0 {}
    Ok(())
}
