//! Kafka Connect's REST interface.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config;
use crate::domain::{Failure, Lsn};

/// How long a connector and its task may take to stop: Connect gives up on a task after five seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one Connect cluster.
#[derive(Debug, Clone)]
pub struct Connect {
    http: reqwest::Client,
    url: String,
}

/// State of a connector and of its tasks, as Connect reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// RUNNING, PAUSED, STOPPED, FAILED, UNASSIGNED, RESTARTING.
    pub connector: State,
    /// One for the PostgreSQL connector, none while it is stopped.
    pub tasks: Vec<State>,
}

/// One state, with the stack trace of what failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// See `Status`.
    pub state: String,
    /// Java's stack trace; `None` unless FAILED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

impl Status {
    /// Whether the connector and at least one task run. It says RUNNING through outages: progress alone proves health.
    pub fn is_running(&self) -> bool {
        self.connector.state == "RUNNING"
            && !self.tasks.is_empty()
            && self.tasks.iter().all(|task| task.state == "RUNNING")
    }

    /// The first lines of what failed, without the frames of the stack.
    pub fn failure(&self) -> Option<String> {
        let failed = std::iter::once(&self.connector).chain(&self.tasks).find(|state| state.state == "FAILED")?;
        let trace = failed.trace.as_deref().unwrap_or("no trace");
        let causes: Vec<&str> = trace.lines().filter(|line| !line.starts_with('\t')).take(4).collect();
        Some(causes.join(" "))
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("Kafka Connect at {url} is not reachable: {reason}")]
    Unavailable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// 409: the workers are agreeing on who does what; try again soon.
    #[error("Kafka Connect is rebalancing")]
    Rebalancing,
    /// Connect refuses the request.
    #[error("Kafka Connect answers {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Connect's message.
        message: String,
    },
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        match error {
            Error::Unavailable { .. } => Self::Unavailable(error.to_string()),
            Error::Rebalancing => Self::Busy(error.to_string()),
            Error::Refused { .. } => Self::Config(error.to_string()),
        }
    }
}

impl Connect {
    /// Connects lazily.
    ///
    /// # Errors
    /// `Failure::Config` when no URL is configured.
    pub fn new(settings: &config::Connect) -> anyhow::Result<Self> {
        let url = config::required(&settings.url, "connect.url", "PLATFORM__CONNECT__URL")?;
        let timeout = Duration::from_millis(settings.request_timeout_ms);
        // Requests are rare, and a connection that is kept would end with the worker of the API that opened it.
        let http = reqwest::Client::builder().timeout(timeout).connect_timeout(timeout).pool_max_idle_per_host(0);
        let http = http.no_proxy().build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// Makes the connector, or changes its configuration; both are one request.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn put_config(&self, name: &str, config: &BTreeMap<String, String>) -> Result<(), Error> {
        self.call(Method::PUT, &format!("/connectors/{name}/config"), Some(config)).await.map(drop)
    }

