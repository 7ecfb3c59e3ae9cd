//! What the log needs from PostgreSQL: positions, the slot, messages, the identity, and who is still running.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::domain::Lsn;

/// Prefix of the message that a load commits before its snapshot.
pub const LOAD_PREFIX: &str = "platform.load";
/// Prefix of the message that moves an idle stream past a position.
pub const BARRIER_PREFIX: &str = "platform.barrier";

/// How long to wait until transactions are visible. A commit is streamed once it is flushed, and visible a moment later; with a
/// synchronous standby, when that has confirmed it.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which log a position belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// `pg_control_system().system_identifier`: one a cluster.
    pub system_identifier: String,
    /// Rises with each promotion and point-in-time recovery.
    pub timeline: u32,
}

/// What the database says of the log and of a pipeline's slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// Which log it writes.
    pub identity: LogIdentity,
    /// End of the write-ahead log.
    pub position: Lsn,
    /// The slot that keeps what was not sent yet.
    pub slot: Slot,
}

/// A replication slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// There is none, or it belongs to another database or plugin.
    Missing,
    /// It is there, but PostgreSQL has removed the log that it needs.
    Lost,
    /// It has its log.
    Kept {
        /// Whether somebody streams from it: nobody else can move it meanwhile.
        active: bool,
        /// Every commit below was confirmed, and is not sent again.
        confirmed: Lsn,
        /// Bytes of log that it keeps from being removed.
        retained_bytes: u64,
    },
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
    let sql = format!("select {IDENTITY}");
    let row = client.query_one(&sql, &[]).await.context("reading the database's identity")?;
    identity_of(&row)
}

/// Why what a database sends next does not follow what was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// Another cluster, or another timeline.
    #[error("the database is another one, or was restored or promoted")]
    OtherLog,
    /// The log ends before what was applied.
    #[error("the database was restored to an earlier point")]
    WentBack,
    /// There is no slot.
    #[error("the replication slot is gone")]
    SlotMissing,
    /// The slot's log was removed.
    #[error("the replication slot has lost its log")]
    SlotLost,
    /// The slot or the connector stands beyond the log's end: PostgreSQL would skip what is written up to there.
    #[error("the replication slot or the connector stands beyond the log's end")]
    Ahead {
        /// Where it stands.
        ahead: Lsn,
    },
    /// The slot begins after what the connector has sent.
    #[error("the replication slot was moved")]
    SlotMoved {
        /// What the slot does not send again.
        confirmed: Lsn,
        /// What the connector has remembered.
        offset: Lsn,
    },
}

impl SourceState {
    /// What may be judged beside an offset of the connector that was read after `self` and before `later`. A connector that
    /// streams goes on meanwhile: it confirms what it has remembered, so a slot seen before the offset is never ahead of it; and
    /// it remembers what it was sent, so the log seen after the offset has it.
    #[must_use]
    pub fn seen_before_the_offset(self, later: Self) -> Self {
        Self { slot: self.slot, ..later }
    }

    /// Whether it follows what was applied of the log `identity`, up to `watermark`. `offset`: up to where the connector has
    /// sent the log; it confirms to the slot only what it has remembered.
    pub fn broken(&self, identity: &LogIdentity, watermark: Lsn, offset: Option<Lsn>) -> Option<Break> {
        match (self.slot, offset) {
            _ if self.identity != *identity => Some(Break::OtherLog),
            _ if self.position < watermark => Some(Break::WentBack),
            (Slot::Missing, _) => Some(Break::SlotMissing),
            (Slot::Lost, _) => Some(Break::SlotLost),
            (Slot::Kept { confirmed, .. }, _) if confirmed > self.position => Some(Break::Ahead { ahead: confirmed }),
            (Slot::Kept { .. }, Some(offset)) if offset > self.position => Some(Break::Ahead { ahead: offset }),
            (Slot::Kept { confirmed, .. }, Some(offset)) if confirmed > offset => {
                Some(Break::SlotMoved { confirmed, offset })
            }
            (Slot::Kept { .. }, _) => None,
        }
    }
}

/// The system identifier and the timeline that is written now. The control file tells the timeline of the last checkpoint,
/// which is the old one for a moment after a promotion; a standby has no other.
const IDENTITY: &str = "(select system_identifier::text from pg_control_system()), \
    case when pg_is_in_recovery() then (select timeline_id::bigint from pg_control_checkpoint()) \
         else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint end";

fn identity_of(row: &tokio_postgres::Row) -> anyhow::Result<LogIdentity> {
    Ok(LogIdentity { system_identifier: row.try_get(0)?, timeline: u32::try_from(row.try_get::<_, i64>(1)?)? })
}

