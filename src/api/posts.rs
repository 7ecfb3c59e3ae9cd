//! `/v1/sentiment-social`: posts, in PostgreSQL.

use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Payload};
use actix_web::{FromRequest, HttpRequest, HttpResponse, delete, get, patch, post, put};
use futures_util::future::{Ready, ready};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::auth::{Caller, Read, Write};
use super::body::{self, Members, merge_patch};
use super::conditions::{IfMatch, Prefer, negotiate, none_match};
use super::context;
use super::fallback;
use super::idempotency::{Answer, IdempotencyKey};
use super::post::{Post, PostInput, PostPatch};
use super::post_input::Changes;
use super::post_json::{self, Fields};
use super::posts_sql;
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::shared_inserts::{Slot, Turn};
use super::state::{State, Worker};
use crate::domain::{Lsn, Token};
use crate::store::pool::Connection;

pub(super) const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
pub(super) const PATH: &str = "/v1/sentiment-social";

/// The header that carries a consistency token.
pub(super) const TOKEN_HEADER: &str = "x-consistency-token";

/// The id in a path; anything that is no id does not exist.
#[derive(Debug, Clone, Copy)]
pub(super) struct PostId(i64);

impl FromRequest for PostId {
    type Error = ApiError;
    type Future = Ready<ApiResult<Self>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let text = request.match_info().get("id").unwrap_or_default();
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if let (false, Some(refused)) = (plain, fallback::wrong_method(request)) {
            return ready(Err(refused));
        }
        ready(plain.then(|| text.parse().ok()).flatten().map(Self).ok_or_else(not_found))
    }
}

fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "there is no post with this id")
}

