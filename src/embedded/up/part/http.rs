//! Asking a part over HTTP whether it is ready.

use std::time::Duration;

use anyhow::Context as _;

/// How much of an answer is told as the reason.
const REASON_BYTES_MAX: usize = 300;

/// A client with a limit on every request.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
}

impl Http {
    /// A client that gives up after `timeout`.
    ///
    /// # Errors
    /// The operating system gives no resources.
    pub(crate) fn new(timeout: Duration) -> anyhow::Result<Self> {
        // A proxy for the outside world knows nothing of the parts on loopback.
        let client = reqwest::Client::builder().timeout(timeout).no_proxy().build().context("making an HTTP client")?;
        Ok(Self { client })
    }

    /// Gets `url` and wants 200.
    ///
    /// # Errors
    /// Why not, with the beginning of the answer.
    pub(crate) async fn expect_ok(&self, url: &str) -> anyhow::Result<()> {
        let mut answer = self.client.get(url).send().await.map_err(|error| {
            anyhow::anyhow!("{url} does not answer: {}", crate::store::postgres::chain(&error.without_url()))
        })?;
        let status = answer.status();
        if status == reqwest::StatusCode::OK {
            return Ok(());
        }
        let mut body = Vec::new();
        while body.len() < REASON_BYTES_MAX
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
        body.truncate(REASON_BYTES_MAX);
        anyhow::bail!("{url} answers {status}: {}", String::from_utf8_lossy(&body).trim())
    }
}
