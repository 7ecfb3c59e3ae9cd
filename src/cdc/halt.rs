//! Why a pipeline stops rather than guesses, each with a name that operators meet in logs, metrics and `/readyz`.

use super::envelope::EnvelopeError;
use crate::domain::Lsn;

/// A reason to halt. Nothing is skipped; the checkpoint stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A message that cannot be understood.
    #[error(
        "the message at offset {offset} cannot be used: {error}; find out who wrote it, and run `platform load` to go on behind it"
    )]
    Undecodable {
        /// Its offset in the topic.
        offset: i64,
        /// What is wrong with it.
        error: EnvelopeError,
    },
    /// The connector began anew without its offsets, after the first load.
    #[error(
        "the connector has lost its offsets: the event at offset {offset}, position {lsn}, does not know the commit before it; run `platform load`"
    )]
    SequenceRestarted {
        /// Its offset in the topic.
        offset: i64,
        /// Its position in the log.
        lsn: Lsn,
    },
    /// A value of the heartbeat's counter is missing: so are changes.
    #[error("the log has a hole: the heartbeat jumped from {last} to {seen} at offset {offset}; run `platform load`")]
    HeartbeatGap {
        /// The last value that was seen.
        last: i64,
        /// The value that came.
        seen: i64,
        /// Its offset in the topic.
        offset: i64,
    },
    /// The events come from another database or timeline than the mirror.
    #[error(
        "the database is another one, or was restored or promoted (system identifier or timeline differ); run `platform load`"
    )]
    LogChanged,
    /// The log ends before what was applied: the database is an earlier copy of itself.
    #[error(
        "the database was restored to an earlier point: its log ends at {position}, and changes up to {reached} were sent; run `platform load`"
    )]
    LogWentBack {
        /// End of the log.
        position: Lsn,
        /// Everything committed below was sent by the connector, applied, or both.
        reached: Lsn,
    },
    /// The slot is gone, or PostgreSQL has removed the log that it needs.
    #[error("the replication slot is gone or has lost its log, so changes are lost; run `platform load`")]
    SlotLost,
    /// The slot begins after what the connector has sent.
    #[error(
        "the replication slot was moved or made anew: it begins at {confirmed}, and the connector has sent the log up to {offset}; run `platform load`"
    )]
    SlotMoved {
        /// What the slot does not send again.
        confirmed: Lsn,
        /// What the connector has remembered.
        offset: Lsn,
    },
    /// The topic does not hold the next offset any more.
    #[error("offset {0} is not in the topic any more: changes are lost; run `platform load`")]
    OffsetOutOfRange(i64),
    /// The topic is not the one that was read before.
    #[error(
        "the record before offset {0} is not the one that was applied: the topic was made anew; run `platform load`"
    )]
    TopicRecreated(i64),
    /// The topic has no total order, or markers of transactions.
    #[error(
        "the topic cannot be followed: {0}; make it anew with one partition and without transactions, then run `platform load`"
    )]
    Topic(String),
    /// The connector's settings give its messages another meaning.
    #[error("the connector's messages cannot be used: {0}")]
    Connector(String),
    /// ClickHouse refuses what waiting cannot mend.
    #[error("{0}")]
    ClickHouse(String),
    /// There is no checkpoint to go on from.
    #[error("nothing was loaded yet; run `platform load`")]
    NotLoaded,
}

impl Halt {
    /// The reason's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Undecodable { .. } => "undecodable",
            Self::SequenceRestarted { .. } => "sequence-restarted",
            Self::HeartbeatGap { .. } => "heartbeat-gap",
            Self::LogChanged => "log-changed",
            Self::LogWentBack { .. } => "log-went-back",
            Self::SlotLost => "slot-lost",
            Self::SlotMoved { .. } => "slot-moved",
            Self::OffsetOutOfRange(_) => "offset-out-of-range",
            Self::TopicRecreated(_) => "topic-recreated",
            Self::Topic(_) => "topic",
            Self::Connector(_) => "connector",
            Self::ClickHouse(_) => "clickhouse",
            Self::NotLoaded => "not-loaded",
        }
    }
}

#[cfg(test)]
mod tests {
    /// Every name above, and no other, has an entry in the runbook.
    #[test]
    fn every_reason_is_in_the_runbook() {
        let source = include_str!("halt.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let names: Vec<&str> =
            source.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\",")).collect();
        assert!(names.len() > 10, "{names:?}");
        // Read, not compiled in: the image is built without docs.
        let runbook =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbook.md")).expect("readable");
        let halts = runbook.split("## Halts").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
        let entries: Vec<&str> = halts
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(name, _)| name))
            .collect();
        let sorted = |mut names: Vec<&str>| {
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(sorted(entries), sorted(names));
    }
}