    /// The connector's configuration, or `None` when there is no such connector.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn config(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, Error> {
        self.optional(self.call(Method::GET, &format!("/connectors/{name}/config"), None::<&()>).await)
    }

    /// The connector's state, or `None` when there is no such connector.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn status(&self, name: &str) -> Result<Option<Status>, Error> {
        self.optional(self.call(Method::GET, &format!("/connectors/{name}/status"), None::<&()>).await)
    }

    /// Starts what has failed again.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn restart(&self, name: &str, only_failed: bool) -> Result<(), Error> {
        let path = format!("/connectors/{name}/restart?includeTasks=true&onlyFailed={only_failed}");
        self.call(Method::POST, &path, None::<&()>).await.map(drop)
    }

    /// Removes the connector. Its offsets stay.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn delete(&self, name: &str) -> Result<bool, Error> {
        match self.call(Method::DELETE, &format!("/connectors/{name}"), None::<&()>).await {
            Ok(_) => Ok(true),
            Err(Error::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The position up to which the connector has sent and remembered the log; `None` when it remembers nothing, or is not
    /// there. It remembers first, and then tells its slot.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn offset(&self, name: &str) -> Result<Option<Lsn>, Error> {
        #[derive(Deserialize)]
        struct Offsets {
            offsets: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            offset: BTreeMap<String, Value>,
        }
        let answer = self.call(Method::GET, &format!("/connectors/{name}/offsets"), None::<&()>).await;
        let Some(offsets) = self.optional::<Offsets>(answer)? else { return Ok(None) };
        // Debezium's names of the last event, of the last that was whole, and of its commit.
        let positions = offsets.offsets.iter().flat_map(|entry| {
            ["lsn", "lsn_proc", "lsn_commit"].into_iter().filter_map(|key| entry.offset.get(key)?.as_u64())
        });
        Ok(positions.max().map(Lsn::new))
    }

    /// Stops a connector and its task; its configuration and offsets stay.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn stop(&self, name: &str) -> Result<(), Error> {
        self.call(Method::PUT, &format!("/connectors/{name}/stop"), None::<&()>).await.map(drop)
    }

    /// Stops the connector and lets it forget where it stood, so that it begins at the slot's position when it is resumed.
    /// Offsets outlive a connector that was deleted: one that is not there is made with `config`, stopped, for as long as this
    /// takes.
    ///
    /// # Errors
    /// See `Error`; `Rebalancing` or `Refused` when it does not stop in time.
    pub async fn forget_offsets(&self, name: &str, config: &BTreeMap<String, String>) -> Result<(), Error> {
        let is_there = self.config(name).await?.is_some();
        if is_there {
            self.stop(name).await?;
        } else {
            let stopped = serde_json::json!({ "name": name, "config": config, "initial_state": "STOPPED" });
            self.call(Method::POST, "/connectors", Some(&stopped)).await?;
        }
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        loop {
            match self.forget_offsets_of_stopped(name).await {
                Ok(()) => break,
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        failpoint!("load.offsets-forgotten");
        if is_there { Ok(()) } else { self.delete(name).await.map(drop) }
    }

    /// A task that still runs stores its place once more when it ends.
    async fn forget_offsets_of_stopped(&self, name: &str) -> Result<(), Error> {
        let tasks = self.status(name).await?.map_or_else(Vec::new, |status| status.tasks);
        if tasks.iter().any(|task| !["UNASSIGNED", "FAILED"].contains(&task.state.as_str())) {
            return Err(Error::Rebalancing);
        }
        self.call(Method::DELETE, &format!("/connectors/{name}/offsets"), None::<&()>).await.map(drop)
    }

    /// Starts a connector that was stopped, which has no place in the log: `forget_offsets` leaves it so.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn resume_forgetful(&self, name: &str) -> Result<(), Error> {
        let is_stopped = self.status(name).await?.is_some_and(|status| status.connector.state == "STOPPED");
        if !is_stopped || self.offset(name).await?.is_some() {
            return Ok(());
        }
        match self.resume(name).await {
            // Connect reports the state of one that was just deleted a little longer.
            Err(Error::Refused { status: 404, .. }) => Ok(()),
            resumed => resumed,
        }
    }

    /// Starts a connector that was stopped or paused; nothing for one that runs.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        self.call(Method::PUT, &format!("/connectors/{name}/resume"), None::<&()>).await.map(drop)
    }

    fn optional<T: serde::de::DeserializeOwned>(&self, answer: Result<Value, Error>) -> Result<Option<T>, Error> {
        match answer {
            Ok(value) => serde_json::from_value(value).map(Some).map_err(|error| self.unavailable(&error)),
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Value, Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unavailable(&error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unavailable(&error))?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        if status == StatusCode::CONFLICT {
            return Err(Error::Rebalancing);
        }
        let message = value.get("message").and_then(Value::as_str).unwrap_or("no message");
        Err(Error::Refused { status: status.as_u16(), message: message.chars().take(1000).collect() })
    }

    fn unavailable(&self, error: &dyn std::error::Error) -> Error {
        Error::Unavailable { url: self.url.clone(), reason: super::postgres::chain(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_task_says_why_without_its_stack() {
        let status: Status = serde_json::from_str(
            r#"{"name":"platform","connector":{"state":"RUNNING","worker_id":"w"},
                "tasks":[{"id":0,"state":"FAILED","trace":"a.b.C: no slot\n\tat x.Y\nCaused by: gone\n\tat z"}],"type":"source"}"#,
        )
        .expect("Connect's form");
        assert!(!status.is_running());
        assert_eq!(status.failure().as_deref(), Some("a.b.C: no slot Caused by: gone"));
    }
}
