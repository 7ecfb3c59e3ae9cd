//! Advisory locks of PostgreSQL's sessions: they end with the connection, so that a killed holder holds nothing.

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

/// The number of the lock that `name` stands for.
pub fn key_of(name: &str) -> i64 {
    let hash = Sha256::digest(name.as_bytes());
    hash.iter().take(8).fold(0, |key, byte| (key << 8) | i64::from(*byte))
}

/// Takes the lock unless another session holds it.
///
/// # Errors
/// PostgreSQL's.
pub async fn try_lock(client: &Client, key: i64) -> anyhow::Result<bool> {
    let row = client.query_one("select pg_try_advisory_lock($1)", &[&key]).await.context("taking an advisory lock")?;
    Ok(row.try_get(0)?)
}

/// Whether this session still holds the lock.
///
/// # Errors
/// PostgreSQL's: the session has ended, and the lock with it.
pub async fn is_held(client: &Client, key: i64) -> anyhow::Result<bool> {
    let sql = "select exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted \
               and objsubid = 1 and ((classid::bigint << 32) | objid::bigint) = $1)";
    let row = client.query_one(sql, &[&key]).await.context("looking at an advisory lock")?;
    Ok(row.try_get(0)?)
}

/// Gives the lock back.
///
/// # Errors
/// PostgreSQL's.
pub async fn unlock(client: &Client, key: i64) -> anyhow::Result<()> {
    client.execute("select pg_advisory_unlock($1)", &[&key]).await.context("giving back an advisory lock").map(drop)
}
