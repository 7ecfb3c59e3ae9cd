//! A message of the topic, read as far as needed to know what it is. Pure.
//!
//! Shapes: Debezium's PostgreSQL connector with JSON and without schemas; `tests/data/` holds real ones.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::catalog::{ReadRow, RowReader};
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
    pub table: Cow<'a, TableName>,
    /// What happened.
    pub kind: RowKind,
    /// The row before, as far as the replica identity carries it; made-up values outside the key under DEFAULT.
    pub before: Option<&'a RawValue>,
    /// The row after; `None` for a delete.
    pub after: Option<After<'a>>,
    /// Where in the log.
    pub position: Position,
    /// Commit time, microseconds since 1970.
    pub committed_at: i64,
}

/// A row as it is after the event.
#[derive(Debug)]
pub(super) enum After<'a> {
    /// As it came.
    Raw(&'a RawValue),
    /// Already read into the block of the table that was guessed, which is the event's.
    Read(ReadRow),
}

/// The table that an event is probably about, and where its row is read to on the way.
#[derive(Debug)]
pub(super) struct Guess<'a, 'r> {
    pub table: &'a TableName,
    pub reader: RowReader<'r>,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    /// `c`: the row is new.
    Insert,
    /// `u`: the row is now `after`.
    Update,
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

#[derive(Default)]
struct Envelope<'a> {
    before: Option<&'a RawValue>,
    after: Option<After<'a>>,
    source: Option<Source<'a>>,
    op: Option<Cow<'a, str>>,
    schema: bool,
    payload: bool,
    message: Option<Message<'a>>,
    ts_ms: bool,
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Before,
    After,
    Source,
    Op,
    Schema,
    Payload,
    Message,
    TsMs,
    #[serde(other)]
    Other,
}

/// Reads an envelope, and its row straight into the columns of the guessed table, so that it is gone over once.
struct EnvelopeSeed<'g>(Option<RowReader<'g>>);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_> {
    type Value = Envelope<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Envelope<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_> {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Envelope<'de>, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Before => envelope.before = map.next_value()?,
                Field::After => {
                    envelope.after = match self.0.take() {
                        Some(reader) => map.next_value_seed(OptionalRow(reader))?.map(After::Read),
                        None => map.next_value::<Option<&RawValue>>()?.map(After::Raw),
                    }
                }
                Field::Source => envelope.source = map.next_value()?,
                Field::Op => envelope.op = map.next_value::<Option<Text<'_>>>()?.map(|text| text.0),
                Field::Schema => envelope.schema = map.next_value::<Option<IgnoredAny>>()?.is_some(),
                Field::Payload => envelope.payload = map.next_value::<Option<IgnoredAny>>()?.is_some(),
                Field::Message => envelope.message = map.next_value()?,
                Field::TsMs => envelope.ts_ms = map.next_value::<Option<IgnoredAny>>()?.is_some(),
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(envelope)
    }
}

/// Borrowed where the message has it without escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct OptionalRow<'g>(RowReader<'g>);

impl<'de> DeserializeSeed<'de> for OptionalRow<'_> {
    type Value = Option<ReadRow>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<ReadRow>, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for OptionalRow<'_> {
    type Value = Option<ReadRow>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row or null")
    }

    fn visit_none<E>(self) -> Result<Option<ReadRow>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<ReadRow>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<ReadRow>, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}

#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    prefix: Option<Cow<'a, str>>,
}

#[derive(serde::Deserialize)]
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

/// The transaction of an event, as PostgreSQL's 32-bit number; `None` when the message does not say it.
pub(super) fn transaction(value: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Message {
        source: Numbered,
    }
    #[derive(serde::Deserialize)]
    struct Numbered {
        #[serde(rename = "txId")]
        transaction: Option<u64>,
    }
    let message: Message = serde_json::from_slice(value).ok()?;
    u32::try_from(message.source.transaction? & u64::from(u32::MAX)).ok()
}

/// Reads a message's value; `None` is a tombstone of the topic. With a guess the row may have been read into its block:
/// the event then says `After::Read`, or is an error, and what is not made a row must be forgotten there. `None`: the guess
/// was wrong, and the message is to be read again without one.
///
/// # Errors
/// See `EnvelopeError`.
pub(super) fn parse<'a>(
    value: Option<&'a [u8]>,
    guess: Option<Guess<'a, '_>>,
) -> Result<Option<Event<'a>>, EnvelopeError> {
    let Some(value) = value else { return Ok(Some(Event::Nothing)) };
    let text = simdutf8::basic::from_utf8(value).map_err(|_| EnvelopeError::Unreadable("it is not UTF-8".into()))?;
    let (guessed, reader) = guess.map_or((None, None), |guess| (Some(guess.table), Some(guess.reader)));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let envelope = EnvelopeSeed(reader).deserialize(&mut deserializer);
    let envelope = envelope.and_then(|envelope| deserializer.end().map(|()| envelope));
    let envelope = envelope
        .map_err(|error| EnvelopeError::Unreadable(format!("line {} column {}", error.line(), error.column())))?;
    event(envelope, guessed)
}

