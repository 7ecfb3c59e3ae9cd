//! `/livez`, `/readyz`, `/metrics`, `/v1/version`: for probes, monitors and people.

use std::time::Duration;

use ::metrics::gauge;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::problem::{ApiResult, Problem};
use super::query::Query;
use super::state::{Shared, State, Worker};

/// How long a part gets to answer a readiness probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The process lives. It asks nobody else.
#[utoipa::path(tag = "operations", responses((status = 200, body = String, content_type = "text/plain", description = "`ok`"), (status = 400, body = Problem)))]
#[get("/livez")]
pub(crate) async fn livez(request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n"))
}

/// Whether requests should be sent here, and why not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ready` or `not_ready`.
    pub status: &'static str,
    /// Each part that is needed; with `?verbose`, or when it is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// A part that the API needs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Check {
    /// `postgres`, `clickhouse` or `drain`.
    pub name: &'static str,
    /// Whether it is as it must be.
    pub ok: bool,
    /// For people; no text of a database.
    pub detail: String,
    /// How long it took to find out.
    pub elapsed_ms: u64,
}

/// Ready to serve: PostgreSQL and ClickHouse answer, and the process is not about to end.
#[utoipa::path(
    tag = "operations",
    params(("verbose" = Option<String>, Query, description = "Show every check, not only failed ones")),
    responses((status = 200, body = Readiness), (status = 400, body = Problem), (status = 503, body = Readiness, description = "Not ready")),
)]
#[get("/readyz")]
pub(crate) async fn readyz(state: State, request: HttpRequest) -> ApiResult<HttpResponse> {
    let mut query = Query::of(&request)?;
    let verbose = query.text("verbose").is_some();
    query.finish()?;
    let checks = checks(&state).await;
    let ready = checks.iter().all(|check| check.ok);
    let checks = checks.into_iter().filter(|check| verbose || !check.ok).collect();
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    Ok(response.json(Readiness { status: if ready { "ready" } else { "not_ready" }, checks }))
}

/// Asks every part that the API needs.
pub(super) async fn checks(worker: &Worker) -> Vec<Check> {
    let draining = worker.shared.is_draining();
    let drain = Check {
        name: "drain",
        ok: !draining,
        detail: if draining { "the process is ending" } else { "accepting requests" }.to_owned(),
        elapsed_ms: 0,
    };
    let (postgres, clickhouse) = tokio::join!(
        check("postgres", "PostgreSQL", async {
            worker.postgres().await?.simple_query("select 1").await.map(drop).map_err(Into::into)
        }),
        check("clickhouse", "ClickHouse", async {
            let client = worker.clickhouse.with_timeout(PROBE_LIMIT);
            client.fetch_bytes("select 1", &[], "TSV").await.map(drop).map_err(Into::into)
        }),
    );
    vec![postgres, clickhouse, drain]
}

async fn check(name: &'static str, who: &str, probe: impl Future<Output = ApiResult<()>>) -> Check {
    let began = Instant::now();
    let outcome = tokio::time::timeout(PROBE_LIMIT, probe).await;
    let (ok, detail) = match outcome {
        Ok(Ok(())) => (true, format!("{who} answers")),
        Ok(Err(error)) => (false, format!("{who}: {}", error.code().title())),
        Err(_) => (false, format!("{who} did not answer within {} ms", PROBE_LIMIT.as_millis())),
    };
    Check { name, ok, detail, elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX) }
}

/// Prometheus metrics of this process.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "Prometheus text format 0.0.4"),
        (status = 400, body = Problem),
    ),
)]
#[get("/metrics")]
pub(crate) async fn metrics(state: State, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    set_gauges(&state.shared);
    let text = state.shared.metrics.render();
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn set_gauges(shared: &Shared) {
    let pool = shared.pool_status();
    for (state, number) in [("limit", pool.limit), ("open", pool.open), ("idle", pool.idle), ("waiting", pool.waiting)]
    {
        gauge!("platform_api_postgres_connections", "state" => state).set(number as f64);
    }
    gauge!("platform_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let seen = shared.replica.last();
    if let (Some(checkpoint), Some(lag)) = (&seen.checkpoint, seen.lag_ms(chrono::Utc::now())) {
        gauge!("platform_replica_watermark_lsn").set(checkpoint.watermark.get() as f64);
        gauge!("platform_replica_lag_seconds").set(lag as f64 / 1000.0);
    }
    gauge!("platform_replica_reachable").set(if seen.error.is_none() { 1.0 } else { 0.0 });
}

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    /// The program.
    #[schema(example = "platform")]
    pub name: &'static str,
    /// Its version.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// Version of this API's paths.
    #[schema(example = "v1")]
    pub api: &'static str,
    /// Analytics endpoints that are served.
    pub analytics: Vec<String>,
}

/// Version of the program and what it serves. Needs no key.
#[utoipa::path(tag = "operations", security(()), responses((status = 200, body = Version), (status = 400, body = Problem)))]
#[get("/version")]
pub(crate) async fn get_version(state: State, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    let analytics = state.shared.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    Ok(HttpResponse::Ok().json(Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        api: "v1",
        analytics,
    }))
}
