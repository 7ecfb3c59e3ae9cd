//! Jobs that callers of the API ask for through `platform.requests`: building days of statistics, comparing both databases. They
//! run beside the sink that is active, one after the other; one that was under way when its process died is run again.

use std::time::Duration;

use anyhow::Context as _;
use metrics::counter;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::batch::aggregates::{self, Day, Options, Status};
use crate::batch::verify;
use crate::catalog::Aggregate;
use crate::config::Settings;
use crate::domain::{Failure, RunDate, TableName};
use crate::shutdown::Shutdown;
use crate::store::postgres;
use crate::store::requests::{self, Kinds, Outcome, Request};

/// What the worker is told.
#[derive(Debug)]
pub struct Jobs<A> {
    /// Settings of the sink that it runs beside.
    pub settings: Settings,
    /// Whether this sink is the one that writes.
    pub is_active: A,
    /// Ends a job between two steps.
    pub shutdown: Shutdown,
    /// Ends the worker.
    pub cancelled: CancellationToken,
}

#[derive(Debug, Deserialize)]
struct EtlOrder {
    from: String,
    to: String,
    aggregate: Option<String>,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
struct VerifyOrder {
    #[serde(default)]
    tables: Vec<String>,
}

impl<A: Fn() -> bool> Jobs<A> {
    /// Looks for requests every `sink.requests_interval_ms`, until cancelled.
    pub async fn run(self) {
        let interval = Duration::from_millis(self.settings.sink.requests_interval_ms.max(100));
        let mut held = None;
        let serving = async {
            loop {
                tokio::time::sleep(interval).await;
                if !(self.is_active)() {
                    continue;
                }
                if let Err(error) = self.serve_all(&mut held).await {
                    counter!("platform_sink_retries_total", "step" => "jobs").increment(1);
                    tracing::warn!(error = format!("{error:#}"), "jobs that were asked for cannot be run; tried again");
                }
            }
        };
        self.cancelled.run_until_cancelled(serving).await;
    }

    /// Over the connection of the look before, unless it has ended or failed.
    async fn serve_all(&self, held: &mut Option<Client>) -> anyhow::Result<()> {
        let pipeline = &self.settings.sink.pipeline;
        let client = match held.take() {
            Some(client) if !client.is_closed() => client,
            _ => postgres::connect(&self.settings.postgres, "platform sink jobs").await?,
        };
        while let Some(request) = requests::next(&client, pipeline, Kinds::Jobs).await? {
            if !requests::begin(&client, request.id).await? {
                continue;
            }
            let outcome = Box::pin(self.serve(&request)).await.unwrap_or_else(|error| failed(&error));
            requests::finish(&client, request.id, &outcome).await?;
            let status = outcome.status.clone();
            counter!("platform_sink_requests_total", "kind" => request.kind.clone(), "status" => status).increment(1);
            tracing::info!(request = request.id, kind = request.kind, status = outcome.status, "job done");
        }
        *held = Some(client);
        Ok(())
    }

    async fn serve(&self, request: &Request) -> anyhow::Result<Outcome> {
        match request.kind.as_str() {
            "etl" => self.etl(read(request)?).await,
            _ => self.verify(read(request)?).await,
        }
    }

    async fn etl(&self, order: EtlOrder) -> anyhow::Result<Outcome> {
        let (from, to): (RunDate, RunDate) = (order.from.parse()?, order.to.parse()?);
        let all = aggregates::all(&self.settings.etl.aggregates_dir)?;
        let chosen: Vec<Aggregate> =
            all.into_iter().filter(|one| order.aggregate.as_ref().is_none_or(|name| *name == one.name)).collect();
        if chosen.is_empty() {
            return Err(Failure::Usage("there is no aggregate of this name".into()).into());
        }
        let (client, clickhouse) = aggregates::sessions(&self.settings, "platform etl").await?;
        let wait = Some(Duration::from_secs(self.settings.etl.wait_timeout_s));
        let options = Options { force: order.force, dry_run: false, wait, context: "{}".to_owned() };
        let (mut done, mut unchanged) = (0_u64, 0_u64);
        for aggregate in &chosen {
            for date in aggregate.unit.within(from, to) {
                let day = Day {
                    postgres: &client,
                    clickhouse: &clickhouse,
                    pipeline: &self.settings.sink.pipeline,
                    aggregate,
                    date,
                    glimpse: None,
                    is_shown: false,
                    shutdown: &self.shutdown,
                };
                let report = Box::pin(aggregates::rebuild(&day, &options)).await;
                match report.with_context(|| format!("{} of {date}", aggregate.name))?.status {
                    Status::Unchanged => unchanged += 1,
                    _ => done += 1,
                }
            }
            let pipeline = &self.settings.sink.pipeline;
            Box::pin(aggregates::complete(&client, &clickhouse, pipeline, aggregate, &self.shutdown)).await?;
        }
        let (status, code) = if done == 0 { ("unchanged", 99) } else { ("done", 0) };
        let detail = format!("{done} built, {unchanged} unchanged");
        Ok(Outcome::new(status, code, detail).with("built", done).with("unchanged", unchanged))
    }

    async fn verify(&self, order: VerifyOrder) -> anyhow::Result<Outcome> {
        let names: Vec<TableName> = order.tables.iter().map(|name| TableName::from_argument(name)).collect();
        let report = Box::pin(verify::run(&self.settings, &names, false)).await?;
        let code = verify::outcome(&report).err().map_or(0, |failure| failure.exit_code());
        let status = if code == 0 { "done" } else { "incomplete" };
        let text = format!("the comparison ended with {:?}", report.status());
        Ok(Outcome::new(status, code, text).with("comparison", report.status()))
    }
}

fn read<T: DeserializeOwned>(request: &Request) -> anyhow::Result<T> {
    let order = serde_json::from_value(request.arguments.clone());
    order.map_err(|error| Failure::Usage(format!("the request's arguments: {error}")).into())
}

/// Its text may quote a database: it goes to the log, and callers get the kind of failure.
fn failed(error: &anyhow::Error) -> Outcome {
    tracing::warn!(error = format!("{error:#}"), "a job that was asked for has failed");
    let code = Failure::exit_code_of(error);
    let text = match code {
        65 => "a data check failed; the old build stays",
        69 => "a database does not answer",
        75 => "busy: the lock is held, or the mirror is behind",
        78 => "something is configured wrongly",
        _ => "it failed; the log of the sink says why",
    };
    Outcome::new("failed", code, text)
}
