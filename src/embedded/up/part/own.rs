//! Parts that are this same program: the ClickHouse front, the sink, the API, and the jobs between.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::super::ports::Ports;
use super::super::process::Launch;
use super::super::runner::Runner;
use super::super::service::{Job, Service};
use super::http::Http;
use crate::store::clickhouse::ClickHouse;

/// A subcommand that lives.
#[derive(Debug)]
pub(in super::super) struct OwnService {
    /// Its name among the ports.
    pub(in super::super) port_name: &'static str,
    /// What to start.
    pub(in super::super) launch: Launch,
    /// All ports.
    pub(in super::super) ports: Arc<Ports>,
    /// How to ask whether it is ready.
    pub(in super::super) check: Check,
}

/// How to ask whether a part is ready.
#[derive(Debug)]
pub(in super::super) enum Check {
    /// 200 at this address.
    Url(Http, String),
    /// It answers a query of its administrator.
    Query(Box<ClickHouse>),
}

#[async_trait::async_trait]
impl Service for OwnService {
    fn launch(&self) -> anyhow::Result<Launch> {
        self.ports.release(&[self.port_name]);
        Ok(self.launch.clone())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        match &self.check {
            Check::Url(http, url) => http.expect_ok(url).await,
            Check::Query(clickhouse) => {
                clickhouse.fetch_bytes("select 1", &[], "TabSeparated").await?;
                Ok(())
            }
        }
    }
}

/// A subcommand that ends.
#[derive(Debug)]
pub(in super::super) struct OwnJob {
    /// The name of its log.
    pub(in super::super) name: &'static str,
    /// What to start.
    pub(in super::super) launch: Launch,
    /// Written after it succeeded, so that later starts can leave it out.
    pub(in super::super) done_file: Option<PathBuf>,
}

#[async_trait::async_trait]
impl Job for OwnJob {
    async fn run(&self, runner: &Runner) -> anyhow::Result<()> {
        runner.run(self.name, &self.launch).await?;
        if let Some(path) = &self.done_file {
            std::fs::write(path, "").with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}