/// Creates a post.
///
/// With an `Idempotency-Key` a repeated request gets the first answer for 24 hours and creates nothing.
#[utoipa::path(
    tag = "posts",
    request_body = PostInput,
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key creates one post"),
        ("Prefer" = Option<String>, Header, description = "return=minimal: no body"),
    ),
    responses(
        (status = 201, body = Post, description = "Created", headers(
            ("Location" = String, description = "The post's path"),
            ("ETag" = String, description = "Its row_version"),
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see this write there"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem, description = "duplicate-post or idempotency-key-in-use"),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem, description = "invalid-body or idempotency-key-reused"),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/sentiment-social")]
pub(crate) async fn create_post(
    state: State,
    caller: Caller<Write>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let prefer = Prefer::of(&request);
    let body = body::read(&request, payload, &[JSON], state.shared.body_limit()).await?;
    let key = IdempotencyKey::of(&request, &caller.key_prefix, &body)?;
    let post = Changes::whole(Members::parse(&body)?)?;
    let created = match key {
        Some(key) => state.query(async |client| create_once(client, &post, &key).await).await?,
        None => create(&state, post, prefer.minimal).await?,
    };
    Ok(created.respond(&state, prefer.minimal))
}

/// What a write that can be repeated came to.
pub(super) struct Written {
    /// The answer, of this request or of the first one with its key.
    pub answer: Answer,
    /// Behind the write.
    pub position: Option<Lsn>,
    /// Whether it is the answer of an earlier request.
    pub replayed: bool,
}

impl Written {
    /// The answer with the headers that belong to this request.
    pub(super) fn respond(self, state: &Worker, minimal: bool) -> HttpResponse {
        let mut response = HttpResponse::build(self.answer.status);
        for (name, value) in &self.answer.headers {
            response.insert_header((name.as_str(), value.as_str()));
        }
        add_token(&mut response, state, self.position);
        if self.replayed {
            response.insert_header(("Idempotency-Replayed", "true"));
        }
        if minimal {
            return response.insert_header(("Preference-Applied", "return=minimal")).finish();
        }
        response.content_type(JSON).body(self.answer.body)
    }
}

/// By itself while few create posts, else in one statement with others.
async fn create(state: &Worker, post: Changes, minimal: bool) -> ApiResult<Written> {
    let began = Instant::now();
    let turn = state.limited(state.creations.turn(post, minimal)).await;
    context::add_database_time(began.elapsed());
    match turn? {
        Turn::Written(row, position) => Ok(Written { answer: created(&row, minimal)?, position, replayed: false }),
        Turn::Alone(post, slot) => {
            Slot::hold(slot, state.query(async |client| create_alone(client, &post, minimal).await)).await
        }
    }
}

async fn create_alone(client: &mut Connection, post: &Changes, minimal: bool) -> ApiResult<Written> {
    // Sent one behind the other: the position is asked for after the insert has committed, in one round trip. Prepared
    // before: an insert that had to wait for that would be sent behind it.
    let returned = if minimal { posts_sql::IDENTITY } else { posts_sql::COLUMNS };
    let statement = posts_sql::prepare_insert(client, post, returned).await?;
    let insert = posts_sql::insert(&***client, &statement, post);
    let (row, position) = tokio::join!(biased; insert, posts_sql::position(client));
    let answer = created(&row.map_err(creation_error)?, minimal)?;
    Ok(Written { answer, position: position?, replayed: false })
}

/// The whole answer is made, because it is kept for whoever repeats the request.
async fn create_once(client: &mut Connection, post: &Changes, key: &IdempotencyKey) -> ApiResult<Written> {
    let transaction = client.transaction().await?;
    if let Some(answer) = key.begin(&transaction).await? {
        transaction.rollback().await?;
        return Ok(Written { answer, position: posts_sql::position(client).await?, replayed: true });
    }
    let statement = posts_sql::prepare_insert(&transaction, post, posts_sql::COLUMNS).await?;
    let row = posts_sql::insert(&*transaction, &statement, post).await.map_err(creation_error)?;
    let answer = created(&row, false)?;
    key.finish(&transaction, &answer).await?;
    transaction.commit().await?;
    Ok(Written { answer, position: posts_sql::position(client).await?, replayed: false })
}

fn created(row: &Row, minimal: bool) -> ApiResult<Answer> {
    let body = if minimal { Vec::new() } else { post_json::post(&Fields::default(), row)?.0 };
    let (id, version): (i64, i64) = (row.try_get("id")?, row.try_get("row_version")?);
    Ok(Answer {
        status: StatusCode::CREATED,
        headers: vec![("location".to_owned(), format!("{PATH}/{id}")), ("etag".to_owned(), etag(version))],
        body: Bytes::from(body),
    })
}

/// The `ETag` of a version.
fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

pub(super) fn creation_error(error: tokio_postgres::Error) -> ApiError {
    if super::database_errors::violates(&error, posts_sql::UNIQUE) {
        return ApiError::new(Code::DuplicatePost, "a post with this platform and post_id exists");
    }
    error.into()
}

/// One post.
#[utoipa::path(
    tag = "posts",
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-None-Match" = Option<String>, Header, pattern = "^(\\*|(W/)?\"[0-9]{1,18}\"(, (W/)?\"[0-9]{1,18}\")*)$", description = "ETags that the client has"),
    ),
    responses(
        (status = 200, body = Post, headers(("ETag" = String, description = "Its row_version"))),
        (status = 304, description = "The client has the current version"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/sentiment-social/{id}")]
pub(crate) async fn get_post(
    state: State,
    _caller: Caller<Read>,
    id: PostId,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let row = state.query(async |client| Ok(posts_sql::find(client, id.0).await?)).await?.ok_or_else(not_found)?;
    let version: i64 = row.try_get("row_version")?;
    if none_match(&request, version)? {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag(version))).finish());
    }
    let (body, _) = post_json::post(&Fields::default(), &row)?;
    Ok(HttpResponse::Ok().insert_header((header::ETAG, etag(version))).content_type(JSON).body(body))
}

