//! `/v1/sentiment-social`: posts, in PostgreSQL.

use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Payload};
use actix_web::{FromRequest, HttpRequest, HttpResponse, delete, get, patch, post, put};
use futures_util::future::{Ready, ready};

use super::auth::{Caller, Read, Write};
use super::body::{self, Members, merge_patch};
use super::conditions::{IfMatch, Prefer, negotiate, none_match};
use super::cursor;
use super::idempotency::{Answer, IdempotencyKey};
use super::post::{LABELS, Post, PostInput, PostPage, PostPatch};
use super::post_input::Changes;
use super::posts_sql::{self, Filter};
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::state::{State, Worker};
use crate::domain::{Lsn, Token};

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const PATH: &str = "/v1/sentiment-social";
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// The header that carries a consistency token.
pub(super) const TOKEN_HEADER: &str = "x-consistency-token";

/// Order of a list.
#[derive(Debug, utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "describes the parameter in the OpenAPI document")]
enum Sort {
    Newest,
    Oldest,
}

/// The id in a path; anything that is no id does not exist.
#[derive(Debug, Clone, Copy)]
pub(super) struct PostId(i64);

impl FromRequest for PostId {
    type Error = ApiError;
    type Future = Ready<ApiResult<Self>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let text = request.match_info().get("id").unwrap_or_default();
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
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
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters; the same request with the same key creates one post"),
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
    let body = body::read(&request, payload, &[JSON], state.shared.settings.body_bytes_max).await?;
    let key = IdempotencyKey::of(&request, &caller.key_prefix, &body)?;
    let post = Changes::whole(Members::parse(&body)?)?;
    let (answer, position, replayed) = state.limited(create(&state, &post, key.as_ref())).await?;
    let mut response = HttpResponse::build(answer.status);
    for (name, value) in &answer.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    add_token(&mut response, &state, position);
    if replayed {
        response.insert_header(("Idempotency-Replayed", "true"));
    }
    if prefer.minimal {
        return Ok(response.insert_header(("Preference-Applied", "return=minimal")).finish());
    }
    Ok(response.content_type(JSON).body(answer.body))
}

async fn create(
    worker: &Worker,
    post: &Changes,
    key: Option<&IdempotencyKey>,
) -> ApiResult<(Answer, Option<Lsn>, bool)> {
    let mut client = worker.postgres().await?;
    let Some(key) = key else {
        // Sent one behind the other: the position is asked for after the insert has committed, in one round trip.
        let (row, position) = tokio::join!(biased; posts_sql::insert(&**client, post), posts_sql::position(&client));
        let answer = created(&Post::from_row(&row.map_err(creation_error)?)?)?;
        return Ok((answer, position?, false));
    };
    let transaction = client.transaction().await?;
    if let Some(answer) = key.begin(&transaction).await? {
        transaction.rollback().await?;
        return Ok((answer, posts_sql::position(&client).await?, true));
    }
    let row = posts_sql::insert(&*transaction, post).await.map_err(creation_error)?;
    let answer = created(&Post::from_row(&row)?)?;
    key.finish(&transaction, &answer).await?;
    transaction.commit().await?;
    Ok((answer, posts_sql::position(&client).await?, false))
}

fn created(post: &Post) -> ApiResult<Answer> {
    Ok(Answer {
        status: StatusCode::CREATED,
        headers: vec![("location".to_owned(), format!("{PATH}/{}", post.id)), ("etag".to_owned(), post.etag())],
        body: Bytes::from(serde_json::to_vec(post).map_err(ApiError::internal)?),
    })
}

fn creation_error(error: tokio_postgres::Error) -> ApiError {
    if super::database_errors::violates(&error, posts_sql::UNIQUE) {
        return ApiError::new(Code::DuplicatePost, "a post with this platform and post_id exists");
    }
    error.into()
}

