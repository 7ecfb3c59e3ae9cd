//! Who may call: API keys by `Authorization: Bearer`, with the scope that the handler's extractor names.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::future::LocalBoxFuture;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::problem::{ApiError, ApiResult, Code};
use super::state::Worker;
use crate::config::Auth;
use crate::domain::ApiKey;

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
    type Future = LocalBoxFuture<'static, ApiResult<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let worker =
                request.app_data::<web::Data<Worker>>().ok_or_else(|| ApiError::internal("the worker has no state"))?;
            if worker.shared.settings.auth == Auth::Off {
                return Ok(Self { key_prefix: String::new(), scope: PhantomData });
            }
            let key = bearer(&request)?;
            let scopes = worker.shared.keys.scopes_of(worker, &key).await?.ok_or_else(|| unauthorized(true))?;
            if !scopes.iter().any(|scope| scope == S::NAME) {
                let challenge =
                    format!("Bearer realm=\"platform\", error=\"insufficient_scope\", scope=\"{}\"", S::NAME);
                return Err(ApiError::new(Code::Forbidden, format!("the key lacks the scope {:?}", S::NAME))
                    .header(header::WWW_AUTHENTICATE, challenge));
            }
            Ok(Self { key_prefix: key.prefix().to_owned(), scope: PhantomData })
        })
    }
}

fn bearer(request: &HttpRequest) -> ApiResult<ApiKey> {
    let value = request.headers().get(header::AUTHORIZATION).ok_or_else(|| unauthorized(false))?;
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

#[derive(Debug, Clone)]
struct Stored {
    sha256: Vec<u8>,
    scopes: Vec<String>,
}

/// Keys looked up lately, by prefix; `None` is a prefix that does not exist.
#[derive(Debug, Default)]
pub(super) struct KeyCache(Mutex<HashMap<String, (Instant, Option<Stored>)>>);

impl KeyCache {
    /// The scopes of a key, or `None` when it is not valid.
    ///
    /// # Errors
    /// 503 when PostgreSQL cannot be asked.
    async fn scopes_of(&self, worker: &Worker, key: &ApiKey) -> ApiResult<Option<Vec<String>>> {
        let stored = match self.remembered(key.prefix()) {
            Some(stored) => stored,
            None => {
                let stored = worker.limited(look_up(worker, key.prefix())).await?;
                self.remember(key.prefix(), stored.clone());
                stored
            }
        };
        // The comparison's time does not tell how much of a guess is right.
        let hash = key.sha256();
        Ok(stored.filter(|stored| bool::from(stored.sha256.as_slice().ct_eq(&hash))).map(|stored| stored.scopes))
    }

    fn remembered(&self, prefix: &str) -> Option<Option<Stored>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(prefix).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, stored)| stored.clone())
    }

    fn remember(&self, prefix: &str, stored: Option<Stored>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(prefix.to_owned(), (Instant::now(), stored));
    }
}

async fn look_up(worker: &Worker, prefix: &str) -> ApiResult<Option<Stored>> {
    let client = worker.postgres().await?;
    let sql = "select sha256, scopes from platform.api_keys \
               where prefix = $1 and revoked_at is null and (expires_at is null or expires_at > now())";
    let statement = client.prepare_cached(sql).await?;
    let row = client.query_opt(&statement, &[&prefix]).await?;
    row.map(|row| Ok(Stored { sha256: row.try_get(0)?, scopes: row.try_get(1)? })).transpose()
}
