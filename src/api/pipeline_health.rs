//! Whether changes reach the mirror at all: waiting for a pipeline that is down is in vain.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::connector::Known;
use super::problem::ApiResult;
use super::state::Worker;
use crate::store::replication::{self, Slot};
use crate::store::sinks;

/// How long an answer is good. Requests that wait look again after it.
const GOOD_FOR: Duration = Duration::from_millis(500);

/// How long PostgreSQL gets to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// What is known, and since when.
#[derive(Debug, Default)]
struct Look {
    looked_at: Option<Instant>,
    down: Option<String>,
}

/// Looks at sink, slot and connector, at most twice a second for the whole process.
#[derive(Debug, Default)]
pub(super) struct PipelineHealth(Mutex<Look>);

impl PipelineHealth {
    /// Why no change can reach the mirror now, for people; `None` when nothing speaks against it, also when PostgreSQL or Kafka
    /// Connect do not answer: then nothing is known.
    pub(super) async fn down(&self, worker: &Worker) -> Option<String> {
        // Whoever comes while the question is under way waits for its answer.
        let mut known = self.0.lock().await;
        if known.looked_at.is_some_and(|at| at.elapsed() < GOOD_FOR) {
            return known.down.clone();
        }
        let mut down = connector(worker).await;
        let ask = async {
            let client = worker.postgres().await?;
            ApiResult::Ok(database(&client, &worker.shared.pipeline).await)
        };
        match tokio::time::timeout(LIMIT, ask).await {
            Ok(Ok(Ok(found))) => down = found.or(down),
            Ok(Ok(Err(error))) => tracing::warn!(error = format!("{error:#}"), "the pipeline's state cannot be read"),
            Ok(Err(error)) => tracing::warn!(%error, "the pipeline's state cannot be read"),
            Err(_) => tracing::warn!(limit_ms = LIMIT.as_millis(), "the pipeline's state was not read in time"),
        }
        known.looked_at = Some(Instant::now());
        known.down.clone_from(&down);
        down
    }
}

/// What PostgreSQL knows: what the sink has said last, whether it is there, the pause, the slot.
async fn database(client: &Client, pipeline: &str) -> anyhow::Result<Option<String>> {
    if let Some(paused) = sinks::paused(client, pipeline).await? {
        return Ok(Some(format!("the pipeline was paused by {}", paused.by)));
    }
    match replication::slot(client, pipeline).await? {
        Slot::Lost => return Ok(Some("the replication slot has lost its log".to_owned())),
        Slot::Missing => return Ok(Some("there is no replication slot".to_owned())),
        Slot::Kept { .. } => {}
    }
    // One that takes over holds the lease before it says anything.
    if sinks::holder(client, pipeline).await?.is_some() {
        return Ok(None);
    }
    let said = sinks::state(client, pipeline).await?;
    Ok(Some(match said.as_ref().map(|said| said.state.as_str()) {
        // It has given its lease back, and still says that it is there. Its detail may have text of a database.
        Some("halted") if sinks::stands(client, pipeline).await? => {
            let known = said.as_ref().map(|said| (said.reason.as_deref(), said.remedy.as_deref()));
            let (reason, remedy) = known.unwrap_or_default();
            format!("the sink has halted ({}); {}", reason.unwrap_or("unknown"), remedy.unwrap_or("see its log"))
        }
        Some("waiting") => "the sink waits for a part that does not answer".to_owned(),
        _ => "no sink is running".to_owned(),
    }))
}

/// What Kafka Connect knows. Its tasks fail each for itself: the connector says RUNNING all the same.
async fn connector(worker: &Worker) -> Option<String> {
    match worker.shared.connector.state().await? {
        Known::Registered { state, tasks } => {
            let bad = std::iter::once(&state).chain(&tasks).find(|state| state.as_str() != "RUNNING")?;
            // A rebalance; nobody has to mend it.
            let passing = matches!(bad.as_str(), "UNASSIGNED" | "RESTARTING");
            (!passing).then(|| format!("the connector is {bad}"))
        }
        Known::Unregistered => Some("the connector is not registered".to_owned()),
        Known::Unreachable => None,
    }
}
