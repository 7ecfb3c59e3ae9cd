//! What operators ask of a sink, served one after the other by whoever holds the lease, while nothing is written. A request
//! that was in work when a sink died is served again: every kind may be repeated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::adapters::{ClickHouseStore, PostgresOrigin, RuntimeClock};
use super::buckets::Buckets;
use super::status::Status;
use super::writer::Writer;
use super::{replay, rewind};
use crate::catalog::Table;
use crate::config::Settings;
use crate::domain::{Failure, RewindTo};
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::clickhouse::{self, ClickHouse};
use crate::store::connect::Connect;
use crate::store::dead_letters::Selection;
use crate::store::lease::Lease;
use crate::store::requests::{self, Kinds, Outcome, Request};
use crate::store::sinks::{self, Paused, SinkState};
use crate::store::table_states::{self, StateChange, TableState};
use crate::store::{kafka, postgres, table_shapes};

/// How often a request is tried that fails for a reason which may pass.
const ATTEMPTS_MAX: u32 = 5;

/// Where requests are served.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) settings: Settings,
    pub(super) clickhouse: ClickHouse,
    pub(super) status: Status,
    pub(super) cancelled: CancellationToken,
    /// What is computed from the tables.
    pub(super) buckets: Arc<Buckets>,
    /// Rung when some of it has been marked.
    pub(super) marked: Arc<Notify>,
    holder: String,
    /// What PostgreSQL knows of this sink.
    recorded: Mutex<Option<SinkState>>,
    /// The request that failed last, and how often.
    failed: Mutex<(i64, u32)>,
}

impl Desk {
    pub(super) fn new(
        settings: Settings,
        clickhouse: ClickHouse,
        status: Status,
        cancelled: CancellationToken,
        buckets: Arc<Buckets>,
    ) -> Self {
        let holder = format!("{}:{}", sinks::host(), std::process::id());
        let (recorded, failed, marked) = (Mutex::default(), Mutex::default(), Arc::default());
        Self { settings, clickhouse, status, cancelled, buckets, marked, holder, recorded, failed }
    }

