//! `/v1/dead-letters`: rows that could not be applied to ClickHouse.

use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::auth::{Admin, Caller, Read};
use super::conditions::negotiate;
use super::keyset::Keyset;
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::requests::{PipelineRequest, submit};
use super::state::{State, Worker};
use crate::catalog::endpoint_parameter::format_moment;
use crate::store::dead_letters::{self, Filter, Letter, Selection};

const JSON: &str = "application/json";
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;
const STATES: [&str; 5] = ["parked", "replayed", "superseded", "dropped", "any"];

/// A row that could not be applied.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetter {
    /// Opaque.
    pub id: String,
    /// The table's name in `analytics`.
    #[schema(example = "sentiment_social")]
    pub table: String,
    /// The class of what is wrong.
    #[schema(example = "not-representable")]
    pub reason: String,
    /// What is wrong.
    pub detail: String,
    /// `parked`, `replayed`, `superseded` or `dropped`.
    pub state: String,
    /// Since when it is or was parked.
    #[schema(format = "date-time")]
    pub parked_at: String,
    /// Since when it has its state.
    #[schema(format = "date-time")]
    pub changed_at: String,
    /// The row's version, a 128-bit number as a string.
    pub version: String,
    /// The primary key, one text a column; only for one letter, and null when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// The raw message; only for one letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl From<Letter> for DeadLetter {
    fn from(letter: Letter) -> Self {
        Self {
            id: URL_SAFE_NO_PAD.encode(&letter.id),
            table: letter.table,
            reason: letter.reason,
            detail: letter.detail,
            state: letter.state,
            parked_at: format_moment(letter.parked_at),
            changed_at: format_moment(letter.changed_at),
            version: letter.version.to_string(),
            key: None,
            message: None,
        }
    }
}

/// A page of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetterPage {
    /// Those that wait longest first.
    pub items: Vec<DeadLetter>,
    /// Cursor of the next page; null on the last one.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// Lists rows that could not be applied, without their keys and values.
#[utoipa::path(
    tag = "pipeline",
    params(
        ("table" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]*$", description = "Only this table"),
        ("state" = Option<String>, Query, pattern = "^(parked|replayed|superseded|dropped|any)$", description = "parked (without), replayed, superseded, dropped, or any"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Letters a page; 50 without"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = DeadLetterPage),
        (status = 400, body = Problem, description = "invalid-parameters or invalid-cursor"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/dead-letters")]
pub(crate) async fn list_dead_letters(
    state: State,
    _caller: Caller<Read>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    negotiate(&request, &[JSON])?;
    let mut query = Query::of(&request)?;
    let table = query.filter("table").unwrap_or_default();
    let wanted = query.word("state", &STATES).unwrap_or("parked");
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let cursor = query.text("cursor");
    query.finish()?;
    let keyset = Keyset::new(["dead-letters", &table, wanted]);
    let after = cursor.map(|cursor| place(&keyset, &cursor)).transpose()?;
    let filter =
        Filter { pipeline: &state.shared.pipeline, table: &table, state: if wanted == "any" { "" } else { wanted } };
    let after = after.as_ref().map(|(micros, id)| (*micros, id.as_str()));
    let mut letters = dead_letters::page(&state.clickhouse, filter, after, limit.saturating_add(1)).await?;
    let more = letters.len() > usize::try_from(limit)?;
    letters.truncate(usize::try_from(limit)?);
    let next = letters.last().filter(|_| more).map(|last| {
        let micros = last.parked_at.timestamp_micros().to_string();
        keyset.write(&[&micros, &last.id])
    });
    Ok(HttpResponse::Ok().json(DeadLetterPage { items: letters.into_iter().map(DeadLetter::from).collect(), next }))
}

fn place(keyset: &Keyset, cursor: &str) -> ApiResult<(i64, String)> {
    let place = keyset.read(cursor)?;
    let parsed = || Some((place.first()?.parse().ok()?, place.get(1)?.clone()));
    parsed().ok_or_else(|| ApiError::new(Code::InvalidCursor, "the cursor was not made for this list"))
}

/// One row that could not be applied, with its key and its raw message.
#[utoipa::path(
    tag = "pipeline",
    params(("id" = String, Path, description = "The letter's id")),
    responses(
        (status = 200, body = DeadLetter),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem, description = "It needs the scope admin"),
        (status = 404, body = Problem), (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/dead-letters/{id}")]
pub(crate) async fn get_dead_letter(
    state: State,
    _caller: Caller<Admin>,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let letter = find(&state, &id).await?;
    let (key, message) = (serde_json::from_str(&letter.key).ok(), letter.message.clone());
    Ok(HttpResponse::Ok().json(DeadLetter { key, message, ..letter.into() }))
}

async fn find(worker: &Worker, id: &str) -> ApiResult<Letter> {
    let none = || ApiError::new(Code::NotFound, "there is no dead letter with this id");
    let id = URL_SAFE_NO_PAD.decode(id).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(none)?;
    let found = dead_letters::get(&worker.clickhouse, &worker.shared.pipeline, &id).await?;
    found.ok_or_else(none)
}

/// Has a row tried again, under its old version: what is newer stays.
#[utoipa::path(
    tag = "pipeline",
    params(
        ("id" = String, Path, description = "The letter's id"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key asks once"),
    ),
    responses(
        (status = 202, body = PipelineRequest, description = "Asked; the sink does it", headers(("Location" = String, description = "Where to look for its end"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 406, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/dead-letters/{id}/retry")]
pub(crate) async fn retry_dead_letter(
    state: State,
    caller: Caller<Admin>,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    act(&state, &caller.key_prefix, &id, &request, "replay").await
}

/// Gives a row up: nobody tries it again.
#[utoipa::path(
    tag = "pipeline",
    params(("id" = String, Path, description = "The letter's id")),
    responses(
        (status = 202, body = PipelineRequest, description = "Asked; the sink does it", headers(("Location" = String, description = "Where to look for its end"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 406, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[delete("/dead-letters/{id}")]
pub(crate) async fn delete_dead_letter(
    state: State,
    caller: Caller<Admin>,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    act(&state, &caller.key_prefix, &id, &request, "drop").await
}

async fn act(
    state: &State,
    caller: &str,
    id: &str,
    request: &HttpRequest,
    kind: &'static str,
) -> ApiResult<HttpResponse> {
    Query::none(request)?;
    negotiate(request, &[JSON])?;
    let letter = find(state, id).await?;
    let letters = Selection::Ids(vec![letter.id]);
    submit(state, request, caller, &[], kind, &json!({ "letters": letters })).await
}
