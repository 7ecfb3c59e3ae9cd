//! `Idempotency-Key`: the answer to a POST is stored in the transaction of its write, so that a repeated request gets the
//! first answer and writes nothing.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use deadpool_postgres::GenericClient;
use sha2::{Digest as _, Sha256};

use super::problem::{ApiError, ApiResult, Code};

/// A key of one caller, with a digest of the request that it stands for.
#[derive(Debug)]
pub(super) struct IdempotencyKey {
    caller: String,
    key: String,
    request: Vec<u8>,
}

/// The answer that a key was given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers but for those that every answer has.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// Hours after which a key may be used anew.
const KEPT_HOURS: i32 = 24;
/// Rows removed at once by the clean-up.
const CLEAN_UP_ROWS: i64 = 1000;

impl IdempotencyKey {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    /// 400 when it is empty, longer than 255 characters or not printable ASCII.
    pub(super) fn of(request: &HttpRequest, caller: &str, body: &[u8]) -> ApiResult<Option<Self>> {
        let mut values = request.headers().get_all("idempotency-key");
        let Some(value) = values.next() else { return Ok(None) };
        let bad = || {
            ApiError::new(
                Code::InvalidHeader,
                "Idempotency-Key must be one value of 1 to 255 printable ASCII characters",
            )
        };
        let key = value.to_str().map_err(|_| bad())?.trim();
        if values.next().is_some() || key.is_empty() || key.len() > 255 {
            return Err(bad());
        }
        let mut hash = Sha256::new();
        let head = [request.method().as_str(), request.path(), request.query_string()].map(str::as_bytes);
        for part in head.into_iter().chain([body]) {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Ok(Some(Self { caller: caller.to_owned(), key: key.to_owned(), request: hash.finalize().to_vec() }))
    }

    /// Takes the key for this transaction and returns the answer it was given to before, if any.
    ///
    /// # Errors
    /// 409 while another request with the key runs, 422 when the key belongs to another request.
    pub(super) async fn begin(&self, transaction: &impl GenericClient) -> ApiResult<Option<Answer>> {
        let lock = transaction
            .prepare_cached("select pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 7))")
            .await?;
        let free: bool = transaction.query_one(&lock, &[&self.caller, &self.key]).await?.try_get(0)?;
        if !free {
            return Err(
                ApiError::new(Code::KeyInUse, "the first request with this key has not ended yet").retry_after(1)
            );
        }
        let find = transaction
            .prepare_cached(
                "select request_hash, status, headers::text, body from platform.idempotency_keys \
                 where key_prefix = $1 and key = $2 and created_at > now() - make_interval(hours => $3)",
            )
            .await?;
        let Some(row) = transaction.query_opt(&find, &[&self.caller, &self.key, &KEPT_HOURS]).await? else {
            return Ok(None);
        };
        if row.try_get::<_, Vec<u8>>(0)? != self.request {
            return Err(ApiError::new(Code::KeyReused, "the first request with this key was another one"));
        }
        let status = u16::try_from(row.try_get::<_, i32>(1)?)?;
        Ok(Some(Answer {
            status: StatusCode::from_u16(status).map_err(ApiError::internal)?,
            headers: serde_json::from_str(&row.try_get::<_, String>(2)?).map_err(ApiError::internal)?,
            body: Bytes::from(row.try_get::<_, Vec<u8>>(3)?),
        }))
    }

    /// Stores the answer, in the same transaction.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub(super) async fn finish(&self, transaction: &impl GenericClient, answer: &Answer) -> ApiResult<()> {
        let headers = serde_json::to_string(&answer.headers).map_err(ApiError::internal)?;
        let store = transaction
            .prepare_cached(
                "insert into platform.idempotency_keys (key_prefix, key, request_hash, status, headers, body) \
                 values ($1, $2, $3, $4, $5::text::jsonb, $6) \
                 on conflict (key_prefix, key) do update set request_hash = excluded.request_hash, \
                 status = excluded.status, headers = excluded.headers, body = excluded.body, created_at = now()",
            )
            .await?;
        let status = i32::from(answer.status.as_u16());
        transaction
            .execute(&store, &[&self.caller, &self.key, &self.request, &status, &headers, &answer.body.as_ref()])
            .await?;
        Ok(())
    }
}

/// Removes keys that may be used anew, some at a time; returns how many.
///
/// # Errors
/// PostgreSQL's.
pub(super) async fn clean_up(client: &tokio_postgres::Client) -> Result<u64, tokio_postgres::Error> {
    let sql = "delete from platform.idempotency_keys where ctid = any(array( \
               select ctid from platform.idempotency_keys where created_at < now() - make_interval(hours => $1) limit $2))";
    client.execute(sql, &[&KEPT_HOURS, &CLEAN_UP_ROWS]).await
}
