//! `platform sink`: applies the change events of the topic to ClickHouse, until stopped; and what operators do with one that
//! runs.

use std::time::Duration;

use anyhow::Context as _;

use serde_json::json;

use super::operate::{Wait, ask};
use super::sink_status;
use crate::batch::load::Watch;
use crate::batch::{Jobs, Refresher, aggregates};
use crate::cdc::{Pipeline, Status, serve_health, supervise};
use crate::config::Settings;
use crate::domain::{Failure, RewindTo};
use crate::shutdown::Shutdown;
use crate::store::{postgres, table_shapes};
use crate::telemetry;

/// Flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a command the sink runs, until SIGTERM. The commands are about a sink that runs elsewhere: `status` only looks, the
others ask it through PostgreSQL (platform.requests) and wait for what it answers. All are safe at any time: under load, and
while the sink is paused or halted.

Exit codes: 0 done, or nothing to change. 2 a refused rewind. 65 the pipeline or a table is halted (status). 69 nobody runs the
pipeline, or no sink took the request, which is then withdrawn. 75 the sink has taken the request and is not ready in time.")]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,

    /// Name of the pipeline: its publication, slot and connector; default sink.pipeline.
    #[arg(long, value_name = "NAME", global = true)]
    pipeline: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say what the sink is doing, how far behind it is, what has stopped and what to do about it.
    Status(sink_status::Args),
    /// Write what was read, and stop reading; lasts over restarts of the sink, until `resume`.
    Pause(Wait),
    /// End a pause, or let a halted sink try again.
    Resume(Wait),
    /// Go back in the topic and apply everything from there again; what is newer in ClickHouse stays.
    Rewind(Rewind),
}

#[derive(Debug, clap::Args)]
struct Rewind {
    /// An offset (1234), a position of PostgreSQL's log (16/B374D848): every transaction that committed at or behind it, or a
    /// time (2026-11-22T10:00:00Z): what was committed then or later.
    #[arg(long, value_name = "OFFSET|LSN|TIME")]
    to: RewindTo,

    #[command(flatten)]
    wait: Wait,
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

/// Runs the sink, or asks one that runs.
///
/// # Errors
/// `Failure::Config` (78) when an address is missing or a column cannot have its configured type; otherwise it runs until SIGTERM
/// and drains what it holds. Those of a request: see `operate::ask`.
pub async fn run(args: Args, mut settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    if let Some(pipeline) = args.pipeline {
        settings.sink.pipeline = pipeline;
    }
    match args.action {
        None => Box::pin(follow(settings, shutdown)).await,
        Some(Action::Status(args)) => sink_status::run(args, settings, shutdown).await,
        Some(Action::Pause(wait)) => ask("sink pause", "pause", json!({}), wait, &settings, &shutdown).await,
        Some(Action::Resume(wait)) => ask("sink resume", "resume", json!({}), wait, &settings, &shutdown).await,
        Some(Action::Rewind(Rewind { to, wait })) => {
            let arguments = json!({ "to": to.to_string() });
            ask("sink rewind", "rewind", arguments, wait, &settings, &shutdown).await
        }
    }
}

/// Runs the sink, the supervisor of its connector, and the watch that loads tables which join the publication. A halt is
/// shown on `/readyz`, by `platform sink status` and in the log; the process stays.
async fn follow(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    check_types(&settings).await?;
    let metrics = telemetry::metrics_handle()?;
    telemetry::spawn_metrics_upkeep(metrics.clone(), &shutdown);
    let status = Status::stalled_after(Duration::from_secs(settings.sink.stalled_after_s));
    status.set("starting");
    let cancelled = shutdown.token().clone();
    let aggregates = aggregates::all(&settings.etl.aggregates_dir)?;
    let pipeline = Pipeline::new(settings.clone(), &aggregates, status.clone(), cancelled.clone())?;
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
    let jobs = Jobs {
        settings: settings.clone(),
        is_active: {
            let status = status.clone();
            move || status.is_running()
        },
        shutdown: shutdown.clone(),
        cancelled: cancelled.clone(),
    };
    let jobs = tokio::spawn(jobs.run());
    let refresher = Refresher {
        settings: settings.clone(),
        aggregates,
        is_active: {
            let status = status.clone();
            move || status.is_running()
        },
        marked: pipeline.marked(),
        shutdown,
        cancelled: cancelled.clone(),
    };
    let refresher = tokio::spawn(refresher.run());
    let health = serve_health(&settings.sink.bind, status, metrics, cancelled.clone());
    tokio::select! {
        () = pipeline.run() => {}
        failed = health => {
            // Without its health the sink cannot be operated; a pipeline that is cancelled ends by itself.
            failed?;
            cancelled.cancelled().await;
        }
    }
    refresher.await.context("the refresher of statistics ended unexpectedly")?;
    jobs.await.context("the worker of jobs ended unexpectedly")?;
    watch.await.context("the watch over the tables ended unexpectedly")?;
    supervisor.await.context("the supervisor ended unexpectedly")
}
