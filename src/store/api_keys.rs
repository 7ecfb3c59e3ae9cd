//! API keys in PostgreSQL: what `platform keys` and the API do with them. The keys themselves are never stored.

use chrono::{DateTime, Utc};
use rand::Rng as _;
use tokio_postgres::{Client, GenericClient, Row};

use crate::domain::ApiKey;

type DriverResult<T> = Result<T, tokio_postgres::Error>;

/// What a key may have been given, in the order of the database's check.
pub const SCOPES: [&str; 3] = ["read", "write", "admin"];
/// Most characters of a key's name.
pub const NAME_CHARS_MAX: usize = 200;

const COLUMNS: &str = "prefix, label, scopes, rate_limit, created_at, created_by, expires_at, revoked_at";

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The 8 digits behind `pk_`, which name it.
    pub prefix: String,
    /// Name, for people.
    pub name: String,
    /// Some of `SCOPES`.
    pub scopes: Vec<String>,
    /// Requests per `api.rate_limit_window_s`, instead of `api.rate_limit_requests`.
    pub rate_limit: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// By whom.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What a new key shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewKey {
    /// Name, for people.
    pub name: String,
    /// Some of `SCOPES`, each once.
    pub scopes: Vec<String>,
    /// See `StoredKey`.
    pub rate_limit: Option<i32>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a caller's key is checked against.
#[derive(Debug)]
pub struct ValidKey {
    /// Of the whole key.
    pub sha256: Vec<u8>,
    /// Some of `SCOPES`.
    pub scopes: Vec<String>,
    /// See `StoredKey`.
    pub rate_limit: Option<u32>,
}

/// The key with this prefix, if it is neither expired nor revoked.
///
/// # Errors
/// PostgreSQL's.
pub async fn find_valid(client: &Client, prefix: &str) -> DriverResult<Option<ValidKey>> {
    let sql = "select sha256, scopes, rate_limit from platform.api_keys \
               where prefix = $1 and revoked_at is null and (expires_at is null or expires_at > now())";
    let row = client.query_typed_opt(sql, &[(&prefix, tokio_postgres::types::Type::TEXT)]).await?;
    row.map(|row| {
        let rate_limit: Option<i32> = row.try_get(2)?;
        let rate_limit = rate_limit.and_then(|requests| u32::try_from(requests).ok());
        Ok(ValidKey { sha256: row.try_get(0)?, scopes: row.try_get(1)?, rate_limit })
    })
    .transpose()
}

/// Makes a key and stores what must be known of it. The key is returned here and never again.
///
/// # Errors
/// PostgreSQL's.
pub async fn create(client: &impl GenericClient, new: &NewKey, by: &str) -> DriverResult<(ApiKey, StoredKey)> {
    let mut rng = rand::rng();
    let (mut prefix, mut secret) = ([0; 4], [0; 32]);
    rng.fill_bytes(&mut prefix);
    rng.fill_bytes(&mut secret);
    let key = ApiKey::from_random(prefix, secret);
    let sql = format!(
        "insert into platform.api_keys (prefix, sha256, scopes, label, expires_at, rate_limit, created_by) \
         values ($1, $2, $3, $4, $5, $6, $7) returning {COLUMNS}"
    );
    let (prefix, sha256) = (key.prefix(), key.sha256());
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&prefix, &sha256.as_slice(), &new.scopes, &new.name, &new.expires_at, &new.rate_limit, &by];
    let row = client.query_one(&sql, &values).await?;
    Ok((key, stored(&row)?))
}

/// The newest keys behind `after` (moment of creation and prefix), at most `limit`; those that ended included.
///
/// # Errors
/// PostgreSQL's.
pub async fn list(
    client: &impl GenericClient,
    after: Option<&(DateTime<Utc>, String)>,
    limit: i64,
) -> DriverResult<Vec<StoredKey>> {
    let (moment, prefix) = after.cloned().unzip();
    let sql = format!(
        "select {COLUMNS} from platform.api_keys \
         where $1::timestamptz is null or (created_at, prefix) < ($1, $2::text) order by created_at desc, prefix desc limit $3"
    );
    client.query(&sql, &[&moment, &prefix, &limit]).await?.iter().map(stored).collect()
}

/// Revokes a key; false when there is none with this prefix that still stands.
///
/// # Errors
/// PostgreSQL's.
pub async fn revoke(client: &impl GenericClient, prefix: &str) -> DriverResult<bool> {
    let sql = "update platform.api_keys set revoked_at = now() where prefix = $1 and revoked_at is null";
    Ok(client.execute(sql, &[&prefix]).await? == 1)
}

fn stored(row: &Row) -> DriverResult<StoredKey> {
    Ok(StoredKey {
        prefix: row.try_get(0)?,
        name: row.try_get(1)?,
        scopes: row.try_get(2)?,
        rate_limit: row.try_get(3)?,
        created_at: row.try_get(4)?,
        created_by: row.try_get(5)?,
        expires_at: row.try_get(6)?,
        revoked_at: row.try_get(7)?,
    })
}
