//! The connector's state as the start page and `/v1/pipeline` show it: asked for at most once in a few seconds.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::config;
use crate::store::connect::Connect;

/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// How long Connect gets to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// What Kafka Connect says. Its own texts, which hold stack traces, are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// The connector is there.
    Registered {
        /// RUNNING, PAUSED, FAILED, …
        state: String,
        /// The same of each task.
        tasks: Vec<String>,
    },
    /// Connect has no connector of this name.
    Unregistered,
    /// Connect does not answer.
    Unreachable,
}

/// Asks Kafka Connect, if there is one.
#[derive(Debug)]
pub(super) struct ConnectorWatch {
    connect: Option<Connect>,
    name: String,
    known: Mutex<Option<(Instant, Known)>>,
}

impl ConnectorWatch {
    /// Of connector `name`; without `connect.url` there is nobody to ask.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(super) fn new(settings: &config::Connect, name: &str) -> anyhow::Result<Self> {
        let connect = if settings.url.is_empty() { None } else { Some(Connect::new(settings)?) };
        Ok(Self { connect, name: name.to_owned(), known: Mutex::new(None) })
    }

    /// Its state, or `None` when `connect.url` is not set.
    pub(super) async fn state(&self) -> Option<Known> {
        let connect = self.connect.as_ref()?;
        // Whoever comes while the question is under way waits for its answer.
        let mut known = self.known.lock().await;
        if let Some((at, state)) = known.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return Some(state.clone());
        }
        let state = match timeout(LIMIT, connect.status(&self.name)).await {
            Ok(Ok(Some(status))) => Known::Registered {
                state: status.connector.state,
                tasks: status.tasks.into_iter().map(|task| task.state).collect(),
            },
            Ok(Ok(None)) => Known::Unregistered,
            Ok(Err(_)) | Err(_) => Known::Unreachable,
        };
        *known = Some((Instant::now(), state.clone()));
        Some(state)
    }
}
