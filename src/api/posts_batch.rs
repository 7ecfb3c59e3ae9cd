//! `POST /v1/sentiment-social/batch`: up to a thousand posts, all or each by itself.

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, HttpResponse, post};
use serde::Serialize;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;

use super::auth::{Caller, Write};
use super::batch_input::{self, Item, Refusal};
use super::body;
use super::conditions::{Prefer, negotiate};
use super::database_errors::violates;
use super::idempotency::{Answer, IdempotencyKey};
use super::post::PostInput;
use super::post_input::Changes;
use super::posts::{JSON, Written, creation_error};
use super::posts_batch_sql::{self, Created, Taken};
use super::posts_sql;
use super::problem::{ApiError, ApiResult, Code, FieldError, Problem};
use super::query::Query;
use super::state::State;
use crate::store::pool::Connection;

const NDJSON: &str = "application/x-ndjson";
const MODES: [&str; 2] = ["atomic", "partial"];
/// Statements that are tried when others keep changing what they meet.
const ATTEMPTS: usize = 3;

/// The posts of a batch.
#[derive(Debug, ToSchema)]
#[schema(min_items = 1, max_items = 1000)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document; `batch_input` reads it")]
pub(super) struct Posts(Vec<PostInput>);

/// All posts or none, or each by itself.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "describes the parameter in the OpenAPI document")]
enum Mode {
    Atomic,
    Partial,
}

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResult {
    /// Posts that were created.
    pub created: usize,
    /// Posts that were not.
    pub refused: usize,
    /// Each item, in the order of the body.
    pub items: Vec<ItemResult>,
}

/// What became of an item.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemResult {
    /// Its place in the body, from 0; empty lines of NDJSON do not count.
    pub index: usize,
    /// What a request with this post alone would have been answered with.
    pub status: u16,
    /// The new post's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The new post's version; its ETag is the same in quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_version: Option<i64>,
    /// Why it was refused: the code of a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Why it was refused, this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Each thing that is wrong, with pointers into the item.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// Creates up to 1,000 posts in one statement.
