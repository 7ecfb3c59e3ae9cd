//! Asking a running sink for something, through `platform.requests`, and waiting for what becomes of it.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::config::{self, Settings};
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::requests::{self, Outcome, Standing};
use crate::store::{postgres, sinks};

/// Time between two looks at a request.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Flags of every command that asks.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Wait {
    /// Seconds to wait for the sink. A request that no sink has taken by then is withdrawn.
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// What such a command prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    job: &'a str,
    pipeline: &'a str,
    request: i64,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Who asks, as far as the machine knows: `user@host`.
fn asker() -> String {
    let user = config::environment().remove("USER").filter(|user| !user.is_empty());
    format!("{}@{}", user.unwrap_or_else(|| nix::unistd::getuid().to_string()), sinks::host())
}

/// Asks, waits and prints the outcome; it ends as the outcome says.
///
/// # Errors
/// `Failure::Unavailable` (69) when no sink takes the request, `Failure::Busy` (75) when one has taken it and is not ready in
/// time, `Failure::Signal`; else what the sink answers.
pub(super) async fn ask(
    job: &str,
    kind: &str,
    arguments: Value,
    wait: Wait,
    settings: &Settings,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let pipeline = settings.sink.pipeline.as_str();
    let asked = async {
        let client = postgres::connect(&settings.postgres, "platform sink request").await?;
        let id = requests::ask(&client, pipeline, kind, &arguments, &asker()).await?;
        let deadline = Instant::now() + Duration::from_secs(wait.seconds);
        loop {
            let standing = requests::standing(&client, id).await?;
            if let Standing::Finished(outcome) = standing {
                return Ok((id, outcome));
            }
            let interrupted = shutdown.requested();
            if interrupted || Instant::now() >= deadline {
                let withdrawn = requests::withdraw(&client, id).await?;
                match requests::standing(&client, id).await? {
                    // It was finished in between.
                    Standing::Finished(outcome) if !withdrawn => return Ok((id, outcome)),
                    _ if interrupted => return Err(shutdown.failure().into()),
                    _ => return Err(in_vain(id, withdrawn, wait).into()),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let (request, outcome) = asked.await.map_err(postgres::or_unavailable)?;
    super::print_result(&Report { job, pipeline, request, outcome: &outcome })?;
    match Failure::of_exit_code(outcome.exit_code, outcome.detail.clone()) {
        _ if outcome.exit_code == 0 => Ok(()),
        Some(failure) => Err(failure.into()),
        None => Err(anyhow::anyhow!(outcome.detail)),
    }
}

fn in_vain(id: i64, withdrawn: bool, wait: Wait) -> Failure {
    let seconds = wait.seconds;
    if withdrawn {
        Failure::Unavailable(format!(
            "no sink took the request within {seconds} s, so it is withdrawn; is one running? `platform sink status` tells"
        ))
    } else {
        Failure::Busy(format!(
            "the sink has taken the request and was not ready within {seconds} s; it goes on: see platform.requests, id {id}"
        ))
    }
}
