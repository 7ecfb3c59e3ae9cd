//! `platform sink`: applies the change events of the topic to ClickHouse, until stopped.

use std::time::Duration;

use anyhow::Context as _;

use crate::batch::load::Watch;
use crate::cdc::{Pipeline, Status, serve_health, supervise};
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::{postgres, table_shapes};
use crate::telemetry;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the pipeline: its publication, slot and connector; default sink.pipeline.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
}

/// Says at once when a column cannot have the type that the configuration gives it. While PostgreSQL does not answer,
/// nothing is known.
async fn check_types(settings: &Settings) -> anyhow::Result<()> {
    let Ok(client) = postgres::connect(&settings.postgres, "platform sink").await else { return Ok(()) };
    match table_shapes::published(&client, &settings.sink.pipeline, &settings.tables).await {
        Err(error) if matches!(error.downcast_ref(), Some(Failure::Config(_))) => Err(error),
        _ => Ok(()),
    }
}

/// Runs the sink, the supervisor of its connector, and the watch that loads tables which join the publication. A halt is
/// shown on `/readyz` and in the log; the process stays.
///
/// # Errors
/// `Failure::Config` (78) when an address is missing or a column cannot have its configured type; otherwise it runs until SIGTERM and drains what it holds.
pub async fn run(args: Args, mut settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    if let Some(pipeline) = args.pipeline {
        settings.sink.pipeline = pipeline;
    }
    check_types(&settings).await?;
    let metrics = telemetry::metrics_handle()?;
    telemetry::spawn_metrics_upkeep(metrics.clone(), &shutdown);
    let status = Status::stalled_after(Duration::from_secs(settings.sink.stalled_after_s));
    status.set("starting");
    let cancelled = shutdown.token().clone();
    let pipeline = Pipeline::new(settings.clone(), status.clone(), cancelled.clone())?;
    let supervisor = tokio::spawn(supervise(settings.clone(), status.clone(), cancelled.clone()));
    let watch = Watch {
        settings: settings.clone(),
        is_active: {
            let status = status.clone();
            move || status.is_running()
        },
        changed: pipeline.changed(),
        cancelled: cancelled.clone(),
    };
    let watch = tokio::spawn(watch.run());
    let health = serve_health(&settings.sink.bind, status, metrics, cancelled.clone());
    tokio::select! {
        () = pipeline.run() => {}
        failed = health => {
            // Without its health the sink cannot be operated; a pipeline that is cancelled ends by itself.
            failed?;
            cancelled.cancelled().await;
        }
    }
    watch.await.context("the watch over the tables ended unexpectedly")?;
    supervisor.await.context("the supervisor ended unexpectedly")
}
