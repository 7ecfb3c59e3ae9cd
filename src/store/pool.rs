//! A pool of PostgreSQL connections for one worker of the API.
//!
//! One pool a worker: with a single pool shared by all workers the 99th percentile at 16 connections was ten times higher.
//! A connection's I/O task runs on the worker that uses it: a query and its answer wake no other thread, which was most of
//! what a point read cost.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, PoolError, RecyclingMethod, Runtime, TimeoutType};
use tokio_postgres::NoTls;

use crate::config;

/// A connection that returns to its pool when it is dropped.
pub type Connection = deadpool_postgres::Object;

/// A connection that is doing something for somebody who may go away. When it is dropped before `finish`, PostgreSQL is asked
/// to end the statement, and the connection returns to its pool only after it is idle again.
#[derive(Debug)]
pub struct Lease {
    connection: Option<Connection>,
}

/// How long an abandoned connection gets to become idle; then it is closed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

impl Lease {
    /// The connection; `None` never happens before `finish`.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// Nothing is running any more: the connection may be used by the next one.
    pub fn finish(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::spawn(stop(connection));
        }
    }
}

/// Ends what the connection is doing, and closes it if it does not end.
async fn stop(connection: Connection) {
    metrics::counter!("platform_api_abandoned_queries_total").increment(1);
    let stopped = async {
        connection.cancel_token().cancel_query(NoTls).await?;
        // Waits for the end of the statement, and takes a cancel upon itself that came late.
        match connection.simple_query("select 1").await {
            Ok(_) => Ok(()),
            Err(_) => connection.simple_query("select 1").await.map(drop),
        }
    };
    if !matches!(tokio::time::timeout(STOP_LIMIT, stopped).await, Ok(Ok(()))) {
        drop(Connection::take(connection));
    }
}

/// Limits of a pool and of its connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at most.
    pub connections: usize,
    /// How long `get` waits for a free connection, or for a new one to open.
    pub acquire: Duration,
    /// After which PostgreSQL ends a statement.
    pub statement: Duration,
}

/// The connections of one worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Pool {
    pool: deadpool_postgres::Pool,
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// All connections are in use and none came back in time.
    #[error("all PostgreSQL connections are in use")]
    Exhausted,
    /// PostgreSQL does not let anybody in, or does not answer.
    #[error("PostgreSQL is not reachable: {0}")]
    Unavailable(String),
}

/// How much of a pool is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Connections at most.
    pub limit: usize,
    /// Connections open.
    pub open: usize,
    /// Connections open and idle.
    pub idle: usize,
    /// Requests waiting for one.
    pub waiting: usize,
}

impl Pool {
    /// A pool that opens connections when they are first needed; their I/O runs on the runtime that needs them.
    ///
    /// Every connection has UTC, `synchronous_commit=on` (a consistency token promises that the write is durable) and a
    /// statement timeout.
    ///
    /// # Errors
    /// `Failure::Config` when `postgres.url` is missing or no URL.
    pub fn new(settings: &config::Postgres, limits: Limits) -> anyhow::Result<Self> {
        let mut driver = settings.driver_config("platform serve")?;
        let statement_ms = limits.statement.as_millis();
        let given = driver.get_options().unwrap_or_default().to_owned();
        driver.options(format!(
            "{given} -c timezone=UTC -c synchronous_commit=on -c statement_timeout={statement_ms} \
             -c idle_in_transaction_session_timeout={statement_ms}"
        ));
        let manager = Manager::from_config(driver, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(limits.connections.max(1))
            .wait_timeout(Some(limits.acquire))
            .create_timeout(Some(limits.acquire))
            .recycle_timeout(Some(limits.acquire))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self { pool })
    }

    /// A connection, waiting at most the acquire limit for one.
    ///
    /// # Errors
    /// See `AcquireError`.
    pub async fn get(&self) -> Result<Connection, AcquireError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => AcquireError::Exhausted,
            PoolError::Timeout(_) => AcquireError::Unavailable("no answer in time".to_owned()),
            PoolError::Backend(error) => AcquireError::Unavailable(super::postgres::chain(&error)),
            other => AcquireError::Unavailable(super::postgres::chain(&other)),
        })
    }

    /// As `get`, for work that is cancelled in PostgreSQL when it is abandoned.
    ///
    /// # Errors
    /// See `AcquireError`.
    pub async fn lease(&self) -> Result<Lease, AcquireError> {
        Ok(Lease { connection: Some(self.get().await?) })
    }

    /// How much is in use now.
    pub fn status(&self) -> Status {
        let status = self.pool.status();
        Status { limit: status.max_size, open: status.size, idle: status.available, waiting: status.waiting }
    }
}
