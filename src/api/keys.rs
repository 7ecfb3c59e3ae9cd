//! `/v1/keys`: API keys, for callers with the scope `admin`.

use actix_web::http::StatusCode;
use actix_web::web::{Path, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::auth::{Admin, Caller};
use super::body::{self, Members, whole_number};
use super::conditions::negotiate;
use super::cursor;
use super::posts::JSON;
use super::problem::{ApiError, ApiResult, Code, FieldError, Problem};
use super::query::Query;
use super::state::State;
use crate::catalog::endpoint_parameter::parse_moment;
use crate::store::api_keys::{self, NAME_CHARS_MAX, NewKey, SCOPES, StoredKey};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;
/// What the cursors of this list are bound to.
const LIST: &[u8] = b"keys 1";

/// What a key may do. Scopes do not include one another.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "describes the texts of `SCOPES` in the OpenAPI document")]
enum KeyScope {
    Read,
    Write,
    Admin,
}

/// An API key. The key itself is not stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Key {
    /// The 8 digits behind `pk_`, which name it.
    #[schema(example = "1f2e3d4c")]
    pub prefix: String,
    /// Name, for people.
    pub name: String,
    /// What it may do.
    #[schema(value_type = Vec<KeyScope>)]
    pub scopes: Vec<String>,
    /// Requests per window of its own; null: the server's default.
    #[schema(required = true)]
    pub rate_limit: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// By whom: `key` and a prefix, or a login.
    pub created_by: String,
    /// When it ends by itself.
    #[schema(required = true)]
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    #[schema(required = true)]
    pub revoked_at: Option<DateTime<Utc>>,
}

impl From<StoredKey> for Key {
    fn from(key: StoredKey) -> Self {
        Self {
            prefix: key.prefix,
            name: key.name,
            scopes: key.scopes,
            rate_limit: key.rate_limit,
            created_at: key.created_at,
            created_by: key.created_by,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// A key just made: the only answer that has the key itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewlyMadeKey {
    /// The key. It cannot be shown again.
    #[schema(example = "pk_1f2e3d4c_…")]
    pub key: String,
    /// What is known of it.
    #[serde(flatten)]
    pub stored: Key,
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyPage {
    /// The keys, newest first, those that ended included.
    pub items: Vec<Key>,
    /// Cursor of the next page; null on the last one.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// What a new key shall be.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document; `read` reads it")]
pub(super) struct KeyInput {
    /// Name, for people; without control characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "dashboard"
    )]
    name: String,
    /// What it may do.
    #[schema(min_items = 1, max_items = 3)]
    scopes: Vec<KeyScope>,
    /// When it ends by itself: RFC 3339; it must be later than now.
    expires_at: Option<DateTime<Utc>>,
    /// Requests per window of its own, instead of the server's default.
    #[schema(minimum = 1, maximum = 2147483647)]
    rate_limit: Option<i32>,
}

/// Lists the API keys.
#[utoipa::path(
    tag = "keys",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Keys a page; 50 without"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = KeyPage),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/keys")]
pub(crate) async fn list_keys(state: State, _caller: Caller<Admin>, request: HttpRequest) -> ApiResult<HttpResponse> {
    negotiate(&request, &[JSON])?;
    let mut query = Query::of(&request)?;
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let cursor = query.text("cursor");
    query.finish()?;
    let after = cursor.map(|text| place(&cursor::read(LIST, &text)?).ok_or_else(cursor::invalid)).transpose()?;
    let mut keys =
        state.query(async |client| Ok(api_keys::list(&***client, after.as_ref(), i64::from(limit) + 1).await?)).await?;
    let limit = usize::try_from(limit)?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| more).map(|last| {
        let moment = last.created_at.timestamp_micros().to_be_bytes();
        cursor::write(LIST, &[&moment, last.prefix.as_bytes()].concat())
    });
    Ok(HttpResponse::Ok().json(KeyPage { items: keys.into_iter().map(Key::from).collect(), next }))
}

fn place(bytes: &[u8]) -> Option<(DateTime<Utc>, String)> {
    let (moment, prefix) = bytes.split_first_chunk::<8>()?;
    let prefix = String::from_utf8(prefix.to_vec()).ok().filter(|text| !text.contains('\0'))?;
    Some((DateTime::from_timestamp_micros(i64::from_be_bytes(*moment))?, prefix))
}

