//! What `platform up` starts: services that live, jobs that end, and the order between them.

use std::sync::Arc;

use super::process::{Farewell, Launch};
use super::runner::Runner;

/// A part that runs until it is stopped.
#[async_trait::async_trait]
pub(super) trait Service: std::fmt::Debug + Send + Sync {
    /// Makes what must be there before the first start; does nothing when it is there.
    async fn prepare(&self, _runner: &Runner) -> anyhow::Result<()> {
        Ok(())
    }

    /// What to start, now that its port is free to be bound. Asked again for every restart.
    fn launch(&self) -> anyhow::Result<Launch>;

    /// Asks once whether it does its work; the error says what is missing.
    async fn ready(&self) -> anyhow::Result<()>;

    /// How it is asked to end.
    fn farewell(&self) -> Farewell {
        Farewell::TERMINATE
    }
}

/// A part that ends by itself.
#[async_trait::async_trait]
pub(super) trait Job: std::fmt::Debug + Send + Sync {
    /// Does the work.
    async fn run(&self, runner: &Runner) -> anyhow::Result<()>;
}

/// What a step starts.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Runs until stopped.
    Service(Arc<dyn Service>),
    /// Runs to its end.
    Job(Arc<dyn Job>),
}

/// One step of the start.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The word in flags and file names.
    pub(super) name: &'static str,
    /// What people call it.
    pub(super) title: &'static str,
    /// Steps that come first, and services that must outlive this one when all are stopped. Names that are not part of
    /// the start do not count.
    pub(super) needs: &'static [&'static str],
    /// What it starts.
    pub(super) kind: Kind,
}
