//! What the sinks of a pipeline say of themselves in PostgreSQL: the state, a pause, and who holds the lease.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Client;

/// What the sink of a pipeline was doing when that changed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SinkState {
    /// running, paused, waiting, halted or stopped.
    pub state: String,
    /// Name of the reason for `halted`.
    pub reason: Option<String>,
    /// What is wrong.
    pub detail: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Which process: `host:pid`.
    pub holder: String,
}

/// A pause that an operator has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// Since when.
    pub since: DateTime<Utc>,
    /// By whom.
    pub by: String,
}

/// Who holds the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Where it connects from; empty on a socket, or when this role may not see it.
    pub address: String,
    /// Process number of its session in PostgreSQL.
    pub backend_pid: i32,
    /// Since when, if this role may see it.
    pub since: Option<DateTime<Utc>>,
}

/// Remembers what the sink is doing.
///
/// # Errors
/// PostgreSQL's.
pub async fn record(client: &Client, pipeline: &str, state: &SinkState) -> anyhow::Result<()> {
    let sql = "insert into platform.sinks (pipeline, state, reason, detail, remedy, since, holder) \
               values ($1, $2, $3, $4, $5, $6, $7) on conflict (pipeline) do update set state = excluded.state, \
               reason = excluded.reason, detail = excluded.detail, remedy = excluded.remedy, since = excluded.since, \
               holder = excluded.holder";
    let SinkState { state, reason, detail, remedy, since, holder } = state;
    let recorded = client.execute(sql, &[&pipeline, state, reason, detail, remedy, since, holder]).await;
    recorded.context("recording the sink's state; was `platform migrate` run?").map(drop)
}

/// What a sink has said last.
///
/// # Errors
/// PostgreSQL's.
pub async fn state(client: &Client, pipeline: &str) -> anyhow::Result<Option<SinkState>> {
    let sql = "select state, reason, detail, remedy, since, holder from platform.sinks where pipeline = $1";
    let row = client.query_opt(sql, &[&pipeline]).await.context("reading the sink's state")?;
    row.map(|row| {
        Ok(SinkState {
            state: row.try_get(0)?,
            reason: row.try_get(1)?,
            detail: row.try_get(2)?,
            remedy: row.try_get(3)?,
            since: row.try_get(4)?,
            holder: row.try_get(5)?,
        })
    })
    .transpose()
}

/// The pause of a pipeline.
///
/// # Errors
/// PostgreSQL's.
pub async fn paused(client: &Client, pipeline: &str) -> anyhow::Result<Option<Paused>> {
    let sql =
        "select paused_at, coalesce(paused_by, '') from platform.pipelines where name = $1 and paused_at is not null";
    let row = client.query_opt(sql, &[&pipeline]).await.context("reading whether the pipeline is paused")?;
    row.map(|row| Ok(Paused { since: row.try_get(0)?, by: row.try_get(1)? })).transpose()
}

/// Pauses a pipeline for `by`, or ends its pause; returns whether that changed anything.
///
/// # Errors
/// PostgreSQL's.
pub async fn set_paused(client: &Client, pipeline: &str, by: Option<&str>) -> anyhow::Result<bool> {
    let changed = match by {
        Some(by) => {
            let sql =
                "update platform.pipelines set paused_at = now(), paused_by = $2 where name = $1 and paused_at is null";
            client.execute(sql, &[&pipeline, &by]).await
        }
        None => {
            let sql = "update platform.pipelines set paused_at = null, paused_by = null where name = $1 and paused_at is not null";
            client.execute(sql, &[&pipeline]).await
        }
    };
    Ok(changed.context("changing the pipeline's pause")? > 0)
}

/// Who holds the lease of a pipeline now.
///
/// # Errors
/// PostgreSQL's.
pub async fn holder(client: &Client, pipeline: &str) -> anyhow::Result<Option<Holder>> {
    let sql = "select coalesce(host(a.client_addr), ''), a.pid, a.backend_start from pg_locks l join pg_stat_activity a using (pid) \
               where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and l.mode = 'ExclusiveLock' \
               and l.database = (select oid from pg_database where datname = current_database()) \
               and ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('platform.sink.' || $1, 0)";
    let row = client.query_opt(sql, &[&pipeline]).await.context("looking for the holder of the lease")?;
    row.map(|row| Ok(Holder { address: row.try_get(0)?, backend_pid: row.try_get(1)?, since: row.try_get(2)? }))
        .transpose()
}

/// Says, for as long as `client` is connected, that a halted sink is there: it holds no lease, so that a load may mend it.
///
/// # Errors
/// PostgreSQL's.
pub async fn stand(client: &Client, pipeline: &str) -> anyhow::Result<()> {
    let sql = "select pg_try_advisory_lock_shared(hashtextextended('platform.sink.halted.' || $1, 0))";
    client.query_one(sql, &[&pipeline]).await.context("saying that a halted sink is there").map(drop)
}

/// Whether a halted sink is there.
///
/// # Errors
/// PostgreSQL's.
pub async fn stands(client: &Client, pipeline: &str) -> anyhow::Result<bool> {
    let sql = "select exists (select from pg_locks where locktype = 'advisory' and granted and objsubid = 1 \
               and database = (select oid from pg_database where datname = current_database()) \
               and ((classid::bigint << 32) | objid::bigint) = hashtextextended('platform.sink.halted.' || $1, 0))";
    Ok(client.query_one(sql, &[&pipeline]).await.context("looking for a halted sink")?.try_get(0)?)
}

/// This machine's name, for people.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// Longest wait until a halted sink that is serving a request gives the lease back.
pub const HALTED_LEASE_WAIT: Duration = Duration::from_secs(30);