/// Lists posts, newest or oldest first.
///
/// Pages stay right while posts are added and removed: a cursor names the last row, not a number of rows. It belongs to
/// the filters and the sort it was made for; `limit` may change between pages.
#[utoipa::path(
    tag = "posts",
    params(
        ("platform" = Option<String>, Query, description = "Only this platform"),
        ("label" = Option<super::post::Label>, Query, description = "Only this sentiment label"),
        ("author" = Option<String>, Query, description = "Only this author"),
        ("topic" = Option<String>, Query, description = "Only this topic"),
        ("lang" = Option<String>, Query, description = "Only this language"),
        ("posted_from" = Option<String>, Query, description = "First posted_at that counts: RFC 3339 time or date"),
        ("posted_to" = Option<String>, Query, description = "First posted_at that no longer counts"),
        ("sort" = inline(Option<Sort>), Query, description = "By posted_at and id; newest without"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Posts a page; 50 without"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = PostPage, headers(("Link" = Option<String>, description = "rel=\"next\": the next page"))),
        (status = 400, body = Problem, description = "invalid-parameters or invalid-cursor"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/sentiment-social")]
pub(crate) async fn list_posts(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    negotiate(&request, &[JSON])?;
    let mut query = Query::of(&request)?;
    let mut filter = Filter::default();
    for column in ["platform", "author", "topic", "lang"] {
        filter.equal.extend(query.filter(column).map(|value| (column, value)));
    }
    filter.equal.extend(query.word("label", &LABELS).map(|label| ("sentiment_label", label.to_owned())));
    filter.posted_from = query.moment("posted_from");
    filter.posted_to = query.moment("posted_to");
    filter.oldest_first = query.word("sort", &["newest", "oldest"]) == Some("oldest");
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let cursor = query.text("cursor");
    query.finish()?;
    let after = cursor.map(|cursor| cursor::read(&filter, &cursor)).transpose()?;
    let page = state.limited(list(&state, &filter, after, limit)).await?;
    let mut response = HttpResponse::Ok();
    if let Some(next) = &page.next {
        response.insert_header((header::LINK, format!("<{}>; rel=\"next\"", next_page(&request, next))));
    }
    Ok(response.json(page))
}

async fn list(worker: &Worker, filter: &Filter, after: Option<cursor::Place>, limit: u32) -> ApiResult<PostPage> {
    let client = worker.postgres().await?;
    // One more than asked for tells whether there is a next page.
    let rows = posts_sql::list(&**client, filter, after, i64::from(limit) + 1).await?;
    let limit = usize::try_from(limit)?;
    let items = rows.iter().take(limit).map(Post::from_row).collect::<ApiResult<Vec<_>>>()?;
    let next = match items.last() {
        Some(last) if rows.len() > limit => Some(cursor::write(filter, (last.posted_at, last.id))),
        _ => None,
    };
    Ok(PostPage { items, next })
}

/// The request's path and parameters with another cursor.
fn next_page(request: &HttpRequest, cursor: &str) -> String {
    let kept = request.query_string().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let pairs: Vec<&str> = kept.collect();
    let separator = if pairs.is_empty() { "" } else { "&" };
    format!("{PATH}?{}{separator}cursor={cursor}", pairs.join("&"))
}

/// One post.
#[utoipa::path(
    tag = "posts",
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-None-Match" = Option<String>, Header, description = "ETags that the client has"),
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
    let row = state.limited(async { Ok(posts_sql::find(&state.postgres().await?, id.0).await?) }).await?;
    let post = Post::from_row(&row.ok_or_else(not_found)?)?;
    if none_match(&request, post.row_version)? {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, post.etag())).finish());
    }
    Ok(HttpResponse::Ok().insert_header((header::ETAG, post.etag())).json(post))
}

/// Changes some members of a post (RFC 7396 merge patch).
#[utoipa::path(
    tag = "posts",
    request_body(content = PostPatch, content_type = "application/merge-patch+json"),
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-Match" = Option<String>, Header, description = "Change it only if its ETag is one of these"),
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
        (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
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
    let body = body::read(&request, payload, &[MERGE_PATCH, JSON], state.shared.settings.body_bytes_max).await?;
    change(&state, id, &request, Changes::patch(Members::parse(&body)?)?, true).await
}

/// Replaces a post: members that are absent become null or their default.
#[utoipa::path(
    tag = "posts",
    request_body = PostInput,
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-Match" = Option<String>, Header, description = "Replace it only if its ETag is one of these"),
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
        (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
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
    let body = body::read(&request, payload, &[JSON], state.shared.settings.body_bytes_max).await?;
    change(&state, id, &request, Changes::whole(Members::parse(&body)?)?, false).await
}

async fn change(
    state: &Worker,
    id: PostId,
    request: &HttpRequest,
    mut changes: Changes,
    merge: bool,
) -> ApiResult<HttpResponse> {
    let if_match = IfMatch::of(request)?;
    let prefer = Prefer::of(request);
    let work = async {
        let mut client = state.postgres().await?;
        let transaction = client.transaction().await?;
        let current = posts_sql::lock(&transaction, id.0).await?.ok_or_else(not_found)?;
        if_match.check(current.try_get(0)?)?;
        if let (true, Some(raw)) = (merge, changes.raw_mut()) {
            *raw = merge_patch(current.try_get(1)?, raw);
        }
        let row = posts_sql::update(&*transaction, id.0, &changes).await.map_err(creation_error)?;
        let post = Post::from_row(&row.ok_or_else(not_found)?)?;
        transaction.commit().await?;
        Ok((post, posts_sql::position(&client).await?))
    };
    let (post, position) = state.limited(work).await?;
    let mut response = if prefer.minimal { HttpResponse::NoContent() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, post.etag()));
    add_token(&mut response, state, position);
    if prefer.minimal {
        return Ok(response.insert_header(("Preference-Applied", "return=minimal")).finish());
    }
    Ok(response.json(post))
}

/// Deletes a post.
#[utoipa::path(
    tag = "posts",
    params(
        ("id" = i64, Path, description = "The post's id"),
        ("If-Match" = Option<String>, Header, description = "Delete it only if its ETag is one of these"),
    ),
    responses(
        (status = 204, description = "Deleted", headers(
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see this write there"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 412, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
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
    let if_match = IfMatch::of(&request)?;
    let work = async {
        let mut client = state.postgres().await?;
        let transaction = client.transaction().await?;
        let current = posts_sql::lock(&transaction, id.0).await?.ok_or_else(not_found)?;
        if_match.check(current.try_get(0)?)?;
        posts_sql::delete(&transaction, id.0).await?;
        transaction.commit().await?;
        Ok(posts_sql::position(&client).await?)
    };
    let position = state.limited(work).await?;
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