/// Changes some members of a post (RFC 7396 merge patch).
#[utoipa::path(
    tag = "posts",
    request_body(content = PostPatch, content_type = "application/merge-patch+json"),
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-Match" = Option<String>, Header, pattern = "^(\\*|\"[0-9]{1,18}\"(, \"[0-9]{1,18}\")*)$", description = "Change it only if its ETag is one of these"),
        ("Prefer" = Option<String>, Header, description = "return=minimal: no body"),
    ),
    responses(
        (status = 200, body = Post, headers(
            ("ETag" = String, description = "Its new row_version"),
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see this write there"),
        )),
        (status = 204, description = "Changed; with return=minimal"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 428, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[patch("/sentiment-social/{id}")]
pub(crate) async fn patch_post(
    state: State,
    _caller: Caller<Write>,
    id: PostId,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let body = body::read(&request, payload, &[MERGE_PATCH, JSON], state.shared.body_limit()).await?;
    change(&state, id, &request, Changes::patch(Members::parse(&body)?)?, true).await
}

/// Replaces a post: members that are absent become null or their default.
#[utoipa::path(
    tag = "posts",
    request_body = PostInput,
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-Match" = Option<String>, Header, pattern = "^(\\*|\"[0-9]{1,18}\"(, \"[0-9]{1,18}\")*)$", description = "Replace it only if its ETag is one of these"),
        ("Prefer" = Option<String>, Header, description = "return=minimal: no body"),
    ),
    responses(
        (status = 200, body = Post, headers(
            ("ETag" = String, description = "Its new row_version"),
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see this write there"),
        )),
        (status = 204, description = "Replaced; with return=minimal"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 428, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[put("/sentiment-social/{id}")]
pub(crate) async fn put_post(
    state: State,
    _caller: Caller<Write>,
    id: PostId,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    let body = body::read(&request, payload, &[JSON], state.shared.body_limit()).await?;
    change(&state, id, &request, Changes::whole(Members::parse(&body)?)?, false).await
}

async fn change(
    state: &Worker,
    id: PostId,
    request: &HttpRequest,
    mut changes: Changes,
    merge: bool,
) -> ApiResult<HttpResponse> {
    let if_match = IfMatch::required(request, state.shared.settings.require_if_match)?;
    let prefer = Prefer::of(request);
    let (row, position) = state
        .query(async |client| {
            let transaction = client.transaction().await?;
            let current = posts_sql::lock(&transaction, id.0).await?.ok_or_else(not_found)?;
            if_match.check(current.try_get(0)?)?;
            if let (true, Some(raw)) = (merge, changes.raw_mut()) {
                *raw = merge_patch(current.try_get(1)?, raw);
            }
            let row = posts_sql::update(&*transaction, id.0, &changes).await.map_err(creation_error)?;
            transaction.commit().await?;
            Ok((row.ok_or_else(not_found)?, posts_sql::position(client).await?))
        })
        .await?;
    let (body, version) = post_json::post(&Fields::default(), &row)?;
    let mut response = if prefer.minimal { HttpResponse::NoContent() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, etag(version)));
    add_token(&mut response, state, position);
    if prefer.minimal {
        return Ok(response.insert_header(("Preference-Applied", "return=minimal")).finish());
    }
    Ok(response.content_type(JSON).body(body))
}

/// Deletes a post.
#[utoipa::path(
    tag = "posts",
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-Match" = Option<String>, Header, pattern = "^(\\*|\"[0-9]{1,18}\"(, \"[0-9]{1,18}\")*)$", description = "Delete it only if its ETag is one of these"),
    ),
    responses(
        (status = 204, description = "Deleted", headers(
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see this write there"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 412, body = Problem), (status = 428, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[delete("/sentiment-social/{id}")]
pub(crate) async fn delete_post(
    state: State,
    _caller: Caller<Write>,
    id: PostId,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    let if_match = IfMatch::required(&request, state.shared.settings.require_if_match)?;
    let position = state
        .query(async |client| {
            let transaction = client.transaction().await?;
            let current = posts_sql::lock(&transaction, id.0).await?.ok_or_else(not_found)?;
            if_match.check(current.try_get(0)?)?;
            posts_sql::delete(&transaction, id.0).await?;
            transaction.commit().await?;
            Ok(posts_sql::position(client).await?)
        })
        .await?;
    let mut response = HttpResponse::NoContent();
    add_token(&mut response, &state, position);
    Ok(response.finish())
}

/// The token of a write that ends before `position`.
fn add_token(response: &mut actix_web::HttpResponseBuilder, state: &Worker, position: Option<Lsn>) {
    if let Some(lsn) = position {
        let token = Token { log: state.shared.replica.last().log, lsn };
        response.insert_header((TOKEN_HEADER, token.to_string()));
    }
}
