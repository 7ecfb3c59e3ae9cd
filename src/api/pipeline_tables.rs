//! `/v1/pipeline/tables`: what each mirrored table is doing, and having one loaded anew; `/v1/pipeline/connector/restart`.

use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::auth::{Admin, Caller, Read};
use super::conditions::negotiate;
use super::pipeline::{self, PipelineTable};
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::requests::{PipelineRequest, submit};
use super::state::State;

const JSON: &str = "application/json";

/// The mirrored tables.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PipelineTables {
    /// In the order of their names.
    pub items: Vec<PipelineTable>,
}

/// Lists the mirrored tables with what each is doing.
#[utoipa::path(
    tag = "pipeline",
    responses(
        (status = 200, body = PipelineTables), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 503, body = Problem),
    )
)]
#[get("/pipeline/tables")]
pub(crate) async fn list_tables(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    Ok(HttpResponse::Ok().json(PipelineTables { items: pipeline::tables(&state.shared.replica.last()) }))
}

/// One mirrored table.
#[utoipa::path(
    tag = "pipeline",
    params(("table" = String, Path, description = "Its name in `analytics`")),
    responses(
        (status = 200, body = PipelineTable), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 406, body = Problem), (status = 503, body = Problem),
    )
)]
#[get("/pipeline/tables/{table}")]
pub(crate) async fn get_table(
    state: State,
    _caller: Caller<Read>,
    table: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    Ok(HttpResponse::Ok().json(find(&state, &table)?))
}

fn find(state: &State, name: &str) -> ApiResult<PipelineTable> {
    let tables = pipeline::tables(&state.shared.replica.last());
    let found = tables.into_iter().find(|table| table.table == name);
    found.ok_or_else(|| ApiError::new(Code::NotFound, "there is no mirrored table of this name"))
}

/// Has a table loaded anew. It answers 503 in analytics until it is complete.
#[utoipa::path(
    tag = "pipeline",
    params(
        ("table" = String, Path, description = "Its name in `analytics`"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key asks once"),
    ),
    responses(
        (status = 202, body = PipelineRequest, description = "Asked; the sink does it", headers(("Location" = String, description = "Where to look for its end"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 406, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/pipeline/tables/{table}/resync")]
pub(crate) async fn resync_table(
    state: State,
    caller: Caller<Admin>,
    table: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let table = find(&state, &table)?.table;
    submit(&state, &request, &caller.key_prefix, &[], "resync", &json!({ "table": table })).await
}

/// Has the connector and its task restarted.
#[utoipa::path(
    tag = "pipeline",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key asks once")),
    responses(
        (status = 202, body = PipelineRequest, description = "Asked; the sink does it", headers(("Location" = String, description = "Where to look for its end"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/pipeline/connector/restart")]
pub(crate) async fn restart_connector(
    state: State,
    caller: Caller<Admin>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    submit(&state, &request, &caller.key_prefix, &[], "restart-connector", &json!({})).await
}
