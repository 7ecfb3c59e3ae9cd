//! The connector's state as the start page and `/v1/pipeline` show it: asked for at most once in a few seconds.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::connector_status::{self, ConnectorStatus, Missing};

/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// How long Connect gets to answer.
const LIMIT: Duration = Duration::from_secs(1);

type Known = Result<ConnectorStatus, Missing>;

/// Asks Kafka Connect, if there is one.
#[derive(Debug)]
pub struct ConnectorWatch {
    client: reqwest::Client,
    url: String,
    name: String,
    known: Mutex<Option<(Instant, Known)>>,
}

impl ConnectorWatch {
    /// Of connector `name` on the Connect at `url`; an empty URL means that there is none to ask.
    pub fn new(url: &str, name: &str) -> Self {
        Self { client: reqwest::Client::new(), url: url.to_owned(), name: name.to_owned(), known: Mutex::new(None) }
    }

    /// Its state, or `None` when `connect.url` is not set.
    pub async fn status(&self) -> Option<Known> {
        if self.url.is_empty() {
            return None;
        }
        // Whoever comes while the question is under way waits for its answer.
        let mut known = self.known.lock().await;
        if let Some((at, status)) = known.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return Some(status.clone());
        }
        let status = connector_status::fetch(&self.client, &self.url, &self.name, LIMIT).await;
        *known = Some((Instant::now(), status.clone()));
        Some(status)
    }
}