/// Makes an API key and shows it, this once.
///
/// The answer holds a secret that is not stored, so an `Idempotency-Key` is refused: who lost the answer revokes the key and
/// makes another one.
#[utoipa::path(
    tag = "keys",
    request_body = KeyInput,
    responses(
        (status = 201, body = NewlyMadeKey, description = "Made"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/keys")]
pub(crate) async fn create_key(
    state: State,
    caller: Caller<Admin>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &[JSON])?;
    if request.headers().contains_key("idempotency-key") {
        let text = "Idempotency-Key cannot be kept here: the answer holds a secret that is not stored";
        return Err(ApiError::new(Code::InvalidHeader, text));
    }
    let body = body::read(&request, payload, &[JSON], state.shared.body_limit()).await?;
    let new = read(Members::parse(&body)?, Utc::now())?;
    let by = format!("key {}", caller.key_prefix);
    let (key, stored) = state.query(async |client| Ok(api_keys::create(&***client, &new, &by).await?)).await?;
    tracing::info!(prefix = stored.prefix, by, "an API key was made");
    let made = NewlyMadeKey { key: key.expose().to_owned(), stored: stored.into() };
    Ok(HttpResponse::build(StatusCode::CREATED).insert_header(("cache-control", "no-store")).json(made))
}

/// The body of a new key, all mistakes at once.
fn read(members: Members, now: DateTime<Utc>) -> ApiResult<NewKey> {
    let mut new = NewKey::default();
    let mut errors = Vec::new();
    for name in ["name", "scopes"] {
        if !members.0.iter().any(|(given, _)| given == name) {
            errors.push(FieldError::member(name, "required", "must be given"));
        }
    }
    for (name, raw) in &members.0 {
        let wrong = match name.as_ref() {
            "name" => {
                set(&mut new.name, text(raw), "must be a string of 1 to 200 characters without control characters")
            }
            "scopes" => set(&mut new.scopes, scopes(raw), "must be a list of one to three of read, write and admin"),
            "expires_at" => {
                let moment =
                    optional(raw, |raw| parse_moment(&json::<String>(raw)?).ok().filter(|moment| *moment > now));
                set(&mut new.expires_at, moment, "must be an RFC 3339 time or a date that is still to come, or null")
            }
            "rate_limit" => {
                let limit = optional(raw, |raw| whole_number(raw.get()).filter(|requests| *requests > 0));
                set(&mut new.rate_limit, limit, "must be a whole number from 1 to 2147483647, or null")
            }
            _ => {
                let shown: String = name.chars().take(64).collect();
                errors.push(FieldError::member(&shown, "unknown", "is not a member of a key"));
                None
            }
        };
        errors.extend(wrong.map(|detail| FieldError::member(name, "invalid", detail)));
    }
    if errors.is_empty() { Ok(new) } else { Err(ApiError::fields(Code::InvalidBody, errors)) }
}

/// Takes over a value, or returns what would have been accepted.
fn set<T>(place: &mut T, value: Option<T>, accepted: &'static str) -> Option<&'static str> {
    match value {
        Some(value) => {
            *place = value;
            None
        }
        None => Some(accepted),
    }
}

fn json<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn optional<T>(raw: &RawValue, read: impl Fn(&RawValue) -> Option<T>) -> Option<Option<T>> {
    if raw.get() == "null" { Some(None) } else { read(raw).map(Some) }
}

fn text(raw: &RawValue) -> Option<String> {
    json::<String>(raw)
        .filter(|text| (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_control))
}

fn scopes(raw: &RawValue) -> Option<Vec<String>> {
    let given: Vec<String> = json(raw)?;
    let all_known = given.iter().all(|name| SCOPES.contains(&name.as_str()));
    let each_once = SCOPES.iter().filter(|scope| given.iter().any(|name| name == *scope));
    let known: Vec<String> = each_once.map(|scope| (*scope).to_owned()).collect();
    (all_known && (1..=SCOPES.len()).contains(&given.len())).then_some(known)
}

/// Revokes an API key.
///
/// It ends within five seconds everywhere. A key cannot revoke itself.
#[utoipa::path(
    tag = "keys",
    params(("prefix" = String, Path, description = "The 8 digits behind `pk_`")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem, description = "There is no such key, or it was revoked before"),
        (status = 409, body = Problem, description = "own-key"),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[delete("/keys/{prefix}")]
pub(crate) async fn revoke_key(
    state: State,
    caller: Caller<Admin>,
    prefix: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    if *prefix == caller.key_prefix {
        return Err(ApiError::new(Code::OwnKey, "this is the key that the request came with"));
    }
    let plain = prefix.len() == 8 && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    let revoked = plain && state.query(async |client| Ok(api_keys::revoke(&***client, &prefix).await?)).await?;
    if !revoked {
        return Err(ApiError::new(Code::NotFound, "there is no key with this prefix that still stands"));
    }
    tracing::info!(prefix = *prefix, by = caller.key_prefix, "an API key was revoked");
    Ok(HttpResponse::NoContent().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(body: &str) -> Vec<String> {
        let now = "2026-01-01T00:00:00Z".parse().expect("a moment");
        match read(Members::parse(body.as_bytes()).expect("an object"), now) {
            Ok(_) => Vec::new(),
            Err(error) => {
                let (_, _, errors) = error.into_parts();
                errors
                    .iter()
                    .map(|error| format!("{} {}", error.pointer.as_deref().unwrap_or(""), error.code))
                    .collect()
            }
        }
    }

    #[test]
    fn every_mistake_is_named() {
        assert!(named(r#"{"name":"n","scopes":["write","read"],"expires_at":"2026-01-02","rate_limit":5}"#).is_empty());
        assert!(named(r#"{"name":"n","scopes":["read"],"expires_at":null,"rate_limit":null}"#).is_empty());
        assert_eq!(named("{}"), ["/name required", "/scopes required"]);
        assert_eq!(
            named(r#"{"name":"","scopes":["read","owner"],"expires_at":"2025-01-01","rate_limit":0,"key":"x"}"#),
            ["/name invalid", "/scopes invalid", "/expires_at invalid", "/rate_limit invalid", "/key unknown"]
        );
        assert_eq!(named(r#"{"name":"a\u0000","scopes":["owner"]}"#), ["/name invalid", "/scopes invalid"]);
        assert_eq!(named(r#"{"name":null,"scopes":[]}"#), ["/name invalid", "/scopes invalid"]);
    }
}
