//! What the sink says of itself: to `/readyz`, to the log and to its metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{gauge, histogram};
use serde::Serialize;
use tokio::time::Instant;

use super::halt::Halt;
use super::remedy::remedy;
use crate::store::checkpoint::Checkpoint;
use crate::store::sinks::Paused;

/// Says how old the newest applied change is.
#[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
pub(super) fn lags_behind(committed_at: chrono::DateTime<chrono::Utc>) {
    let lag_us = (chrono::Utc::now() - committed_at).num_microseconds().unwrap_or(i64::MAX).max(0);
    gauge!("platform_sink_lag_seconds").set(lag_us as f64 / 1e6);
}

/// Shared by the parts of one sink. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<StatusReport>>);

/// The state at a moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatusReport {
    /// starting, standby, running, paused, waiting, halted or stopped.
    pub state: &'static str,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// Name of the reason for `halted`.
    pub reason: Option<&'static str>,
    /// What is wrong and what to do about it.
    pub detail: Option<String>,
    /// The command that ends a halt or a pause.
    pub remedy: Option<&'static str>,
    /// Number of the last batch.
    pub batch: u64,
    /// First offset that is not applied.
    pub next_offset: i64,
    /// Every transaction committed below is applied.
    pub watermark: String,
    /// Commit time of the newest applied event.
    pub committed_at: Option<String>,
    /// Tables that are not mirrored, with the reason.
    pub skipped_tables: Vec<String>,
    /// What is wrong with the connector, if anything is known.
    pub connector: Option<String>,
    /// Seconds since something was last applied, once that is longer than `sink.stalled_after_s` although the heartbeat is
    /// raised all the time: RUNNING is not health, progress is.
    pub stalled_s: Option<u64>,
    #[serde(skip)]
    stalled_after: Option<Duration>,
    #[serde(skip)]
    moved_at: Option<Instant>,
}

impl Status {
    /// The status of a sink that is stalled when it has applied nothing for this long.
    pub fn stalled_after(limit: Duration) -> Self {
        let status = Self::default();
        status.update(|report| report.stalled_after = Some(limit));
        status
    }

    /// The state now.
    pub fn report(&self) -> StatusReport {
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let silent = report.moved_at.map(|at| at.elapsed()).filter(|silent| Some(*silent) > report.stalled_after);
        if report.state == "running" && report.stalled_after.is_some() {
            report.stalled_s = silent.map(|silent| silent.as_secs());
        }
        report
    }

    /// Ready: it applies changes, stands by for another sink that does, or is paused because somebody wants it so.
    pub fn is_ready(&self) -> bool {
        let report = self.report();
        matches!(report.state, "running" | "standby" | "paused") && report.stalled_s.is_none()
    }

    /// Whether it applies changes.
    pub fn is_running(&self) -> bool {
        self.report().state == "running"
    }

    /// Takes a state without a reason.
    pub fn set(&self, state: &'static str) {
        self.update(|report| {
            if state == "running" {
                report.moved_at = Some(Instant::now());
            }
            report.enter(state, None, None);
        });
    }

    /// Takes the state `paused`.
    pub(super) fn paused(&self, paused: &Paused) {
        self.update(|report| {
            report.enter("paused", None, Some(format!("paused by {}", paused.by)));
            report.since = Some(paused.since);
            report.remedy = Some("run `platform sink resume`");
        });
    }

    /// Takes what is wrong with the connector; `None`: nothing.
    pub(super) fn connector(&self, problem: Option<String>) {
        self.update(|report| report.connector = problem);
    }

    /// Takes the state `waiting`: something it needs does not answer.
    pub fn waiting(&self, detail: String) {
        self.update(|report| report.enter("waiting", None, Some(detail)));
    }