///
/// The body is a JSON array, or one post a line (NDJSON). `mode=atomic` creates all posts or none: a refusal names every wrong item
/// by its place, as in `/17/likes`. `mode=partial` creates those that can be created and answers 207 with a result for each
/// item. Either way there is one consistency token, and an `Idempotency-Key` makes repeating safe.
#[utoipa::path(
    tag = "posts",
    request_body(content((Posts = "application/json"), (String = "application/x-ndjson"))),
    params(
        ("mode" = inline(Option<Mode>), Query, description = "atomic without"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key is executed once"),
        ("Prefer" = Option<String>, Header, description = "return=minimal: no body"),
    ),
    responses(
        (status = 201, body = BatchResult, description = "All were created", headers(
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see these writes there"),
        )),
        (status = 207, body = BatchResult, description = "mode=partial: a result for each item", headers(
            ("X-Consistency-Token" = String, description = "Send it with an analytics request to see these writes there"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 409, body = Problem, description = "duplicate-post or idempotency-key-in-use"),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem, description = "invalid-body or idempotency-key-reused"),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/sentiment-social/batch")]
pub(crate) async fn create_posts(
    state: State,
    caller: Caller<Write>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    let mut query = Query::of(&request)?;
    let partial = query.word("mode", &MODES) == Some("partial");
    query.finish()?;
    negotiate(&request, &[JSON])?;
    let prefer = Prefer::of(&request);
    let kind = body::media_type(&request, &[JSON, NDJSON])?;
    let limit = body::Limit { bytes_max: state.shared.settings.batch_bytes_max, ..state.shared.body_limit() };
    let body = body::read(&request, payload, &[JSON, NDJSON], limit).await?;
    let key = IdempotencyKey::of(&request, &caller.key_prefix, &body)?;
    let mut batch =
        Batch { items: if kind == NDJSON { batch_input::lines(&body)? } else { batch_input::array(&body)? }, partial };
    if !partial {
        batch.all_or_nothing()?;
    }
    let written = state.query(async |client| batch.write(client, key.as_ref()).await).await?;
    Ok(written.respond(&state, prefer.minimal))
}

struct Batch {
    items: Vec<Item>,
    partial: bool,
}

impl Batch {
    /// Fails when an item is refused, with every mistake of every item.
    fn all_or_nothing(&self) -> ApiResult<()> {
        let refused = self.items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_ref().err()?)));
        let mut errors = Vec::new();
        let (mut count, mut only_duplicates) = (0, true);
        for (index, refusal) in refused {
            count += 1;
            only_duplicates &= refusal.code == Code::DuplicatePost;
            if refusal.errors.is_empty() {
                let code = if refusal.code == Code::DuplicatePost { "duplicate" } else { "invalid" };
                errors.push(FieldError::item(index, code, refusal.detail.clone()));
            }
            errors.extend(refusal.errors.iter().cloned().map(|error| error.of_item(index)));
        }
        if count == 0 {
            return Ok(());
        }
        let code = if only_duplicates { Code::DuplicatePost } else { Code::InvalidBody };
        let all = self.items.len();
        Err(ApiError::items(
            code,
            format!("{count} of {all} posts cannot be created, so none was; `errors` names them"),
            errors,
        ))
    }

    async fn write(&mut self, client: &mut Connection, key: Option<&IdempotencyKey>) -> ApiResult<Written> {
        for attempt in 1..=ATTEMPTS {
            let error = match self.attempt(client, key).await? {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            let deadlock = error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
            let again = deadlock || violates(&error, posts_sql::UNIQUE) || posts_batch_sql::refuses(&error);
            if !again || attempt == ATTEMPTS || (!self.find_refused(client, &error).await? && !deadlock && attempt > 1)
            {
                return Err(creation_error(error));
            }
            if !self.partial {
                self.all_or_nothing()?;
            }
        }
        Err(ApiError::internal("no attempt has ended"))
    }

    /// One statement, in a transaction with its key. The inner error is that of the statement, which wrote nothing.
    async fn attempt(
        &self,
        client: &mut Connection,
        key: Option<&IdempotencyKey>,
    ) -> ApiResult<Result<Written, tokio_postgres::Error>> {
        let posts: Vec<&Changes> = self.items.iter().filter_map(|item| item.as_ref().ok()).collect();
        let taken = if self.partial { Taken::LeftOut } else { Taken::Fails };
        let statement = posts_batch_sql::prepare(client, taken).await?;
        let Some(key) = key else {
            // Sent one behind the other: the position is asked for after the insert has committed, in one round trip.
            let (created, position) = tokio::join!(biased; posts_batch_sql::insert(&***client, &statement, &posts), posts_sql::position(client));
            let created = match created {
                Ok(created) => created,
                Err(error) => return Ok(Err(error)),
            };
            return Ok(Ok(Written { answer: self.answer(created)?, position: position?, replayed: false }));
        };
        let transaction = client.transaction().await?;
        if let Some(answer) = key.begin(&transaction).await? {
            transaction.rollback().await?;
            return Ok(Ok(Written { answer, position: posts_sql::position(client).await?, replayed: true }));
        }
        let created = match posts_batch_sql::insert(&*transaction, &statement, &posts).await {
            Ok(created) => created,
            Err(error) => {
                transaction.rollback().await?;
                return Ok(Err(error));
            }
        };
        let answer = self.answer(created)?;
        key.finish(&transaction, &answer).await?;
        transaction.commit().await?;
        Ok(Ok(Written { answer, position: posts_sql::position(client).await?, replayed: false }))
    }

    /// Marks the items because of which a statement failed; false when none is found.
    async fn find_refused(&mut self, client: &Connection, error: &tokio_postgres::Error) -> ApiResult<bool> {
        let posts: Vec<&Changes> = self.items.iter().filter_map(|item| item.as_ref().ok()).collect();
        let (wrong, refusal) = if violates(error, posts_sql::UNIQUE) {
            (posts_batch_sql::existing(client, &posts).await?, Refusal::duplicate())
        } else if posts_batch_sql::refuses(error) {
            let errors = vec![FieldError::member("raw", "invalid", "PostgreSQL's jsonb cannot store it exactly")];
            let refusal = Refusal { errors, ..Refusal::new(Code::InvalidBody, "wrong: /raw") };
            (posts_batch_sql::refused(client, &posts).await?, refusal)
        } else {
            return Ok(false);
        };
        let mut wrong = wrong.into_iter();
        let mut found = false;
        for item in self.items.iter_mut().filter(|item| item.is_ok()) {
            if wrong.next() == Some(true) {
                *item = Err(refusal.clone());
                found = true;
            }
        }
        Ok(found)
    }

    /// The answer, once `created` says what became of the good items.
    fn answer(&self, created: Vec<Option<Created>>) -> ApiResult<Answer> {
        let mut created = created.into_iter();
        let results = self.items.iter().enumerate().map(|(index, item)| match item {
            Err(refusal) => refused(index, refusal.clone()),
            Ok(_) => {
                created.next().flatten().map_or_else(|| refused(index, Refusal::duplicate()), |post| done(index, post))
            }
        });
        let items: Vec<ItemResult> = results.collect();
        let created = items.iter().filter(|item| item.id.is_some()).count();
        let result = BatchResult { created, refused: items.len() - created, items };
        Ok(Answer {
            status: if self.partial { StatusCode::MULTI_STATUS } else { StatusCode::CREATED },
            headers: Vec::new(),
            body: Bytes::from(serde_json::to_vec(&result).map_err(ApiError::internal)?),
        })
    }
}

fn done(index: usize, post: Created) -> ItemResult {
    ItemResult {
        index,
        status: StatusCode::CREATED.as_u16(),
        id: Some(post.id),
        row_version: Some(post.version),
        code: None,
        detail: None,
        errors: Vec::new(),
    }
}

fn refused(index: usize, refusal: Refusal) -> ItemResult {
    ItemResult {
        index,
        status: refusal.code.status().as_u16(),
        id: None,
        row_version: None,
        code: Some(refusal.code.as_str()),
        detail: Some(refusal.detail),
        errors: refusal.errors,
    }
}
