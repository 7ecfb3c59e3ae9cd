//! Whether the database, the slot and the connector still continue what was applied. What does not is seen here before an
//! event tells it, or when no event comes at all.

use metrics::gauge;

use super::halt::Halt;
use crate::config::Settings;
use crate::domain::Lsn;
use crate::store::connect::Connect;
use crate::store::mirror::Log;
use crate::store::replication::{self, Break, Slot, SourceState};

/// What a look has found.
#[derive(Debug)]
pub(super) struct Look {
    /// Why not to go on; `None`: nothing speaks against it.
    pub(super) halt: Option<Halt>,
    /// Bytes of the log that are not applied; 0 in a log that has just begun.
    pub(super) lag_bytes: u64,
    /// Bytes of the log that PostgreSQL keeps for the connector.
    pub(super) retained_bytes: u64,
}

/// Looks at PostgreSQL over the connection of the lease, and at Kafka Connect while nobody streams from the slot.
///
/// # Errors
/// PostgreSQL does not answer: nothing is known. A connector that cannot be asked is judged by its heartbeat alone.
pub(super) async fn check(
    settings: &Settings,
    client: &tokio_postgres::Client,
    log: &Log,
    watermark: Lsn,
) -> anyhow::Result<Look> {
    let pipeline = &settings.sink.pipeline;
    let mut state = replication::source_state(client, pipeline).await?;
    // A slot that is in use is moved by nobody else.
    let idle = matches!(state.slot, Slot::Kept { active: false, .. });
    let offset = match Connect::new(&settings.connect) {
        Ok(connect) if idle => connect.offset(pipeline).await.unwrap_or(None),
        _ => None,
    };
    if offset.is_some() {
        state = state.seen_before_the_offset(replication::source_state(client, pipeline).await?);
    }
    let retained_bytes = match state.slot {
        Slot::Kept { retained_bytes, .. } => retained_bytes,
        Slot::Missing | Slot::Lost => 0,
    };
    // Nothing is applied yet in a log that has just begun.
    let begun = watermark > Lsn::ZERO;
    let lag_bytes = if begun { state.position.get().saturating_sub(watermark.get()) } else { 0 };
    let look = Look { halt: judge(&state, log, watermark, offset), lag_bytes, retained_bytes };
    measure(&look);
    Ok(look)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
fn measure(look: &Look) {
    gauge!("platform_slot_retained_bytes").set(look.retained_bytes as f64);
    gauge!("platform_sink_lag_bytes").set(look.lag_bytes as f64);
}

/// The break as a reason to halt.
fn judge(state: &SourceState, log: &Log, watermark: Lsn, offset: Option<Lsn>) -> Option<Halt> {
    state.broken(&log.identity, watermark, offset).map(|broken| match broken {
        Break::OtherLog => Halt::LogChanged,
        Break::WentBack => Halt::LogWentBack { position: state.position, reached: watermark },
        Break::Ahead { ahead } => Halt::LogWentBack { position: state.position, reached: ahead },
        Break::SlotMissing | Break::SlotLost => Halt::SlotLost,
        Break::SlotMoved { confirmed, offset } => Halt::SlotMoved { confirmed, offset },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replication::LogIdentity;

    #[test]
    fn what_breaks_the_log_is_named() {
        let identity = |timeline| LogIdentity { system_identifier: "7".into(), timeline };
        let log = Log { number: 1, identity: identity(1), first_load: Lsn::ZERO };
        let kept = |confirmed| Slot::Kept { active: false, confirmed: Lsn::new(confirmed), retained_bytes: 0 };
        let state =
            |timeline, position, slot| SourceState { identity: identity(timeline), position: Lsn::new(position), slot };
        let judged = |state: &SourceState, offset: Option<u64>| {
            judge(state, &log, Lsn::new(50), offset.map(Lsn::new)).map(|halt| halt.name())
        };
        for (state, offset, expected) in [
            (state(1, 60, kept(40)), Some(40), None),
            (state(1, 50, kept(40)), None, None),
            (state(1, 60, kept(41)), Some(40), Some("slot-moved")),
            (state(1, 60, kept(61)), Some(70), Some("log-went-back")),
            (state(1, 60, kept(40)), Some(61), Some("log-went-back")),
            (state(1, 60, Slot::Missing), Some(40), Some("slot-lost")),
            (state(1, 60, Slot::Lost), None, Some("slot-lost")),
            (state(1, 49, kept(40)), Some(40), Some("log-went-back")),
            (state(2, 60, kept(40)), Some(40), Some("log-changed")),
        ] {
            assert_eq!(judged(&state, offset), expected, "{state:?}, {offset:?}");
        }
        // Between two looks the connector has gone on: it has sent up to 70, remembered 45, then 55, and confirmed that.
        let looks = (state(1, 60, kept(40)), state(1, 80, kept(55)));
        for offset in [45, 70] {
            assert_eq!(judged(&looks.0.clone().seen_before_the_offset(looks.1.clone()), Some(offset)), None);
        }
    }
}
