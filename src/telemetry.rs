//! Log lines to stderr: text for a terminal, JSON for a pipe. Metrics in memory, for whoever serves `/metrics`.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::domain::Failure;
use crate::shutdown::Shutdown;

/// Upper bounds of histograms whose names end in `_seconds`.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Pause between two rounds of folding what histograms have collected.
const UPKEEP_PAUSE: Duration = Duration::from_secs(5);

/// Starts logging. Call once, after the settings are loaded.
///
/// # Errors
/// `Failure::Config` when `log.level` is no filter.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| Failure::Config(format!("log.level {:?}: {error}", log.level)))?;
    let json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first subscriber.
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).compact().try_init()
    };
    drop(started);
    Ok(())
}

/// The process's metrics, rendered by `PrometheusHandle::render`. The first call starts to record; what was counted
/// before is lost, so long-running commands call it first.
#[expect(clippy::expect_used, reason = "constant bounds; only this function installs a recorder")]
pub fn metrics_handle() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .expect("bounds are not empty")
            .install_recorder()
            .expect("no other recorder")
    })
}

/// Keeps the memory of histograms bounded, on the current runtime, until `shutdown`. Long-running commands call it once.
pub fn spawn_metrics_upkeep(shutdown: &Shutdown) {
    let stop = shutdown.token().clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP_PAUSE) => metrics_handle().run_upkeep(),
            }
        }
    });
}
