//! A message of the topic, read as far as needed to know what it is. Pure.
//!
//! Shapes: Debezium's PostgreSQL connector with JSON and without schemas; `tests/data/` holds real ones.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::{Lsn, TableName};

/// What a message says.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A row changed.
    Row(RowEvent<'a>),
    /// A table was emptied.
    Truncate {
        /// Which one.
        table: TableName,
        /// Where in the log.
        position: Position,
    },
    /// A logical message: a marker or a barrier. It moves the watermark; it never gives a version.
    Message {
        /// Where in the log.
        position: Position,
        /// The message's prefix.
        prefix: String,
    },
    /// Debezium's own heartbeat and the topic's tombstones: nothing to do.
    Nothing,
}

/// A changed row.
#[derive(Debug)]
pub(super) struct RowEvent<'a> {
    /// Its table.
    pub table: TableName,
    /// What happened.
    pub kind: RowKind,
    /// The row before, as far as the replica identity carries it; made-up values outside the key under DEFAULT.
    pub before: Option<&'a RawValue>,
    /// The row after; `None` for a delete.
    pub after: Option<&'a RawValue>,
    /// Where in the log.
    pub position: Position,
    /// Commit time, microseconds since 1970.
    pub committed_at: i64,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    /// `c` and `u`: the row is now `after`.
    Upsert,
    /// `d`: the row is gone.
    Delete,
    /// `r`: a row of one of Debezium's snapshots.
    Snapshot,
}

/// The place of an event in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// End of the commit before; `None` for the first transaction of a connector without stored offsets.
    pub last_commit: Option<Lsn>,
    /// Of the change itself; `None` for rows of an incremental snapshot.
    pub lsn: Option<Lsn>,
}

impl Position {
    /// Everything committed below is in the stream before this event: the greater of both halves.
    pub(super) fn watermark(&self) -> Lsn {
        self.last_commit.unwrap_or_default().max(self.lsn.unwrap_or_default())
    }
}

/// Why a message cannot be used. The log cannot be followed past it, so the pipeline halts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a message of Debezium's.
    #[error("the message is not Debezium's JSON: {0}")]
    Unreadable(String),
    /// Messages carry their schema.
    #[error("messages carry their schema; set value.converter.schemas.enable=false and run `platform connector apply`")]
    WithSchema,
    /// Messages have lost their envelope.
    #[error("messages are flattened; remove the ExtractNewRecordState transform and run `platform connector apply`")]
    Flattened,
    /// An operation that this program does not know.
    #[error("unknown operation {0:?}")]
    UnknownOperation(String),
    /// A part that the operation needs is missing.
    #[error("the message has no {0}")]
    Missing(&'static str),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<Source<'a>>,
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(default)]
    ts_ms: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    prefix: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, default)]
    snapshot: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sequence: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    table: Option<Cow<'a, str>>,
    #[serde(default)]
    lsn: Option<u64>,
    #[serde(default)]
    ts_us: Option<i64>,
}

/// Reads a message's value; `None` is a tombstone of the topic.
///
/// # Errors
/// See `EnvelopeError`.
pub(super) fn parse(value: Option<&[u8]>) -> Result<Event<'_>, EnvelopeError> {
    let Some(value) = value else { return Ok(Event::Nothing) };
    let text = std::str::from_utf8(value).map_err(|_| EnvelopeError::Unreadable("it is not UTF-8".into()))?;
    let envelope: Envelope<'_> = serde_json::from_str(text)
        .map_err(|error| EnvelopeError::Unreadable(format!("line {} column {}", error.line(), error.column())))?;
    if envelope.schema.is_some() && envelope.payload.is_some() {
        return Err(EnvelopeError::WithSchema);
    }
    let Some(op) = envelope.op else {
        let heartbeat = envelope.ts_ms.is_some() && envelope.source.is_none() && envelope.after.is_none();
        return if heartbeat { Ok(Event::Nothing) } else { Err(EnvelopeError::Flattened) };
    };
    let source = envelope.source.ok_or(EnvelopeError::Missing("source"))?;
    let position = position(&source)?;
    let kind = match op.as_ref() {
        "c" | "u" => RowKind::Upsert,
        "d" => RowKind::Delete,
        "r" => RowKind::Snapshot,
        "t" => return Ok(Event::Truncate { table: table(&source)?, position }),
        "m" => {
            let prefix = envelope.message.and_then(|message| message.prefix).unwrap_or_default().into_owned();
            return Ok(Event::Message { position, prefix });
        }
        other => return Err(EnvelopeError::UnknownOperation(other.chars().take(8).collect())),
    };
    if kind != RowKind::Delete && envelope.after.is_none() {
        return Err(EnvelopeError::Missing("after"));
    }
    if kind == RowKind::Delete && envelope.before.is_none() {
        return Err(EnvelopeError::Missing("before"));
    }
    Ok(Event::Row(RowEvent {
        table: table(&source)?,
        kind: if kind == RowKind::Upsert && in_snapshot(&source) { RowKind::Snapshot } else { kind },
        before: envelope.before,
        after: envelope.after,
        position,
        committed_at: source.ts_us.ok_or(EnvelopeError::Missing("source.ts_us"))?,
    }))
}

fn in_snapshot(source: &Source<'_>) -> bool {
    source.snapshot.as_deref().is_some_and(|snapshot| snapshot != "false" && snapshot != "incremental")
}

fn table(source: &Source<'_>) -> Result<TableName, EnvelopeError> {
    match (&source.schema, &source.table) {
        (Some(schema), Some(table)) => Ok(TableName::new(schema.as_ref(), table.as_ref())),
        _ => Err(EnvelopeError::Missing("source.table")),
    }
}

fn position(source: &Source<'_>) -> Result<Position, EnvelopeError> {
    let sequence = source.sequence.as_deref().ok_or(EnvelopeError::Missing("source.sequence"))?;
    let (last_commit, _): (Option<Cow<'_, str>>, Option<Cow<'_, str>>) =
        serde_json::from_str(sequence).map_err(|_| EnvelopeError::Missing("source.sequence"))?;
    let last_commit = last_commit.map(|text| text.parse().map(Lsn::new)).transpose();
    let last_commit = last_commit.map_err(|_| EnvelopeError::Missing("source.sequence"))?;
    Ok(Position { last_commit, lsn: source.lsn.map(Lsn::new) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_shapes_are_named() {
        let error = |text: &str| parse(Some(text.as_bytes())).expect_err("refused");
        assert_eq!(error(r#"{"schema":{},"payload":{}}"#), EnvelopeError::WithSchema);
        assert_eq!(error(r#"{"id":1,"content":"x"}"#), EnvelopeError::Flattened);
        assert!(matches!(error("{"), EnvelopeError::Unreadable(_)));
        assert_eq!(
            error(r#"{"op":"x","source":{"sequence":"[null,\"1\"]","lsn":1}}"#),
            EnvelopeError::UnknownOperation("x".into())
        );
        assert!(matches!(parse(Some(br#"{"ts_ms":1}"#)), Ok(Event::Nothing)));
        assert!(matches!(parse(None), Ok(Event::Nothing)));
    }

    #[test]
    fn positions_keep_both_halves() {
        let text = r#"{"op":"m","source":{"sequence":"[\"90\",\"80\"]","lsn":80,"schema":"","table":""},"message":{}}"#;
        let Ok(Event::Message { position, .. }) = parse(Some(text.as_bytes())) else { panic!("a message") };
        assert_eq!(
            (position.last_commit, position.lsn, position.watermark()),
            (Some(Lsn::new(90)), Some(Lsn::new(80)), Lsn::new(90))
        );
    }
}