fn event<'a>(envelope: Envelope<'a>, guessed: Option<&'a TableName>) -> Result<Option<Event<'a>>, EnvelopeError> {
    if envelope.schema && envelope.payload {
        return Err(EnvelopeError::WithSchema);
    }
    let Some(op) = envelope.op else {
        let heartbeat = envelope.ts_ms && envelope.source.is_none() && envelope.after.is_none();
        return if heartbeat { Ok(Some(Event::Nothing)) } else { Err(EnvelopeError::Flattened) };
    };
    let source = envelope.source.ok_or(EnvelopeError::Missing("source"))?;
    let position = position(&source)?;
    let kind = match op.as_ref() {
        "c" => RowKind::Insert,
        "u" => RowKind::Update,
        "d" => RowKind::Delete,
        "r" => RowKind::Snapshot,
        "t" => return Ok(Some(Event::Truncate { table: table(&source, None)?.into_owned(), position })),
        "m" => {
            let prefix = envelope.message.and_then(|message| message.prefix).unwrap_or_default().into_owned();
            return Ok(Some(Event::Message { position, prefix }));
        }
        other => return Err(EnvelopeError::UnknownOperation(other.chars().take(8).collect())),
    };
    if kind != RowKind::Delete && envelope.after.is_none() {
        return Err(EnvelopeError::Missing("after"));
    }
    if kind == RowKind::Delete && envelope.before.is_none() {
        return Err(EnvelopeError::Missing("before"));
    }
    let table = table(&source, guessed)?;
    if matches!(envelope.after, Some(After::Read(_))) && guessed.is_none_or(|guessed| *guessed != *table) {
        return Ok(None);
    }
    Ok(Some(Event::Row(RowEvent {
        table,
        kind: if kind != RowKind::Delete && in_snapshot(&source) { RowKind::Snapshot } else { kind },
        before: envelope.before,
        after: envelope.after,
        position,
        committed_at: source.ts_us.ok_or(EnvelopeError::Missing("source.ts_us"))?,
    })))
}

fn in_snapshot(source: &Source<'_>) -> bool {
    source.snapshot.as_deref().is_some_and(|snapshot| snapshot != "false" && snapshot != "incremental")
}

fn table<'a>(source: &Source<'a>, guessed: Option<&'a TableName>) -> Result<Cow<'a, TableName>, EnvelopeError> {
    let (Some(schema), Some(table)) = (&source.schema, &source.table) else {
        return Err(EnvelopeError::Missing("source.table"));
    };
    match guessed.filter(|guessed| guessed.schema() == schema && guessed.table() == table) {
        Some(guessed) => Ok(Cow::Borrowed(guessed)),
        None => Ok(Cow::Owned(TableName::new(schema.as_ref(), table.as_ref()))),
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
        let error = |text: &str| parse(Some(text.as_bytes()), None).expect_err("refused");
        assert_eq!(error(r#"{"schema":{},"payload":{}}"#), EnvelopeError::WithSchema);
        assert_eq!(error(r#"{"id":1,"content":"x"}"#), EnvelopeError::Flattened);
        assert!(matches!(error("{"), EnvelopeError::Unreadable(_)));
        assert_eq!(
            error(r#"{"op":"x","source":{"sequence":"[null,\"1\"]","lsn":1}}"#),
            EnvelopeError::UnknownOperation("x".into())
        );
        assert!(matches!(parse(Some(br#"{"ts_ms":1}"#), None), Ok(Some(Event::Nothing))));
        assert!(matches!(parse(None, None), Ok(Some(Event::Nothing))));
    }

    #[test]
    fn positions_keep_both_halves() {
        let text = r#"{"op":"m","source":{"sequence":"[\"90\",\"80\"]","lsn":80,"schema":"","table":""},"message":{}}"#;
        let Ok(Some(Event::Message { position, .. })) = parse(Some(text.as_bytes()), None) else { panic!("a message") };
        assert_eq!(
            (position.last_commit, position.lsn, position.watermark()),
            (Some(Lsn::new(90)), Some(Lsn::new(80)), Lsn::new(90))
        );
    }
}
