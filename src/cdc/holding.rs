//! The lease of a pipeline: who has it runs, stays paused or serves requests; who has halted gives it back, so that a load can
//! mend what is wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::continuity::{self, Look};
use super::halt::Halt;
use super::pipeline::{Pipeline, Stop};
use super::{preflight, status};
use crate::domain::Lsn;
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::lag_history::{self, Sample};
use crate::store::lease::Lease;
use crate::store::mirror::Log;
use crate::store::sinks::Paused;
use crate::store::{connector_config, postgres};

/// How long what was read may take to be written before a request is served all the same: what is not written is read again.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long a sink that ClickHouse refuses stays halted before it begins again: rights may come back, a table may be restored,
/// and nothing is skipped by asking again.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// Time between two samples of figures for people.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// How long a last word to PostgreSQL may take.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Takes the lease and keeps it until something stops this sink.
    pub(super) async fn run_once(&self) -> Stop {
        let lease = match self.lease().await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Stop::Cancelled,
            Err(error) => return Stop::Again(error),
        };
        self.desk.begin_record();
        let stop = loop {
            match self.hold(&lease).await {
                Ok(Stop::Asked) => {}
                Ok(stop) => break stop,
                Err(error) => break Stop::Again(error),
            }
        };
        match &stop {
            Stop::Halt(halt) => self.status.halted(halt),
            Stop::Again(error) => self.status.waiting(format!("{error:#}")),
            Stop::Cancelled => self.status.set("stopped"),
            Stop::Asked => {}
        }
        // While the lease is held: what another sink says afterwards is newer.
        match tokio::time::timeout(RECORD_LIMIT, self.desk.record(lease.client())).await {
            Ok(Ok(())) => {}
            failed => tracing::debug!(?failed, "the sink's state is not recorded"),
        }
        stop
    }

    /// Serves what was asked for, then runs, unless the pipeline is paused.
    async fn hold(&self, lease: &Lease) -> anyhow::Result<Stop> {
        self.desk.serve_all(lease).await?;
        match self.desk.paused(lease.client()).await? {
            Some(paused) => self.stay_paused(lease, &paused).await,
            None => self.start(lease).await,
        }
    }

    async fn stay_paused(&self, lease: &Lease, paused: &Paused) -> anyhow::Result<Stop> {
        if self.status.report().state != "paused" {
            tracing::info!(by = paused.by, since = %paused.since, "paused; `platform sink resume` goes on");
        }
        self.status.paused(paused);
        loop {
            self.desk.record(lease.client()).await?;
            tokio::select! {
                () = tokio::time::sleep(self.desk.interval()) => {}
                () = self.cancelled.cancelled() => return Ok(Stop::Cancelled),
            }
            if self.desk.is_asked(lease.client()).await? {
                return Ok(Stop::Asked);
            }
        }
    }

    /// Ends when there is a request to serve and what was read before is written, or takes too long.
    pub(super) async fn asked(&self, lease: &Lease, drain: &CancellationToken) -> Stop {
        loop {
            let looked = async {
                self.desk.record(lease.client()).await?;
                self.desk.is_asked(lease.client()).await
            };
            match looked.await {
                Ok(false) => tokio::time::sleep(self.desk.interval()).await,
                Ok(true) => break,
                Err(error) => return Stop::Again(error),
            }
        }
        drain.cancel();
        tokio::time::sleep(DRAIN_LIMIT).await;
        Stop::Asked
    }

    /// Waits until the cause of a halt is mended, somebody says to try again, or until cancelled. Serves requests meanwhile.
    pub(super) async fn halted(&self, halt: &Halt) {
        let mut client: Option<Client> = None;
        let begun = Instant::now();
        let mut looked = begun;
        loop {
            // At once: until it has, nobody knows that a halted sink is there.
            match self.desk.serve_halted(&mut client).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    client = None;
                    tracing::warn!(error = format!("{error:#}"), "requests cannot be served");
                }
            }
            if looked.elapsed() >= Duration::from_secs(1) {
                looked = Instant::now();
                let again = matches!(halt, Halt::ClickHouse(_)) && begun.elapsed() >= REFUSED_AGAIN;
                if again || self.is_over(halt).await {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.desk.interval()) => {}
                () = self.cancelled.cancelled() => return,
            }
        }
    }

    /// Whether what halted the sink has changed. While nobody answers, nothing is known.
    async fn is_over(&self, halt: &Halt) -> bool {
        if !matches!(halt, Halt::Connector(_)) {
            return self.is_overtaken().await;
        }
        let wrong = async || {
            let client = postgres::connect(&self.settings.postgres, "platform sink").await?;
            let placeholder = connector_config::placeholder(&client, &self.settings.sink.pipeline).await?;
            preflight::check(&self.settings, &placeholder, true).await
        };
        wrong().await.is_ok_and(|wrong| wrong.map(Halt::Connector).as_ref() != Some(halt))
    }

    /// Whether a checkpoint of a higher term is there.
    async fn is_overtaken(&self) -> bool {
        let latest = checkpoint::latest(&self.clickhouse, &self.settings.sink.pipeline).await;
        self.overtakes(latest.ok().flatten().as_ref())
    }

    fn overtakes(&self, latest: Option<&Checkpoint>) -> bool {
        latest.is_some_and(|checkpoint| checkpoint.term > self.term.load(Ordering::SeqCst))
    }

    /// Ends when this sink may not go on: the lease is lost, a load has moved the checkpoint, or the database, the slot or
    /// the connector do not continue what was applied.
    pub(super) async fn lost(&self, lease: &Lease, log: &Log) -> Stop {
        let mut sampled: Option<Instant> = None;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !lease.is_held().await {
                return Stop::Again(anyhow::anyhow!("the connection that holds the writer's lease is lost"));
            }
            let latest = checkpoint::latest(&self.clickhouse, &self.settings.sink.pipeline).await.ok().flatten();
            if self.overtakes(latest.as_ref()) {
                return Stop::Again(anyhow::anyhow!("a load has moved the checkpoint"));
            }
            if let Some(latest) = &latest {
                status::lags_behind(latest.committed_at);
            }
            let committed_at = latest.as_ref().map(|latest| latest.committed_at);
            let watermark =
                latest.filter(|latest| latest.log == log.number).map_or(Lsn::ZERO, |latest| latest.watermark);
            match continuity::check(&self.settings, lease.client(), log, watermark).await {
                Ok(Look { halt: Some(halt), .. }) => return Stop::Halt(halt),
                Ok(look) if sampled.is_none_or(|at| at.elapsed() >= SAMPLE_EVERY) => {
                    self.sample(&look, committed_at).await;
                    sampled = Some(Instant::now());
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(error = format!("{error:#}"), "PostgreSQL does not say how it stands"),
            }
        }
    }

    /// Figures for people: what is lost of them does no harm.
    async fn sample(&self, look: &Look, committed_at: Option<DateTime<Utc>>) {
        let now = Utc::now();
        let lag_ms = committed_at.map_or(0, |committed_at| (now - committed_at).num_milliseconds().max(0));
        let Look { lag_bytes, retained_bytes, .. } = *look;
        let sample = Sample { at: now, lag_ms, lag_bytes, retained_bytes };
        if let Err(error) = lag_history::store(&self.clickhouse, &self.settings.sink.pipeline, &sample).await {
            tracing::debug!(error = %error, "the lag is not remembered");
        }
    }

    /// Waits for the lease; stands by while another sink holds it.
    async fn lease(&self) -> anyhow::Result<Option<Lease>> {
        let mut said = false;
        loop {
            if let Some(lease) = Lease::try_take(&self.settings.postgres, &self.settings.sink.pipeline).await? {
                return Ok(Some(lease));
            }
            if !said {
                tracing::info!("another sink holds the lease of this pipeline; standing by");
                self.status.set("standby");
                said = true;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.cancelled.cancelled() => return Ok(None),
            }
        }
    }
}
