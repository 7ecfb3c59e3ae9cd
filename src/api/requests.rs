//! `/v1/pipeline/requests`: what was asked of the sink and of its jobs, and what became of it.

use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Path};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::idempotency::{Answer, IdempotencyKey};
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::state::{State, Worker};
use crate::catalog::endpoint_parameter::format_moment;
use crate::store::pool::Connection;
use crate::store::requests::{self, Record, Standing};

const PATH: &str = "/v1/pipeline/requests";
const JSON: &str = "application/json";

/// Something that was asked for, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PipelineRequest {
    /// Its number.
    pub id: i64,
    /// `pause`, `resume`, `rewind`, `replay`, `drop`, `resync`, `restart-connector`, `etl` or `verify`.
    pub kind: String,
    /// With what.
    #[schema(value_type = Object)]
    pub arguments: Value,
    /// `waiting` (nobody has taken it), `begun`, or how it ended: `done`, `unchanged`, `incomplete`, `refused`, `failed`,
    /// `withdrawn`. May grow.
    pub status: String,
    /// What happened; null until it is finished.
    #[schema(required = true)]
    pub detail: Option<String>,
    /// Figures, depending on the kind.
    #[schema(value_type = Object)]
    pub result: Map<String, Value>,
    /// Who asked.
    pub requested_by: String,
    /// When.
    #[schema(format = "date-time")]
    pub requested_at: String,
    /// When somebody has begun it.
    #[schema(required = true, format = "date-time")]
    pub started_at: Option<String>,
    /// When it was finished.
    #[schema(required = true, format = "date-time")]
    pub finished_at: Option<String>,
}

impl From<Record> for PipelineRequest {
    fn from(record: Record) -> Self {
        let (status, detail, result) = match record.standing {
            Standing::Waiting => ("waiting".to_owned(), None, Map::new()),
            Standing::Begun => ("begun".to_owned(), None, Map::new()),
            Standing::Finished(outcome) => (outcome.status, Some(outcome.detail), outcome.result),
        };
        Self {
            id: record.request.id,
            kind: record.request.kind,
            arguments: record.request.arguments,
            status,
            detail,
            result,
            requested_by: record.request.by,
            requested_at: format_moment(record.requested_at),
            started_at: record.started_at.map(format_moment),
            finished_at: record.finished_at.map(format_moment),
        }
    }
}

/// What was asked for, and what became of it.
#[utoipa::path(
    tag = "pipeline",
    params(("id" = i64, Path, description = "The request's number")),
    responses(
        (status = 200, body = PipelineRequest),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/pipeline/requests/{id}")]
pub(crate) async fn get_request(
    state: State,
    _caller: Caller<Read>,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let none = || ApiError::new(Code::NotFound, "there is no request with this number");
    let id = id.parse::<i64>().ok().filter(|id| *id > 0 && id.to_string() == *id_text(&request)).ok_or_else(none)?;
    let found = find(&state, id).await?;
    Ok(HttpResponse::Ok().json(PipelineRequest::from(found.ok_or_else(none)?)))
}

fn id_text(request: &HttpRequest) -> &str {
    request.match_info().get("id").unwrap_or_default()
}

async fn find(worker: &Worker, id: i64) -> ApiResult<Option<Record>> {
    let pipeline = &worker.shared.pipeline;
    worker.query(async |client| requests::find(&***client, pipeline, id).await.map_err(ApiError::of_store)).await
}

/// Asks for something and answers 202 with where to look for its end; with an `Idempotency-Key` a repeated request asks once.
///
/// # Errors
/// Those of the key; 503 without PostgreSQL.
pub(super) async fn submit(
    state: &State,
    request: &HttpRequest,
    caller: &str,
    body: &[u8],
    kind: &str,
    arguments: &Value,
) -> ApiResult<HttpResponse> {
    let key = IdempotencyKey::of(request, caller, body)?;
    let by = if caller.is_empty() { "the API".to_owned() } else { format!("API key {caller}") };
    let work = async |client: &mut Connection| {
        let transaction = client.transaction().await?;
        if let Some(key) = &key
            && let Some(answer) = key.begin(&transaction).await?
        {
            transaction.rollback().await?;
            return Ok((answer, true));
        }
        let pipeline = &state.shared.pipeline;
        let id = requests::ask(&*transaction, pipeline, kind, arguments, &by).await.map_err(ApiError::of_store)?;
        let record = requests::find(&*transaction, pipeline, id).await.map_err(ApiError::of_store)?;
        let record = record.ok_or_else(|| ApiError::internal("a request that was just stored is not there"))?;
        let body = serde_json::to_vec(&PipelineRequest::from(record)).map_err(ApiError::internal)?;
        let headers = vec![("location".to_owned(), format!("{PATH}/{id}"))];
        let answer = Answer { status: StatusCode::ACCEPTED, headers, body: Bytes::from(body) };
        if let Some(key) = &key {
            key.finish(&transaction, &answer).await?;
        }
        transaction.commit().await?;
        Ok((answer, false))
    };
    let (answer, replayed) = state.query(work).await?;
    let mut response = HttpResponse::build(answer.status);
    for (name, value) in &answer.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    if replayed {
        response.insert_header(("Idempotency-Replayed", "true"));
    }
    response.insert_header((header::RETRY_AFTER, "1"));
    Ok(response.content_type(JSON).body(answer.body))
}
