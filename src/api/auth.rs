//! Who may call: API keys by `Authorization: Bearer`, with the scope that the handler's extractor names.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::context;
use super::problem::{ApiError, ApiResult, Code};
use super::rate_limit::Bucket;
use super::state::Worker;
use crate::config::Auth;
use crate::domain::ApiKey;
use crate::store::api_keys;

/// What a handler needs. Scopes do not include one another: a key that may write and read has both.
pub(super) trait Scope {
    /// The scope's name in `platform.api_keys`.
    const NAME: &'static str;
}

macro_rules! scopes {
    ($($name:ident $text:literal $doc:literal),+) => {
        $(#[doc = $doc]
        #[derive(Debug)]
        pub(super) struct $name;
        impl Scope for $name { const NAME: &'static str = $text; })+
    };
}

scopes!(Read "read" "Reading.", Write "write" "Changing data.", Admin "admin" "Keys and the pipeline.");

/// A caller whose key has the scope `S`.
#[derive(Debug)]
pub(super) struct Caller<S: Scope> {
    /// Prefix of the key, empty when `api.auth` is off: whose idempotency keys these are.
    pub key_prefix: String,
    scope: PhantomData<S>,
}

impl<S: Scope> FromRequest for Caller<S> {
    type Error = ApiError;
    type Future = Either<Ready<ApiResult<Self>>, LocalBoxFuture<'static, ApiResult<Self>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // A key that was looked up lately is judged at once; only the others wait for PostgreSQL.
        let known = known(request);
        match known {
            Ok(Known::Nobody) => Either::Left(ready(Ok(Self { key_prefix: String::new(), scope: PhantomData }))),
            Ok(Known::Key(key, stored)) => Either::Left(ready(admit(request, &key, stored.as_deref()))),
            Ok(Known::Unknown(key)) => {
                let request = request.clone();
                Either::Right(Box::pin(async move {
                    let stored = worker(&request)?.look_up_key(key.prefix()).await?;
                    admit(&request, &key, stored.as_deref())
                }))
            }
            Err(error) => Either::Left(ready(Err(error))),
        }
    }
}

enum Known {
    /// `api.auth` is off.
    Nobody,
    /// Looked up lately; `None` is a prefix that does not exist.
    Key(ApiKey, Option<Rc<Stored>>),
    Unknown(ApiKey),
}

fn worker(request: &HttpRequest) -> ApiResult<&web::Data<Worker>> {
    request.app_data::<web::Data<Worker>>().ok_or_else(|| ApiError::internal("the worker has no state"))
}

fn known(request: &HttpRequest) -> ApiResult<Known> {
    let worker = worker(request)?;
    if worker.shared.settings.auth == Auth::Off {
        return Ok(Known::Nobody);
    }
    let key = bearer(request)?;
    Ok(match worker.keys.remembered(key.prefix()) {
        Some(stored) => Known::Key(key, stored),
        None => Known::Unknown(key),
    })
}

/// Judges a key: is it the stored one, is it within its rate limit, has it the scope?
fn admit<S: Scope>(request: &HttpRequest, key: &ApiKey, stored: Option<&Stored>) -> ApiResult<Caller<S>> {
    // The comparison's time does not tell how much of a guess is right.
    let stored = stored
        .filter(|stored| bool::from(stored.sha256.as_slice().ct_eq(&key.sha256())))
        .ok_or_else(|| unauthorized(true))?;
    if let Some(bucket) = &stored.bucket {
        let (standing, outcome) = worker(request)?.shared.buckets.take(bucket);
        context::set_standing(standing);
        outcome.map_err(|exhausted| {
            ApiError::new(Code::RateLimited, "the key has made too many requests").retry_after(exhausted.retry_after_s)
        })?;
    }
    if !stored.scopes.iter().any(|scope| scope == S::NAME) {
        let challenge = format!("Bearer realm=\"platform\", error=\"insufficient_scope\", scope=\"{}\"", S::NAME);
        return Err(ApiError::new(Code::Forbidden, format!("the key lacks the scope {:?}", S::NAME))
            .header(header::WWW_AUTHENTICATE, challenge));
    }
    Ok(Caller { key_prefix: key.prefix().to_owned(), scope: PhantomData })
}

fn bearer(request: &HttpRequest) -> ApiResult<ApiKey> {
    let mut values = request.headers().get_all(header::AUTHORIZATION);
    let value = values.next().ok_or_else(|| unauthorized(false))?;
    if values.next().is_some() {
        return Err(unauthorized(true));
    }
    let (scheme, key) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(|| unauthorized(true))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized(true));
    }
    ApiKey::parse(key.trim()).map_err(|_| unauthorized(true))
}

/// The same answer for a malformed, unknown, expired and revoked key.
fn unauthorized(given: bool) -> ApiError {
    let (detail, challenge) = match given {
        true => ("the API key is not valid", "Bearer realm=\"platform\", error=\"invalid_token\""),
        false => ("the request has no API key", "Bearer realm=\"platform\""),
    };
    ApiError::new(Code::Unauthorized, detail).header(header::WWW_AUTHENTICATE, challenge)
}

/// How long a look-up is believed: a revoked key works at most so long.
const BELIEVED: Duration = Duration::from_secs(5);
/// Look-ups remembered at most, unknown prefixes included.
const REMEMBERED_MAX: usize = 1024;

/// What is stored about a key.
#[derive(Debug)]
pub(super) struct Stored {
    sha256: Vec<u8>,
    scopes: Vec<String>,
    bucket: Option<Arc<Bucket>>,
}

/// A look-up: when, and what was found.
type LookUp = (Instant, Option<Rc<Stored>>);

/// Keys that a worker has looked up lately, by prefix; `None` is a prefix that does not exist. Each worker has its own, so
/// that requests meet no lock.
#[derive(Debug, Default)]
pub(super) struct KeyCache(RefCell<HashMap<String, LookUp>>);

impl KeyCache {
    fn remembered(&self, prefix: &str) -> Option<Option<Rc<Stored>>> {
        let known = self.0.borrow();
        known.get(prefix).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, stored)| stored.clone())
    }

    fn remember(&self, prefix: &str, stored: Option<Rc<Stored>>) {
        let mut known = self.0.borrow_mut();
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(prefix.to_owned(), (Instant::now(), stored));
    }
}

impl Worker {
    /// Asks PostgreSQL for a key and remembers the answer.
    async fn look_up_key(&self, prefix: &str) -> ApiResult<Option<Rc<Stored>>> {
        let found = self.query(async |client| Ok(api_keys::find_valid(client, prefix).await?)).await?;
        let stored = found.map(|found| {
            let bucket = self.shared.buckets.of(prefix, found.rate_limit);
            Rc::new(Stored { sha256: found.sha256, scopes: found.scopes, bucket })
        });
        self.keys.remember(prefix, stored.clone());
        Ok(stored)
    }
}
