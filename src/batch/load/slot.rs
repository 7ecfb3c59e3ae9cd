//! Makes the replication slot, and makes the connector forget where it stood in an earlier one.

use anyhow::Context as _;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::domain::Failure;
use crate::store::connect::Connect;
use crate::store::{connector_config, replication};

/// Makes the slot. `is_first`: there never was another one.
///
/// Offsets of an earlier slot would make the connector's task fail, or skip. They are forgotten before the slot is there:
/// who comes after a crash sees no slot and begins here again. The connector stays stopped meanwhile, because it would make a
/// slot of its own.
pub(super) async fn make(settings: &Settings, client: &Client, is_first: bool) -> anyhow::Result<()> {
    let pipeline = &settings.sink.pipeline;
    let stopped = if is_first || settings.connect.url.is_empty() {
        None
    } else {
        let placeholder = connector_config::placeholder(client, pipeline).await?;
        let config = connector_config::build(settings, &placeholder)?;
        let connect = Connect::new(&settings.connect)?;
        let was_there = connect.stop_and_forget(pipeline, &config).await;
        let was_there =
            was_there.map_err(|error| Failure::from(&error)).context("resetting the connector's offsets")?;
        failpoint!("load.offsets-forgotten");
        Some((connect, was_there))
    };
    replication::create_slot(client, pipeline).await?;
    failpoint!("load.slot-made");
    tracing::info!(slot = pipeline, "replication slot made");
    if let Some((connect, was_there)) = stopped {
        let goes_on = if was_there { connect.resume(pipeline).await } else { connect.delete(pipeline).await.map(drop) };
        goes_on.map_err(|error| Failure::from(&error)).context("starting the connector again")?;
        failpoint!("load.connector-goes-on");
    }
    Ok(())
}

/// Starts the connector that a load has stopped which ended before it could. One that somebody stopped has offsets, and is
/// left alone.
pub(super) async fn finish(settings: &Settings) {
    let Ok(connect) = Connect::new(&settings.connect) else { return };
    let pipeline = &settings.sink.pipeline;
    let resumed = async {
        if connect.is_stopped_without_offsets(pipeline).await? {
            tracing::info!("the connector was left stopped by a load that did not end; it goes on");
            connect.resume(pipeline).await?;
        }
        Ok::<(), crate::store::connect::Error>(())
    };
    if let Err(error) = resumed.await {
        tracing::warn!(error = %error, "it is not known whether the connector was left stopped");
    }
}
