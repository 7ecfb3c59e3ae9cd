//! What commands ask of a running sink: `platform.requests` in PostgreSQL. The holder of the pipeline's lease serves them.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_postgres::types::Json;
use tokio_postgres::{Client, GenericClient};

/// A request that is not finished.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number; requests are served in this order.
    pub id: i64,
    /// What is asked for: pause, resume, rewind, replay, drop, resync or restart-connector; etl or verify.
    pub kind: String,
    /// With what.
    pub arguments: Value,
    /// Who asks.
    pub by: String,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// done, unchanged, incomplete, refused, failed or withdrawn.
    pub status: String,
    /// How the command that asked ends: `domain::Failure`.
    pub exit_code: u8,
    /// What happened, for people.
    pub detail: String,
    /// Figures, depending on the kind.
    #[serde(flatten)]
    pub result: Map<String, Value>,
}

impl Outcome {
    /// An outcome without figures.
    pub fn new(status: &str, exit_code: u8, detail: impl Into<String>) -> Self {
        Self { status: status.to_owned(), exit_code, detail: detail.into(), result: Map::new() }
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.result.insert(name.to_owned(), value.into());
        self
    }
}

/// How far a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has taken it.
    Waiting,
    /// A sink has begun it.
    Begun,
    /// It is finished.
    Finished(Outcome),
}

/// Kinds of requests that are jobs: they run while the sink goes on.
const JOBS: [&str; 2] = ["etl", "verify"];

/// Who serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// The holder of the lease, while nothing is written.
    Sink,
    /// The process beside it that runs jobs.
    Jobs,
}

/// The oldest request of `pipeline` that is not finished.
///
/// # Errors
/// PostgreSQL's.
pub async fn next(client: &Client, pipeline: &str, kinds: Kinds) -> anyhow::Result<Option<Request>> {
    let sql = "select id, kind, arguments, requested_by from platform.requests \
               where pipeline = $1 and finished_at is null and (kind = any($2)) = $3 order by id limit 1";
    let row = client
        .query_opt(sql, &[&pipeline, &JOBS.as_slice(), &(kinds == Kinds::Jobs)])
        .await
        .context("looking for requests; was `platform migrate` run?")?;
    row.map(|row| {
        let Json(arguments) = row.try_get(2)?;
        Ok(Request { id: row.try_get(0)?, kind: row.try_get(1)?, arguments, by: row.try_get(3)? })
    })
    .transpose()
}

/// Takes a request in work; false when it was withdrawn.
///
/// # Errors
/// PostgreSQL's.
pub async fn begin(client: &Client, id: i64) -> anyhow::Result<bool> {
    let sql =
        "update platform.requests set started_at = coalesce(started_at, now()) where id = $1 and finished_at is null";
    Ok(client.execute(sql, &[&id]).await.context("taking a request")? == 1)
}

/// Writes what became of a request.
///
/// # Errors
/// PostgreSQL's.
pub async fn finish(client: &Client, id: i64, outcome: &Outcome) -> anyhow::Result<()> {
    let sql = "update platform.requests set finished_at = now(), outcome = $2 where id = $1 and finished_at is null";
    client.execute(sql, &[&id, &Json(outcome)]).await.context("finishing a request").map(drop)
}

/// Asks; returns the request's number.
///
/// # Errors
/// PostgreSQL's.
pub async fn ask(
    client: &impl GenericClient,
    pipeline: &str,
    kind: &str,
    arguments: &Value,
    by: &str,
) -> anyhow::Result<i64> {
    let sql = "insert into platform.requests (pipeline, kind, arguments, requested_by) \
               values ($1, $2, $3, $4::text || ' (' || session_user || ')') returning id";
    let row = client.query_one(sql, &[&pipeline, &kind, &Json(arguments), &by]).await;
    Ok(row.context("asking the sink; was `platform migrate` run?")?.try_get(0)?)
}

/// A request with all that is known of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What was asked for.
    pub request: Request,
    /// How far it is.
    pub standing: Standing,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// When a sink has begun it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was finished.
    pub finished_at: Option<DateTime<Utc>>,
}

/// The request with this number.
///
/// # Errors
/// PostgreSQL's, or an outcome that this program does not understand.
pub async fn find(client: &impl GenericClient, pipeline: &str, id: i64) -> anyhow::Result<Option<Record>> {
    let sql = "select kind, arguments, requested_by, created_at, started_at, finished_at, outcome \
               from platform.requests where pipeline = $1 and id = $2";
    let row = client.query_opt(sql, &[&pipeline, &id]).await.context("looking for a request")?;
    row.map(|row| {
        let Json(arguments) = row.try_get(1)?;
        let started_at: Option<DateTime<Utc>> = row.try_get(4)?;
        let standing = match row.try_get::<_, Option<Json<Outcome>>>(6)? {
            Some(Json(outcome)) => Standing::Finished(outcome),
            None if started_at.is_some() => Standing::Begun,
            None => Standing::Waiting,
        };
        let request = Request { id, kind: row.try_get(0)?, arguments, by: row.try_get(2)? };
        Ok(Record { request, standing, requested_at: row.try_get(3)?, started_at, finished_at: row.try_get(5)? })
    })
    .transpose()
}

/// How far a request is.
///
/// # Errors
/// PostgreSQL's, or an outcome that this program does not understand.
pub async fn standing(client: &Client, id: i64) -> anyhow::Result<Standing> {
    let sql = "select started_at is not null, outcome from platform.requests where id = $1";
    let row = client.query_one(sql, &[&id]).await.context("looking at the request")?;
    Ok(match row.try_get::<_, Option<Json<Outcome>>>(1)? {
        Some(Json(outcome)) => Standing::Finished(outcome),
        None if row.try_get(0)? => Standing::Begun,
        None => Standing::Waiting,
    })
}

/// Takes a request back; false when a sink has begun or finished it.
///
/// # Errors
/// PostgreSQL's.
pub async fn withdraw(client: &Client, id: i64) -> anyhow::Result<bool> {
    let sql = "update platform.requests set finished_at = now(), outcome = $2 \
               where id = $1 and started_at is null and finished_at is null";
    let outcome = Outcome::new("withdrawn", 69, "no sink took it");
    Ok(client.execute(sql, &[&id, &Json(outcome)]).await.context("withdrawing the request")? == 1)
}
