//! State of a connector on Kafka Connect, for those who only look.

use std::time::Duration;

use serde::Deserialize;

/// What Kafka Connect says about a connector. RUNNING is not health: it says so through outages of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorStatus {
    /// RUNNING, PAUSED, FAILED, UNASSIGNED, …
    pub connector: String,
    /// The same of every task.
    pub tasks: Vec<String>,
}

/// Why there is no status. Short texts for people; Connect's own texts are left out, since they hold stack traces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Connect has no connector of this name.
    #[error("Kafka Connect has no connector {0:?}")]
    Unregistered(String),
    /// Connect does not answer, or not in a readable way.
    #[error("Kafka Connect cannot be reached")]
    Unreachable,
}

#[derive(Deserialize)]
struct Answer {
    connector: State,
    tasks: Vec<State>,
}

#[derive(Deserialize)]
struct State {
    state: String,
}

/// Asks `GET {url}/connectors/{name}/status`, for at most `limit`.
///
/// # Errors
/// See `Missing`.
pub async fn fetch(client: &reqwest::Client, url: &str, name: &str, limit: Duration) -> Result<ConnectorStatus, Missing> {
    let address = format!("{}/connectors/{name}/status", url.trim_end_matches('/'));
    let response = client.get(address).timeout(limit).send().await.map_err(|_| Missing::Unreachable)?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Err(Missing::Unregistered(name.to_owned()));
    }
    let answer: Answer = response.json().await.map_err(|_| Missing::Unreachable)?;
    let tasks = answer.tasks.into_iter().map(|task| task.state).collect();
    Ok(ConnectorStatus { connector: answer.connector.state, tasks })
}
