//! `platform connector`: the Debezium connector on Kafka Connect.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::connect::{Connect, Error, Status};
use crate::store::{connector, postgres};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the connector, or bring it to this configuration, and wait until it runs.
    Apply,
    /// Print the states of the connector and its task; exit code 69 unless both run.
    Status,
    /// Start what has failed again, and wait until it runs.
    Restart,
    /// Remove the connector, until `apply` makes it again; slot, topic and offsets stay.
    Delete,
}

/// Talks to Kafka Connect.
///
/// # Errors
/// `Failure::Unavailable` (69) when Connect does not answer or the task does not run in time, `Failure::Config` (78) when
/// it refuses the configuration.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let connect = Connect::new(&settings.connect)?;
    let name = settings.sink.pipeline.clone();
    let limit = Duration::from_millis(settings.connect.running_timeout_ms);
    shutdown
        .guard(async {
            match args.action {
                Action::Apply => {
                    let client = postgres::connect(&settings.postgres, "platform connector").await?;
                    connector::apply(&settings, &client, &connect, limit).await?;
                    print(&name, &wait_until_running(&connect, &name, limit).await?)
                }
                Action::Status => {
                    let status = connect.status(&name).await.map_err(|error| Failure::from(&error))?;
                    let status = status.ok_or_else(|| missing(&name))?;
                    print(&name, &status)?;
                    if status.is_running() { Ok(()) } else { Err(not_running(&name, &status).into()) }
                }
                Action::Restart => {
                    if connect.status(&name).await.map_err(|error| Failure::from(&error))?.is_none() {
                        return Err(missing(&name).into());
                    }
                    connect.restart(&name, false).await.map_err(|error| Failure::from(&error))?;
                    print(&name, &wait_until_running(&connect, &name, limit).await?)
                }
                Action::Delete => {
                    // First, or a sink that runs would make it again.
                    let client = postgres::connect(&settings.postgres, "platform connector").await?;
                    connector::want(&client, &name, false).await?;
                    let deleted = connect.delete(&name).await.map_err(|error| Failure::from(&error))?;
                    super::print_result(
                        &serde_json::json!({ "job": "connector delete", "connector": name, "deleted": deleted }),
                    )
                }
            }
        })
        .await
}

/// How long a failure must last: right after a change Connect still reports the old task.
const FAILURE_LASTS: Duration = Duration::from_secs(3);

async fn wait_until_running(connect: &Connect, name: &str, limit: Duration) -> anyhow::Result<Status> {
    let begun = Instant::now();
    let deadline = begun + limit;
    loop {
        let status = connect.status(name).await;
        match &status {
            Ok(Some(status)) if status.is_running() => return Ok(status.clone()),
            Ok(Some(status))
                if (status.failure().is_some() && begun.elapsed() >= FAILURE_LASTS) || Instant::now() >= deadline =>
            {
                return Err(not_running(name, status).into());
            }
            Err(Error::Refused { .. } | Error::Unavailable { .. }) | Ok(None) if Instant::now() >= deadline => {
                return Err(status.err().as_ref().map_or_else(|| missing(name), Failure::from).into());
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn print(name: &str, status: &Status) -> anyhow::Result<()> {
    super::print_result(&serde_json::json!({ "job": "connector", "connector": name, "status": status }))
}

fn missing(name: &str) -> Failure {
    Failure::Unavailable(format!("there is no connector {name}; run `platform connector apply`"))
}

fn not_running(name: &str, status: &Status) -> Failure {
    let reason = status
        .failure()
        .unwrap_or_else(|| format!("its state is {}, with {} tasks", status.connector.state, status.tasks.len()));
    Failure::Unavailable(format!("the connector {name} does not run: {reason}"))
}
