//! `GET /v1/pipeline`: where the way from PostgreSQL to ClickHouse stands.

use actix_web::{HttpRequest, HttpResponse, get};
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::connector::Known;
use super::problem::{ApiResult, Problem};
use super::query::Query;
use super::replica::{Seen, TableState};
use super::state::{Shared, State};
use crate::catalog::endpoint_parameter::format_moment;

/// State of the pipeline.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pipeline {
    /// Its name: that of publication, slot and connector.
    #[schema(example = "platform")]
    pub pipeline: String,
    /// Number of the log that positions and tokens belong to.
    pub log: u16,
    /// Where the sink stands; null before the first load.
    #[schema(required = true)]
    pub checkpoint: Option<PipelineCheckpoint>,
    /// The mirrored tables whose state is known.
    pub tables: Vec<PipelineTable>,
    /// The connector on Kafka Connect; null when the API is not told where Connect is.
    #[schema(required = true)]
    pub connector: Option<PipelineConnector>,
    /// Whether the newest look at ClickHouse failed; what is shown is then older.
    pub clickhouse_unreachable: bool,
}

/// What is durable in ClickHouse.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PipelineCheckpoint {
    /// Every transaction that committed below this position of PostgreSQL's log is applied.
    #[schema(example = "0/1A2B3C8")]
    pub watermark_lsn: String,
    /// Commit time of the newest applied change.
    #[schema(format = "date-time")]
    pub as_of: String,
    /// Milliseconds since then; heartbeats keep it small while nothing else changes.
    pub lag_ms: i64,
    /// Topic of the changes.
    pub topic: String,
    /// First offset that is not applied yet.
    pub next_offset: i64,
    /// Number of the newest batch: it grows by the records that were applied.
    pub batch: u64,
}

/// A mirrored table.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PipelineTable {
    /// Its name in `analytics`.
    #[schema(example = "sentiment_social")]
    pub table: String,
    /// What it is doing: `wanted` (the sink will load it), `loading`, `live`, `halted` (somebody must load it), `left` (it is no
    /// longer in the publication).
    pub state: String,
    /// Why; may be empty.
    pub reason: String,
    /// Rows that the last load copied.
    pub rows_loaded: u64,
    /// Rows that could not be applied and wait for a replay.
    pub parked_rows: u64,
    /// Since when.
    #[schema(format = "date-time")]
    pub changed_at: String,
}

/// The connector, as Kafka Connect tells it. RUNNING is not health: `lag_ms` is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PipelineConnector {
    /// RUNNING, PAUSED, FAILED, …, or `unregistered` or `unreachable`.
    pub state: String,
    /// The state of each task.
    pub tasks: Vec<String>,
}

/// State of the pipeline: how far the mirror is, the tables, the connector.
#[utoipa::path(
    tag = "pipeline",
    responses(
        (status = 200, body = Pipeline),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem),
    )
)]
#[get("/pipeline")]
pub(crate) async fn get_pipeline(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &["application/json"])?;
    Ok(HttpResponse::Ok().json(read(&state.shared).await))
}

/// What is known now.
pub(super) async fn read(shared: &Shared) -> Pipeline {
    let seen = shared.replica.last();
    Pipeline {
        pipeline: shared.pipeline.clone(),
        log: seen.checkpoint.as_ref().map_or(seen.log, |checkpoint| checkpoint.log),
        checkpoint: checkpoint(&seen),
        tables: tables(&seen),
        connector: connector(shared).await,
        clickhouse_unreachable: seen.error.is_some(),
    }
}

/// Where the sink stands.
pub(super) fn checkpoint(seen: &Seen) -> Option<PipelineCheckpoint> {
    seen.checkpoint.as_ref().map(|checkpoint| PipelineCheckpoint {
        watermark_lsn: checkpoint.watermark.to_string(),
        as_of: format_moment(checkpoint.committed_at),
        lag_ms: seen.lag_ms(Utc::now()).unwrap_or_default(),
        topic: checkpoint.topic.clone(),
        next_offset: checkpoint.next_offset,
        batch: checkpoint.batch,
    })
}

/// The mirrored tables, in the order of their names.
pub(super) fn tables(seen: &Seen) -> Vec<PipelineTable> {
    let table = |(table, state): (&String, &TableState)| PipelineTable {
        table: table.clone(),
        state: state.state.clone(),
        reason: state.reason.clone(),
        rows_loaded: state.rows_loaded,
        parked_rows: state.parked,
        changed_at: format_moment(state.changed_at),
    };
    seen.tables.iter().map(table).collect()
}

async fn connector(shared: &Shared) -> Option<PipelineConnector> {
    let (state, tasks) = match shared.connector.state().await? {
        Known::Registered { state, tasks } => (state, tasks),
        Known::Unregistered => ("unregistered".to_owned(), Vec::new()),
        Known::Unreachable => ("unreachable".to_owned(), Vec::new()),
    };
    Some(PipelineConnector { state, tasks })
}