    /// Time between two looks at the requests.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.settings.sink.requests_interval_ms.max(10))
    }

    pub(super) fn pipeline(&self) -> &str {
        &self.settings.sink.pipeline
    }

    /// Forgets what is recorded: another sink may have had the lease since.
    pub(super) fn begin_record(&self) {
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records the sink's state if it has changed. Only over the connection of the lease.
    pub(super) async fn record(&self, client: &Client) -> anyhow::Result<()> {
        let report = self.status.report();
        let (Some(since), false) = (report.since, matches!(report.state, "starting" | "standby")) else {
            return Ok(());
        };
        let state = SinkState {
            state: report.state.to_owned(),
            reason: report.reason.map(str::to_owned),
            detail: report.detail,
            remedy: report.remedy.map(str::to_owned),
            since,
            holder: self.holder.clone(),
        };
        if self.recorded.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&state) {
            return Ok(());
        }
        sinks::record(client, self.pipeline(), &state).await?;
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        Ok(())
    }

    /// Whether the pipeline is paused.
    pub(super) async fn paused(&self, client: &Client) -> anyhow::Result<Option<Paused>> {
        sinks::paused(client, self.pipeline()).await
    }

    /// Whether there is something to serve.
    pub(super) async fn is_asked(&self, client: &Client) -> anyhow::Result<bool> {
        Ok(requests::next(client, self.pipeline(), Kinds::Sink).await?.is_some())
    }

    /// Serves every request that is not finished; returns their kinds.
    pub(super) async fn serve_all(&self, lease: &Lease) -> anyhow::Result<Vec<String>> {
        let mut served = Vec::new();
        while let Some(request) = requests::next(lease.client(), self.pipeline(), Kinds::Sink).await? {
            self.serve(lease, &request).await?;
            served.push(request.kind);
        }
        Ok(served)
    }

    /// As a halted sink, which takes the lease for as long as this lasts; returns whether it is to try again.
    pub(super) async fn serve_halted(&self, held: &mut Option<Client>) -> anyhow::Result<bool> {
        let client = match held.take() {
            Some(client) if !client.is_closed() => client,
            _ => {
                let client = postgres::connect(&self.settings.postgres, "platform sink requests").await?;
                sinks::stand(&client, self.pipeline()).await?;
                client
            }
        };
        let asked = self.is_asked(&client).await?;
        *held = Some(client);
        if !asked {
            return Ok(false);
        }
        let Some(lease) = Lease::try_take(&self.settings.postgres, self.pipeline()).await? else { return Ok(false) };
        Ok(self.serve_all(&lease).await?.iter().any(|kind| kind == "resume"))
    }

    async fn serve(&self, lease: &Lease, request: &Request) -> anyhow::Result<()> {
        if !requests::begin(lease.client(), request.id).await? {
            return Ok(());
        }
        let lost = async {
            while lease.is_held().await {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let acted = tokio::select! {
            acted = self.act(lease, request) => acted,
            () = lost => anyhow::bail!("the connection that holds the writer's lease is lost"),
            () = self.cancelled.cancelled() => anyhow::bail!("the sink is stopping"),
        };
        let outcome = match acted {
            Ok(outcome) => outcome,
            Err(error) if may_pass(&error) && self.may_try_again(request.id) => {
                return Err(error.context(format!("serving request {} ({})", request.id, request.kind)));
            }
            Err(error) => failed(&error),
        };
        requests::finish(lease.client(), request.id, &outcome).await?;
        counter!("platform_sink_requests_total", "kind" => request.kind.clone(), "status" => outcome.status.clone())
            .increment(1);
        tracing::info!(
            request = request.id,
            kind = request.kind,
            by = request.by,
            status = outcome.status,
            detail = outcome.detail,
            "request served"
        );
        Ok(())
    }

    fn may_try_again(&self, id: i64) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = if failed.0 == id { (id, failed.1 + 1) } else { (id, 1) };
        failed.1 < ATTEMPTS_MAX
    }

    async fn act(&self, lease: &Lease, request: &Request) -> anyhow::Result<Outcome> {
        match request.kind.as_str() {
            "pause" => self.pause(lease, &request.by).await,
            "resume" => self.resume(lease).await,
            "rewind" => {
                let to: String = argument(&request.arguments, "to")?;
                let to: RewindTo = to.parse().map_err(|error: _| usage(&error))?;
                rewind::rewind(self, to).await
            }
            "replay" => {
                let letters: Selection = argument(&request.arguments, "letters")?;
                replay::replay(self, lease.client(), &letters, &request.by).await
            }
            "drop" => {
                let letters: Selection = argument(&request.arguments, "letters")?;
                replay::discard(self, &letters, &request.by).await
            }
            "resync" => self.resync(&argument::<String>(&request.arguments, "table")?, &request.by).await,
            "restart-connector" => self.restart_connector().await,
            other => Err(Failure::Usage(format!("this sink does not know requests of the kind {other:?}")).into()),
        }
    }

    /// Has a table loaded anew, by whoever watches the tables.
    async fn resync(&self, table: &str, by: &str) -> anyhow::Result<Outcome> {
        let client = postgres::connect(&self.settings.postgres, "platform sink requests").await?;
        let published = table_shapes::published(&client, self.pipeline(), &self.settings.tables).await?;
        let Some(table) = published.tables.iter().map(Table::name).find(|name| name.mirror_name() == table) else {
            return Err(Failure::Usage(format!("{table} is not a published table that can be mirrored")).into());
        };
        let change = StateChange::of(self.pipeline(), TableState::Wanted, "asked for");
        table_states::store(&self.clickhouse, &table.mirror_name(), &change).await?;
        tracing::info!(%table, by, "the table will be loaded anew");
        Ok(Outcome::new("done", 0, format!("{table} will be loaded anew; its state is wanted, loading, then live")))
    }

    async fn restart_connector(&self) -> anyhow::Result<Outcome> {
        Connect::new(&self.settings.connect)?.restart(self.pipeline(), false).await?;
        Ok(Outcome::new("done", 0, "the connector and its task are restarted"))
    }

    async fn pause(&self, lease: &Lease, by: &str) -> anyhow::Result<Outcome> {
        let changed = sinks::set_paused(lease.client(), self.pipeline(), Some(by)).await?;
        let paused = self.paused(lease.client()).await?;
        let paused =
            paused.ok_or_else(|| Failure::Config(format!("PostgreSQL knows no pipeline {}", self.pipeline())))?;
        let halted = self.status.report().reason;
        if halted.is_none() {
            self.status.paused(&paused);
            self.record(lease.client()).await?;
        }
        let detail = match halted {
            Some(reason) => format!("the sink is halted ({reason}), and stays paused when that has ended"),
            None => format!("paused by {}", paused.by),
        };
        let status = if changed { "done" } else { "unchanged" };
        let outcome = Outcome::new(status, 0, detail).with("since", paused.since.to_rfc3339());
        // Everything before it is in ClickHouse. A ClickHouse that does not answer is no reason not to pause.
        Ok(match checkpoint::latest(&self.clickhouse, self.pipeline()).await {
            Ok(Some(at)) => outcome.with("next_offset", at.next_offset).with("watermark", at.watermark.to_string()),
            _ => outcome,
        })
    }

    async fn resume(&self, lease: &Lease) -> anyhow::Result<Outcome> {
        let changed = sinks::set_paused(lease.client(), self.pipeline(), None).await?;
        let halted = self.status.report().reason;
        Ok(match halted {
            Some(reason) => Outcome::new("done", 0, format!("the sink was halted ({reason}) and tries again")),
            None if changed => Outcome::new("done", 0, "the sink goes on"),
            None => Outcome::new("unchanged", 0, "the sink was not paused"),
        })
    }

    /// A writer that goes on behind `from`.
    pub(super) fn writer(&self, from: &Checkpoint, log: u16, cancelled: &CancellationToken) -> Writer {
        let store = ClickHouseStore {
            clickhouse: self.clickhouse.clone(),
            pipeline: self.pipeline().to_owned(),
            acknowledged: Mutex::new(from.position()),
            marked: Arc::clone(&self.marked),
        };
        let origin = PostgresOrigin { settings: self.settings.postgres.clone(), client: tokio::sync::Mutex::new(None) };
        Writer {
            store: Arc::new(store),
            origin: Arc::new(origin),
            clock: Arc::new(RuntimeClock),
            settings: self.settings.sink.clone(),
            status: self.status.clone(),
            cancelled: cancelled.clone(),
            term: from.term + 1,
            batch: from.batch,
            next_offset: from.next_offset,
            log,
            buckets: Arc::clone(&self.buckets),
            parked: None,
        }
    }
}

