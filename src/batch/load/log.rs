//! The log that a load stands in: its number, its slot, and the connector's place in it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::domain::{Failure, Lsn};
use crate::store::checkpoint;
use crate::store::clickhouse::ClickHouse;
use crate::store::connect::Connect;
use crate::store::mirror::{self, Log};
use crate::store::replication::{self, Slot};
use crate::store::{connector_config, kafka};

/// How long a stopped connector may take to let go of its slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a load stands in.
pub(super) struct Prepared {
    pub(super) log: Log,
    /// The slot is new, and the connector begins at it: nothing connects what it sends with what was sent before. Its first
    /// event does not know the commit before it, and every table must be loaded.
    pub(super) begins_anew: bool,
}

/// Makes sure of the topic, the slot and the log's number. `all`: every table is loaded, so that the log may begin anew.
///
/// # Errors
/// `Failure::Config` when the log would begin anew and not every table is loaded; `Failure::Unavailable` when a part does not
/// answer, `Failure::Busy` when somebody holds the slot.
pub(super) async fn prepare(
    settings: &Settings,
    client: &Client,
    clickhouse: &ClickHouse,
    all: bool,
) -> anyhow::Result<Prepared> {
    let pipeline = &settings.sink.pipeline;
    kafka::ensure_topic(&settings.kafka, &settings.sink.topic).await?;
    let newest =
        mirror::newest_log(clickhouse).await.context("reading the log's number; run `platform migrate` first")?;
    let checkpoint = checkpoint::latest(clickhouse, pipeline).await?;
    let connect = Connect::new(&settings.connect).ok();
    let before = replication::source_state(client, pipeline).await?;
    let offset = match &connect {
        Some(connect) => connect.offset(pipeline).await.ok(),
        None => None,
    };
    // Whatever made it forget, or whoever: an earlier load may have ended before it was done.
    let is_forgetful = offset == Some(None);
    let offset = offset.flatten();
    let state = before.seen_before_the_offset(replication::source_state(client, pipeline).await?);
    let applied = checkpoint.filter(|checkpoint| newest.as_ref().is_some_and(|log| log.number == checkpoint.log));
    let watermark = applied.map_or(Lsn::ZERO, |checkpoint| checkpoint.watermark);
    let Some(broken) = newest.as_ref().and_then(|log| state.broken(&log.identity, watermark, offset)) else {
        if let Some(log) = newest {
            let begins_anew = all && is_forgetful;
            if begins_anew {
                begin_at_slot(client, connect.as_ref(), pipeline).await?;
            }
            return Ok(Prepared { log, begins_anew });
        }
        // The first load. A slot that was made beforehand may have been streamed from since.
        if matches!(state.slot, Slot::Missing | Slot::Lost) {
            if !all {
                let text = "nothing was loaded yet: every table must be; run `platform load` without names";
                return Err(Failure::Config(text.into()).into());
            }
            // Connect may come up later; then there is nothing to forget.
            let connect = connect.as_ref().filter(|_| offset.is_some());
            make_slot(settings, client, connect, state.slot).await?;
        }
        let log = Log { number: 1, identity: state.identity, first_load: Lsn::ZERO };
        return Ok(Prepared { log, begins_anew: true });
    };
    if !all {
        let text = format!("{broken}: every table must be loaded; run `platform load` without names");
        return Err(Failure::Config(text).into());
    }
    tracing::warn!(reason = %broken, "the log begins anew");
    make_slot(settings, client, connect.as_ref(), state.slot).await?;
    let log = match newest {
        Some(log) if log.identity == state.identity && state.position >= watermark => log,
        previous => {
            let number =
                previous.map_or(Some(1), |log| log.number.checked_add(1)).context("65,535 logs are used up")?;
            Log { number, identity: state.identity, first_load: Lsn::ZERO }
        }
    };
    Ok(Prepared { log, begins_anew: true })
}

/// Makes the slot anew, and lets the connector forget where it stood: with offsets of an earlier slot its task would fail, or
/// PostgreSQL would skip what lies between. The connector comes first: a task that still runs would stream from the new slot
/// at its old place, or remember that place once more.
async fn make_slot(settings: &Settings, client: &Client, connect: Option<&Connect>, slot: Slot) -> anyhow::Result<()> {
    let pipeline = &settings.sink.pipeline;
    if let Some(connect) = connect {
        let placeholder = connector_config::placeholder(client, pipeline).await?;
        let config = connector_config::build(settings, &placeholder)?;
        let forgotten = connect.forget_offsets(pipeline, &config).await;
        forgotten.map_err(|error| Failure::from(&error)).context("resetting the connector's offsets")?;
    }
    if slot != Slot::Missing {
        drop_slot(client, pipeline).await?;
    }
    replication::create_slot(client, pipeline).await?;
    failpoint!("load.slot-made");
    tracing::info!(slot = pipeline, "replication slot made");
    begin_at_slot(client, connect, pipeline).await?;
    failpoint!("load.connector-goes-on");
    Ok(())
}

/// Sees to it that a connector which remembers nothing begins at the slot, and that its first transaction, the one that does
/// not know the commit before it, is older than L0.
async fn begin_at_slot(client: &Client, connect: Option<&Connect>, pipeline: &str) -> anyhow::Result<()> {
    replication::emit(client, replication::BARRIER_PREFIX, "").await?;
    let Some(connect) = connect else { return Ok(()) };
    let resumed = connect.resume_forgetful(pipeline).await;
    resumed.map_err(|error| Failure::from(&error).into())
}

async fn drop_slot(client: &Client, slot: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
    loop {
        match client.execute(sql, &[&slot]).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE) => {
                if Instant::now() >= deadline {
                    let text = format!("somebody streams from the replication slot {slot}; stop the connector first");
                    return Err(Failure::Busy(text).into());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(anyhow::Error::from(error).context("dropping the replication slot")),
        }
    }
}

/// Remembers up to where events may lack the commit before them: they are in the snapshot of this load.
pub(super) async fn remember_first_load(clickhouse: &ClickHouse, log: &Log, l0: Lsn) -> anyhow::Result<Log> {
    let log = Log { first_load: l0, ..log.clone() };
    mirror::store_log(clickhouse, &log).await.context("remembering the log")?;
    failpoint!("load.log-stored");
    Ok(log)
}
