//! The snapshot that a load reads: opened only when no transaction of the marker's time is left.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config;
use crate::domain::{Failure, Lsn};
use crate::store::{postgres, replication};

/// An exported snapshot, alive as long as its transaction.
#[derive(Debug)]
pub(in crate::batch) struct Snapshot {
    holder: Client,
    /// Name to import it by.
    pub(in crate::batch) name: String,
    /// Position of the log when it was open: once the watermark has passed it, nothing that the snapshot saw is missing.
    pub(in crate::batch) lsn: Lsn,
}

/// Commits the marker, waits for the transactions of its time, opens the snapshot.
pub(in crate::batch) async fn open(
    client: &Client,
    settings: &config::Postgres,
    load: &config::Load,
    l0: Lsn,
) -> anyhow::Result<Snapshot> {
    let marker = serde_json::json!({ "l0": l0.to_string() }).to_string();
    replication::emit(client, replication::LOAD_PREFIX, &marker).await?;
    failpoint!("load.marker-written");
    wait_for_running(client, Duration::from_secs(load.wait_transactions_timeout_s)).await?;

    let holder = postgres::connect(settings, "platform load snapshot").await?;
    holder
        .batch_execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; begin isolation level repeatable read read only")
        .await
        .context("opening the snapshot")?;
    let row = holder.query_one("select pg_export_snapshot()", &[]).await.context("exporting the snapshot")?;
    let lsn = replication::insert_lsn(client).await?;
    Ok(Snapshot { name: row.try_get(0)?, lsn, holder })
}

impl Snapshot {
    /// Ends the transaction.
    pub(in crate::batch) async fn close(&self) -> anyhow::Result<()> {
        self.holder.batch_execute("commit").await.context("closing the snapshot")
    }
}

/// Waits until every transaction that ran after the marker's commit has ended, and says whom it waits for.
async fn wait_for_running(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let xmax = replication::snapshot_xmax(client).await?;
    let deadline = Instant::now() + limit;
    let mut said = Instant::now();
    let mut wait = Duration::from_millis(5);
    while !replication::all_ended_before(client, xmax).await? {
        let running = || async { replication::running(client).await };
        if Instant::now() >= deadline {
            let who = describe(&running().await?);
            let text = format!(
                "transactions that were running at the start have not ended within {} s: {who}",
                limit.as_secs()
            );
            return Err(Failure::Busy(text).into());
        }
        if said.elapsed() >= Duration::from_secs(2) {
            let waiting_for = describe(&running().await?);
            tracing::info!(waiting_for, "waiting for transactions that were running at the start");
            said = Instant::now();
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(250));
    }
    Ok(())
}

fn describe(running: &[replication::Running]) -> String {
    let who = |r: &replication::Running| format!("pid {} ({}, {:?}, {} s)", r.pid, r.user, r.application, r.age_s);
    let text = running.iter().map(who).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "a prepared or another database's transaction".to_owned() } else { text }
}
