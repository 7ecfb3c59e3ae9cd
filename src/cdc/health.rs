//! The sink's own `/livez`, `/readyz` and `/metrics`.

use actix_web::web::{Data, get};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use super::status::Status;
use crate::domain::Failure;

/// Serves on `bind` until cancelled.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    bind: &str,
    status: Status,
    metrics: PrometheusHandle,
    cancelled: CancellationToken,
) -> anyhow::Result<()> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(status.clone()))
            .app_data(Data::new(metrics.clone()))
            .route("/livez", get().to(|| async { HttpResponse::Ok().body("alive\n") }))
            .route("/readyz", get().to(ready))
            .route("/metrics", get().to(|metrics: Data<PrometheusHandle>| async move { metrics.render() }))
    });
    let server = server
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1)
        .shutdown_signal(async move { cancelled.cancelled().await })
        .bind(bind)
        .map_err(|error| {
            Failure::Config(format!("cannot listen on {bind}: {error}; set sink.bind to a free address"))
        })?;
    server.run().await.context("serving the sink's health")
}

async fn ready(status: Data<Status>) -> HttpResponse {
    let report = status.report();
    if status.is_ready() { HttpResponse::Ok().json(report) } else { HttpResponse::ServiceUnavailable().json(report) }
}