/// What the log and the slot of a pipeline are now.
///
/// # Errors
/// PostgreSQL's; among them that it is a standby, which has no log of its own.
pub async fn source_state(client: &Client, slot: &str) -> anyhow::Result<SourceState> {
    let sql = format!(
        "select {IDENTITY}, pg_current_wal_insert_lsn()::text, s.slot_name is not null, coalesce(s.wal_status, ''), \
                coalesce(s.active, false), coalesce(s.confirmed_flush_lsn, '0/0')::text, \
                greatest(pg_current_wal_lsn() - s.restart_lsn, 0)::bigint \
         from (select) as one left join pg_replication_slots s \
              on s.slot_name = $1 and s.plugin = 'pgoutput' and s.database = current_database()"
    );
    let row = client.query_one(&sql, &[&slot]).await.context("looking at the log and the slot")?;
    let (there, wal_status): (bool, String) = (row.try_get(3)?, row.try_get(4)?);
    let slot = match (there, wal_status.as_str()) {
        (false, _) => Slot::Missing,
        (true, "lost") => Slot::Lost,
        (true, _) => Slot::Kept {
            active: row.try_get(5)?,
            confirmed: row.try_get::<_, String>(6)?.parse()?,
            retained_bytes: u64::try_from(row.try_get::<_, Option<i64>>(7)?.unwrap_or(0))?,
        },
    };
    Ok(SourceState { identity: identity_of(&row)?, position: row.try_get::<_, String>(2)?.parse()?, slot })
}

/// The slot of a pipeline, for roles that may not ask who the database is.
///
/// # Errors
/// PostgreSQL's.
pub async fn slot(client: &Client, slot: &str) -> anyhow::Result<Slot> {
    let sql = "select coalesce(wal_status, ''), active, coalesce(confirmed_flush_lsn, '0/0')::text, \
                      greatest(pg_current_wal_lsn() - restart_lsn, 0)::bigint \
               from pg_replication_slots where slot_name = $1 and plugin = 'pgoutput' and database = current_database()";
    let Some(row) = client.query_opt(sql, &[&slot]).await.context("looking at the slot")? else {
        return Ok(Slot::Missing);
    };
    if row.try_get::<_, String>(0)? == "lost" {
        return Ok(Slot::Lost);
    }
    Ok(Slot::Kept {
        active: row.try_get(1)?,
        confirmed: row.try_get::<_, String>(2)?.parse()?,
        retained_bytes: u64::try_from(row.try_get::<_, Option<i64>>(3)?.unwrap_or(0))?,
    })
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

/// Whether a statement that begins now sees what these transactions (32-bit numbers of recent ones) have written.
///
/// # Errors
/// PostgreSQL's.
async fn are_visible(client: &Client, transactions: &BTreeSet<u32>) -> anyhow::Result<bool> {
    if transactions.is_empty() {
        return Ok(true);
    }
    let xmax = snapshot_xmax(client).await?;
    let whole: Vec<String> =
        transactions.iter().filter_map(|number| whole_number(*number, xmax)).map(|number| number.to_string()).collect();
    let sql = "select coalesce(bool_and(pg_visible_in_snapshot(number::xid8, pg_current_snapshot())), true) \
               from unnest($1::text[]) number";
    let row = client.query_one(sql, &[&whole]).await.context("asking whether transactions are visible")?;
    Ok(row.try_get(0)?)
}

/// Waits until a statement sees what these transactions have written: an event may come before its own commit is visible.
///
/// # Errors
/// PostgreSQL's; that they are not visible after five seconds.
pub async fn until_visible(client: &Client, transactions: &BTreeSet<u32>) -> anyhow::Result<()> {
    let deadline = Instant::now() + VISIBLE_TIMEOUT;
    while !are_visible(client, transactions).await? {
        let late = "an event's transaction is not visible yet: a synchronous standby may not have confirmed it";
        anyhow::ensure!(Instant::now() < deadline, late);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The process that streams from a slot.
///
/// # Errors
/// PostgreSQL's.
pub async fn slot_pid(client: &Client, slot: &str) -> anyhow::Result<Option<i32>> {
    let sql = "select active_pid from pg_replication_slots where slot_name = $1";
    let row = client.query_opt(sql, &[&slot]).await.context("asking who streams from the slot")?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
}

/// The 64-bit number of a transaction within 2^31 of `near`, as PostgreSQL compares them.
fn whole_number(number: u32, near: u64) -> Option<u64> {
    let low = u32::try_from(near & u64::from(u32::MAX)).ok()?;
    near.checked_add_signed(i32::from_ne_bytes(number.wrapping_sub(low).to_ne_bytes()).into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_get_the_epoch_that_is_nearest() {
        let wrap = 1u64 << 32;
        for (number, near, whole) in [
            (700, 703, Some(700)),
            (705, 703, Some(705)),
            (u32::MAX, wrap + 2, Some(wrap - 1)),
            (3, wrap - 1, Some(wrap + 3)),
            (3, 3 * wrap + 10, Some(3 * wrap + 3)),
            (u32::MAX, 2, None),
        ] {
            assert_eq!(whole_number(number, near), whole, "{number} near {near}");
        }
    }
}
