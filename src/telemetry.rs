//! Log lines to stderr: text for a terminal, JSON for a pipe. Metrics in memory, for whoever serves `/metrics`.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::domain::Failure;
use crate::shutdown::Shutdown;

/// Bounds of histograms: one millisecond to a minute, in seconds. Counts of rows fall into the same decades.
const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds of histograms of rows: a batch has one to `sink.batch_rows_max`.
const ROWS: [f64; 11] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5];
/// Upper bounds of histograms of bytes, 1 KiB to 128 MiB.
const BYTES: [f64; 9] =
    [1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 33_554_432.0, 134_217_728.0];

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

/// This process's metrics in Prometheus's text format. The first call starts to collect them.
///
/// # Errors
/// Another recorder was installed before.
pub fn metrics_handle() -> anyhow::Result<PrometheusHandle> {
    // Locked while the recorder is installed: a second caller at the same moment must get the first one's.
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut known = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = known.as_ref() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ROWS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?;
    let handle = builder.install_recorder().context("starting to collect metrics")?;
    *known = Some(handle.clone());
    Ok(handle)
}

/// Keeps the memory of histograms bounded, on the current runtime, until `shutdown`. Long-running commands call it once.
pub fn spawn_metrics_upkeep(metrics: PrometheusHandle, shutdown: &Shutdown) {
    let stop = shutdown.token().clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP_PAUSE) => metrics.run_upkeep(),
            }
        }
    });
}