    pub(super) fn halted(&self, halt: &Halt) {
        self.update(|report| report.enter("halted", Some(halt.name()), Some(halt.to_string())));
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    pub(super) fn skipped(&self, tables: Vec<String>) {
        gauge!("platform_sink_skipped_tables").set(tables.len() as f64);
        self.update(|report| report.skipped_tables = tables);
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    pub(super) fn applied(&self, checkpoint: &Checkpoint, rows: usize, took: Duration, freshness_us: i64) {
        gauge!("platform_sink_watermark_lsn").set(checkpoint.watermark.get() as f64);
        gauge!("platform_sink_next_offset").set(checkpoint.next_offset as f64);
        gauge!("platform_sink_last_applied_timestamp_seconds")
            .set(checkpoint.committed_at.timestamp_micros() as f64 / 1e6);
        histogram!("platform_sink_batch_rows").record(rows as f64);
        histogram!("platform_sink_batch_duration_seconds").record(took.as_secs_f64());
        if rows > 0 {
            histogram!("platform_sink_freshness_seconds").record(freshness_us as f64 / 1e6);
        }
        self.update(|report| {
            report.moved_at = Some(Instant::now());
            report.batch = checkpoint.batch;
            report.next_offset = checkpoint.next_offset;
            report.watermark = checkpoint.watermark.to_string();
            report.committed_at = Some(checkpoint.committed_at.to_rfc3339());
        });
    }

    fn update(&self, change: impl FnOnce(&mut StatusReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl StatusReport {
    /// Takes a state; what is the same as before keeps its time.
    fn enter(&mut self, state: &'static str, reason: Option<&'static str>, detail: Option<String>) {
        if let Some(old) = self.reason.filter(|old| Some(*old) != reason) {
            gauge!("platform_sink_halted", "reason" => old).set(0.0);
        }
        if let Some(reason) = reason {
            gauge!("platform_sink_halted", "reason" => reason).set(1.0);
        }
        gauge!("platform_sink_paused").set(if state == "paused" { 1.0 } else { 0.0 });
        if (self.state, self.reason) != (state, reason) {
            self.since = Some(Utc::now());
        }
        self.state = state;
        self.reason = reason;
        self.detail = detail;
        self.remedy = reason.map(remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_keeps_its_time_and_leaves_nothing_behind() {
        let status = Status::default();
        status.halted(&Halt::NotLoaded);
        let first = status.report();
        status.halted(&Halt::NotLoaded);
        let again = status.report();
        assert_eq!((again.state, again.reason, again.since), ("halted", Some("not-loaded"), first.since));
        assert!(again.remedy.is_some_and(|remedy| remedy.contains("platform load")) && !status.is_ready());
        status.halted(&Halt::LogChanged);
        assert!(status.report().since > first.since);
        status.set("running");
        let running = status.report();
        assert_eq!((running.reason, running.detail, running.remedy), (None, None, None));
    }

    #[test]
    fn the_gauge_of_a_halt_falls_when_it_ends() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let rendered = metrics::with_local_recorder(&recorder, || {
            let status = Status::default();
            status.halted(&Halt::NotLoaded);
            status.halted(&Halt::LogChanged);
            let between = recorder.handle().render();
            status.set("running");
            [between, recorder.handle().render()]
        });
        let gauge = |text: &str, reason: &str| {
            let name = format!("platform_sink_halted{{reason=\"{reason}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned))
        };
        let values =
            |text: &str| [gauge(text, "not-loaded"), gauge(text, "log-changed")].map(Option::unwrap_or_default);
        assert_eq!(rendered.map(|text| values(&text)), [["0", "1"], ["0", "0"]]);
    }

    #[test]
    fn a_pause_is_ready_and_says_whose_it_is() {
        let status = Status::default();
        let since = DateTime::UNIX_EPOCH;
        status.paused(&Paused { since, by: "ada".into() });
        let report = status.report();
        assert_eq!(
            (report.state, report.since, report.detail.as_deref()),
            ("paused", Some(since), Some("paused by ada"))
        );
        assert!(status.is_ready() && !status.is_running());
    }
}
