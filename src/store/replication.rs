//! What the log needs from PostgreSQL: positions, the slot, messages, the identity, and who is still running.

use anyhow::Context as _;
use tokio_postgres::Client;

use crate::domain::{Failure, Lsn};

/// Prefix of the message that a load commits before its snapshot.
pub const LOAD_PREFIX: &str = "platform.load";
/// Prefix of the message that moves an idle stream past a position.
pub const BARRIER_PREFIX: &str = "platform.barrier";

/// Which log a position belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// `pg_control_system().system_identifier`: one a cluster.
    pub system_identifier: String,
    /// Rises with each promotion and point-in-time recovery.
    pub timeline: u32,
}

/// A transaction that a load waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Backend's process id.
    pub pid: i32,
    /// Who runs it.
    pub user: String,
    /// `application_name`.
    pub application: String,
    /// Age in seconds.
    pub age_s: i64,
}

/// End of the write-ahead log.
///
/// # Errors
/// PostgreSQL's.
pub async fn insert_lsn(client: &Client) -> anyhow::Result<Lsn> {
    let row = client
        .query_one("select pg_current_wal_insert_lsn()::text", &[])
        .await
        .context("reading the log's position")?;
    Ok(row.try_get::<_, String>(0)?.parse()?)
}

/// Commits a transactional message, which arrives in the stream in its place. Returns the position read before it.
///
/// # Errors
/// PostgreSQL's.
pub async fn emit(client: &Client, prefix: &str, content: &str) -> anyhow::Result<Lsn> {
    let before = insert_lsn(client).await?;
    client
        .execute("select pg_logical_emit_message(true, $1, $2::text)", &[&prefix, &content])
        .await
        .context("writing a message to the log")?;
    Ok(before)
}

/// The database's log identity.
///
/// # Errors
/// PostgreSQL's.
pub async fn log_identity(client: &Client) -> anyhow::Result<LogIdentity> {
    let sql = "select (select system_identifier::text from pg_control_system()), \
               (select timeline_id::bigint from pg_control_checkpoint())";
    let row = client.query_one(sql, &[]).await.context("reading the database's identity")?;
    Ok(LogIdentity { system_identifier: row.try_get(0)?, timeline: u32::try_from(row.try_get::<_, i64>(1)?)? })
}

/// Whether the slot exists and still has its log.
///
/// # Errors
/// `Failure::Config` when the slot exists but has lost its log, or belongs to another database or plugin.
pub async fn slot_exists(client: &Client, slot: &str) -> anyhow::Result<bool> {
    let sql = "select coalesce(wal_status, '') from pg_replication_slots \
               where slot_name = $1 and plugin = 'pgoutput' and database = current_database()";
    let Some(row) = client.query_opt(sql, &[&slot]).await.context("looking for the replication slot")? else {
        return Ok(false);
    };
    if row.try_get::<_, String>(0)? == "lost" {
        let text = format!(
            "the replication slot {slot} has lost its log; run: select pg_drop_replication_slot('{slot}'), then `platform load`"
        );
        return Err(Failure::Config(text).into());
    }
    Ok(true)
}

/// Makes the slot. Waits until transactions that are running have ended.
///
/// # Errors
/// PostgreSQL's.
pub async fn create_slot(client: &Client, slot: &str) -> anyhow::Result<()> {
    let sql = "select pg_create_logical_replication_slot($1, 'pgoutput')";
    client.execute(sql, &[&slot]).await.context("making the replication slot (wal_level must be logical)").map(drop)
}

/// The first transaction id that had not begun.
///
/// # Errors
/// PostgreSQL's.
pub async fn snapshot_xmax(client: &Client) -> anyhow::Result<u64> {
    let row = client
        .query_one("select pg_snapshot_xmax(pg_current_snapshot())::text", &[])
        .await
        .context("reading the snapshot")?;
    Ok(row.try_get::<_, String>(0)?.parse()?)
}

/// Whether every transaction before `xid` has ended.
///
/// # Errors
/// PostgreSQL's.
pub async fn all_ended_before(client: &Client, xid: u64) -> anyhow::Result<bool> {
    let row = client
        .query_one("select pg_snapshot_xmin(pg_current_snapshot())::text", &[])
        .await
        .context("reading the snapshot")?;
    Ok(row.try_get::<_, String>(0)?.parse::<u64>()? >= xid)
}

/// Transactions that write, oldest first, without this session's.
///
/// # Errors
/// PostgreSQL's.
pub async fn running(client: &Client) -> anyhow::Result<Vec<Running>> {
    let sql = "select pid, coalesce(usename::text, ''), coalesce(application_name, ''), \
               extract(epoch from now() - xact_start)::bigint from pg_stat_activity \
               where backend_xid is not null and pid <> pg_backend_pid() order by xact_start limit 5";
    let rows = client.query(sql, &[]).await.context("looking for running transactions")?;
    rows.iter()
        .map(|row| {
            Ok(Running {
                pid: row.try_get(0)?,
                user: row.try_get(1)?,
                application: row.try_get(2)?,
                age_s: row.try_get(3)?,
            })
        })
        .collect()
}
