//! The first API key: made here, shown by `platform up`, stored in PostgreSQL as a hash.

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::super::runner::Runner;
use super::super::secrets::Secrets;
use super::super::service::Job;
use crate::config;
use crate::store::postgres;

/// Stores the key of the data folder, unless it is there.
#[derive(Debug)]
pub(in super::super) struct ApiKey {
    /// The administrator's access to the platform's database.
    pub(in super::super) administrator: config::Postgres,
    /// Where the key comes from.
    pub(in super::super) secrets: Secrets,
}

#[async_trait::async_trait]
impl Job for ApiKey {
    async fn run(&self, _runner: &Runner) -> anyhow::Result<()> {
        let prefix = self.secrets.api_key_prefix()?;
        let hash = Sha256::digest(self.secrets.api_key().as_bytes()).to_vec();
        let scopes = ["read", "write", "admin"].as_slice();
        let client = postgres::connect(&self.administrator, "platform up").await?;
        client
            .execute(
                "insert into platform.api_keys (prefix, sha256, scopes, label) values ($1, $2, $3, 'platform up') \
                 on conflict do nothing",
                &[&prefix, &hash, &scopes],
            )
            .await
            .context("storing the API key")?;
        Ok(())
    }
}
