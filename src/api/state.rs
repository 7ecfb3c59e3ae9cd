//! What handlers share: one `Shared` a process, one `Worker` with its own PostgreSQL pool an actix worker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::web;
use tokio::sync::Semaphore;

use super::answers::Answers;
use super::auth::KeyCache;
use super::connector::ConnectorWatch;
use super::database_errors::timeout;
use super::pipeline_health::PipelineHealth;
use super::problem::{ApiError, ApiResult};
use super::replica::Replica;
use crate::catalog::Aggregate;
use crate::catalog::endpoint::Endpoint;
use crate::config;
use crate::store::clickhouse::ClickHouse;
use crate::store::pool::{Connection, Pool, Status};

/// Extractor of the worker's state.
pub(super) type State = web::Data<Worker>;

/// Time over the databases' own limit after which the API stops to wait for them.
const GRACE: Duration = Duration::from_millis(500);

/// One a process.
pub(super) struct Shared {
    /// `[api]`
    pub settings: config::Api,
    /// Name of the pipeline whose checkpoints tell how fresh the mirror is.
    pub pipeline: String,
    /// ClickHouse with the limit of a request.
    pub clickhouse: ClickHouse,
    /// How far the mirror is.
    pub replica: Replica,
    /// API keys looked up lately.
    pub keys: KeyCache,
    /// Analytics endpoints by name.
    pub endpoints: Vec<Endpoint>,
    /// The statement behind `/v1/stats/daily`.
    pub daily: Endpoint,
    /// The aggregates that are built day by day.
    pub aggregates: Vec<Aggregate>,
    /// Answers of analytics that may be given again.
    pub answers: Answers,
    /// Whether changes reach the mirror at all.
    pub health: PipelineHealth,
    /// This process's metrics.
    pub metrics: metrics_exporter_prometheus::PrometheusHandle,
    /// State of the connector on Kafka Connect.
    pub connector: ConnectorWatch,
    /// The OpenAPI document, and the same as JSON.
    pub openapi: (utoipa::openapi::OpenApi, web::Bytes),
    /// Set before the server stops to accept, so that balancers turn away first.
    pub draining: AtomicBool,
    /// Position of the newest barrier that this process wrote into the log.
    pub barrier: AtomicU64,
    /// Places for requests that wait for the mirror.
    pub waiters: Semaphore,
    /// Places for event streams.
    pub streams: Arc<Semaphore>,
    /// The pools of all workers, for the metrics.
    pub pools: Mutex<Vec<Pool>>,
}

/// One an actix worker.
#[derive(Debug)]
pub(super) struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// This worker's connections.
    pub pool: Pool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Longest that a query may take in either database.
    pub(super) fn query_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.query_timeout_ms)
    }

    /// Whether the process is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Connections of all workers together.
    pub(super) fn pool_status(&self) -> Status {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().map(Pool::status).fold(Status::default(), |sum, one| Status {
            limit: sum.limit + one.limit,
            open: sum.open + one.open,
            idle: sum.idle + one.idle,
            waiting: sum.waiting + one.waiting,
        })
    }
}

impl Worker {
    /// A PostgreSQL connection of this worker.
    ///
    /// # Errors
    /// 503 when none is free in time or PostgreSQL is away.
    pub(super) async fn postgres(&self) -> ApiResult<Connection> {
        Ok(self.pool.get().await?)
    }

    /// Runs work on the databases and gives up shortly after they should have given up themselves.
    ///
    /// # Errors
    /// Those of the work, or 504.
    pub(super) async fn limited<T>(&self, work: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
        let limit = self.shared.query_timeout() + GRACE;
        tokio::time::timeout(limit, work).await.map_err(|_| timeout().because("no answer from the database"))?
    }
}

impl From<std::num::TryFromIntError> for ApiError {
    fn from(error: std::num::TryFromIntError) -> Self {
        Self::internal(error)
    }
}
