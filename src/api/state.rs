//! What handlers share: one `Shared` a process, one `Worker` with its own connections an actix worker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::web;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answers::Answers;
use super::auth::KeyCache;
use super::body;
use super::connector::ConnectorWatch;
use super::context;
use super::cors::Origins;
use super::database_errors::timeout;
use super::durations::Durations;
use super::overload::Places;
use super::pipeline_health::PipelineHealth;
use super::problem::{ApiError, ApiResult, Code};
use super::ranges::Ranges;
use super::rate_limit::Buckets;
use super::replica::Replica;
use super::shared_inserts::SharedInserts;
use crate::catalog::Aggregate;
use crate::catalog::endpoint::Endpoint;
use crate::config;
use crate::store::clickhouse::ClickHouse;
use crate::store::pool::{AcquireError, Connection, Pool, Status};

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
    /// ClickHouse with the limit of a request, for what `answers` computes: it ends later than any worker.
    pub clickhouse_of_answers: ClickHouse,
    /// How far the mirror is.
    pub replica: Replica,
    /// Rate limits of keys.
    pub buckets: Buckets,
    /// Origins whose scripts may call.
    pub origins: Origins,
    /// Analytics endpoints by name.
    pub endpoints: Vec<Endpoint>,
    /// How the rows of their ranges are read.
    pub ranges: Ranges,
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
    /// ClickHouse with the limit of a request. Its own as well: a connection ends with the runtime that opened it, and at the end of
    /// the process an idle worker goes before one that still answers.
    pub clickhouse: ClickHouse,
    /// API keys looked up lately.
    pub keys: KeyCache,
    /// Durations of requests, by route.
    pub durations: Durations,
    /// Places of requests in flight.
    pub in_flight: Places,
    /// Places of requests that wait for a connection.
    pub waiting: Places,
    /// Posts that are being created.
    pub creations: SharedInserts,
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

    /// After which the API stops to wait for a database that should have given up itself.
    pub(super) fn time_max(&self) -> Duration {
        self.query_timeout() + GRACE
    }

    /// How much of a request's body is read.
    pub(super) fn body_limit(&self) -> body::Limit {
        let time = Duration::from_millis(self.settings.body_timeout_ms);
        body::Limit { bytes_max: self.settings.body_bytes_max, time }
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
        let _place = self.waiting.take().ok_or_else(crowded)?;
        Ok(self.pool.get().await?)
    }

    /// Runs work on a PostgreSQL connection. When the client hangs up, or the time is over, the statement is cancelled.
    ///
    /// # Errors
    /// Those of the work, 503 when no connection is free in time, 504.
    pub(super) async fn query<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> ApiResult<T>) -> ApiResult<T> {
        let began = Instant::now();
        let outcome = self.limited(async {
            let place = self.waiting.take().ok_or_else(crowded)?;
            let mut lease = self.pool.lease().await?;
            drop(place);
            let Some(connection) = lease.connection() else {
                return Err(ApiError::internal("a lease without connection"));
            };
            let outcome = work(connection).await;
            lease.finish();
            outcome
        });
        let outcome = outcome.await;
        context::add_database_time(began.elapsed());
        outcome
    }

    /// Runs work on the databases and gives up shortly after they should have given up themselves.
    ///
    /// # Errors
    /// Those of the work, or 504.
    pub(super) async fn limited<T>(&self, work: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
        tokio::time::timeout(self.shared.time_max(), work)
            .await
            .map_err(|_| timeout().because("no answer from the database"))?
    }
}

/// Too many wait already.
fn crowded() -> ApiError {
    ApiError::new(Code::Overloaded, "too many requests wait for a database connection")
        .retry_after(1)
        .because(AcquireError::Exhausted)
}

impl From<std::num::TryFromIntError> for ApiError {
    fn from(error: std::num::TryFromIntError) -> Self {
        Self::internal(error)
    }
}
