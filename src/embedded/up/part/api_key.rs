//! The first API key: made here, shown by `platform up`, stored in PostgreSQL as a hash.

use anyhow::Context as _;

use super::super::runner::Runner;
use super::super::secrets::Secrets;
use super::super::service::Job;
use crate::config;
use crate::store::postgres;

/// Stores the key of the data folder, unless it is there.
#[derive(Debug)]
pub(in super::super) struct StoreApiKey {
    /// The administrator's access to the platform's database.
    pub(in super::super) administrator: config::Postgres,
    /// Where the key comes from.
    pub(in super::super) secrets: Secrets,
}

#[async_trait::async_trait]
impl Job for StoreApiKey {
    async fn run(&self, _runner: &Runner) -> anyhow::Result<()> {
        let key = self.secrets.parsed_api_key()?;
        let (prefix, hash) = (key.prefix(), key.sha256());
        let scopes = ["read", "write", "admin"].as_slice();
        let client = postgres::connect(&self.administrator, "platform up").await?;
        client
            .execute(
                "insert into platform.api_keys (prefix, sha256, scopes, label) values ($1, $2, $3, 'platform up') \
                 on conflict do nothing",
                &[&prefix, &hash.as_slice(), &scopes],
            )
            .await
            .context("storing the API key")?;
        Ok(())
    }
}