fn argument<T: DeserializeOwned>(arguments: &Value, name: &str) -> anyhow::Result<T> {
    let value = arguments.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| Failure::Usage(format!("the argument {name}: {error}")).into())
}

fn usage(error: &impl std::fmt::Display) -> Failure {
    Failure::Usage(error.to_string())
}

/// Whether a request that failed so is to be tried again.
fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let clickhouse = cause.downcast_ref::<clickhouse::Error>();
        let kafka = cause.downcast_ref::<kafka::Error>();
        let postgres = cause.downcast_ref::<tokio_postgres::Error>();
        clickhouse.is_some_and(|error| error.class() == clickhouse::Class::Retry)
            || matches!(kafka, Some(kafka::Error::Unavailable(_) | kafka::Error::NoTopic(_)))
            || postgres.is_some_and(postgres::is_transient)
            || matches!(cause.downcast_ref(), Some(Failure::Unavailable(_)))
    })
}

/// A refusal carries its exit code; what may pass and did not is 69; anything else is a bug.
fn failed(error: &anyhow::Error) -> Outcome {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Unavailable(_)) | None if may_pass(error) => Outcome::new("failed", 69, format!("{error:#}")),
        Some(failure) => Outcome::new("refused", failure.exit_code(), failure.to_string()),
        None => Outcome::new("failed", 70, format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_who_has_to_do_something() {
        let refused = failed(&Failure::Usage("forward".into()).into());
        assert_eq!((refused.status.as_str(), refused.exit_code), ("refused", 2));
        let network = anyhow::Error::from(clickhouse::Error::Network("reset".into())).context("replaying");
        assert!(may_pass(&network));
        assert_eq!((failed(&network).status.as_str(), failed(&network).exit_code), ("failed", 69));
        let bug = anyhow::anyhow!("surprise");
        assert!(!may_pass(&bug));
        assert_eq!(failed(&bug).exit_code, 70);
    }

    #[test]
    fn arguments_that_cannot_be_read_are_the_askers_mistake() {
        let arguments = serde_json::json!({ "letters": { "ids": ["a"] } });
        assert_eq!(argument::<Selection>(&arguments, "letters").expect("valid"), Selection::Ids(vec!["a".into()]));
        let error = argument::<String>(&arguments, "to").expect_err("missing");
        assert_eq!(Failure::exit_code_of(&error), 2);
    }
}
