//! The reading half: sources to chunks of encoded rows. Runs on a thread of its own, one chunk ahead of PostgreSQL.

use std::io;

use bytes::{Bytes, BytesMut};
use indicatif::ProgressBar;
use tokio::sync::mpsc::Sender;

use super::csv::{self, Csv};
use super::input::{Format, Input};
use super::mapping::Mapping;
use super::ndjson;
use super::prefix::Place;
use super::record::{self, Next, RECORD_BYTES_MAX, Record};
use super::source::Source;
use crate::batch::post::{self, Draft, Post, Rejection};
use crate::domain::Failure;

/// Limits of a chunk, which is a transaction: rows, and bytes of its records.
const CHUNK_ROWS_MAX: usize = 20_000;
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is found, in the order in which it is found.
#[derive(Debug)]
pub(super) enum Message {
    /// A source begins, where an earlier import was interrupted if that is known to be the same place.
    Begin {
        /// Its place in the list.
        source: usize,
        /// Records that the earlier import has dealt with.
        resumed: Option<u64>,
        /// A CSV file's header, verbatim.
        header: Option<Vec<u8>>,
    },
    /// Rows and rejected records.
    Chunk(Chunk),
    /// A piece of a record that is too long to be held.
    Piece(Vec<u8>),
    /// The end of such a record.
    TooLong(Rejected),
    /// The source has ended.
    End,
}

/// A record that is set aside.
#[derive(Debug)]
pub(super) struct Rejected {
    /// Its line.
    pub(super) line: u64,
    /// Why.
    pub(super) reason: String,
    /// The record, verbatim.
    pub(super) record: Vec<u8>,
}

/// How far a source has been read, for an import that goes on from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// Where.
    pub(super) place: Place,
    /// Records before it.
    pub(super) records: u64,
    /// Line ends before it.
    pub(super) lines: u64,
}

/// Rows of one source, encoded, with what is needed to name or reject any of them.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The rows in PostgreSQL's binary COPY format.
    pub(super) encoded: Bytes,
    /// Records that are no posts.
    pub(super) rejected: Vec<Rejected>,
    /// Records, rejected ones included.
    pub(super) records: u64,
    /// Where the source stands after it.
    pub(super) position: Option<Position>,
    rows: Vec<Row>,
    raw: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    line: u64,
    raw_end: usize,
    encoded_end: usize,
}

impl Chunk {
    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The encoded rows `from..to`.
    pub(super) fn encoded(&self, from: usize, to: usize) -> Bytes {
        let end = |row: usize| row.checked_sub(1).and_then(|at| self.rows.get(at)).map_or(0, |row| row.encoded_end);
        self.encoded.slice(end(from)..end(to))
    }

    /// Line and verbatim record of a row.
    pub(super) fn record(&self, row: usize) -> (u64, &[u8]) {
        let start = row.checked_sub(1).and_then(|at| self.rows.get(at)).map_or(0, |row| row.raw_end);
        match self.rows.get(row) {
            Some(row) => (row.line, self.raw.get(start..row.raw_end).unwrap_or_default()),
            None => (0, &[]),
        }
    }
}

/// What the reading half needs to know.
#[derive(Debug)]
pub(super) struct Task {
    /// What to read, each with the place from where to go on, if there is one.
    pub(super) sources: Vec<(Source, Option<Position>)>,
    /// Fields to columns.
    pub(super) mapping: Mapping,
    /// Whether the first bad record ends it.
    pub(super) strict: bool,
    /// Whether chunks say where they end.
    pub(super) positions: bool,
}

/// Reads every source to its end and sends what it finds.
///
/// # Errors
/// A source breaks off or its header is wrong; with `strict` also the first rejected record (`Failure::DataCheck`).
pub(super) fn parse(task: Task, progress: &ProgressBar, messages: &Sender<Message>) -> anyhow::Result<()> {
    let Task { sources, mapping, strict, positions } = task;
    for (number, (source, from)) in sources.into_iter().enumerate() {
        let hashed = positions && source.path.is_some();
        let mut parser =
            Parser { strict, mapping: &mapping, name: &source.name, messages, chunk: Building::default(), before: 0 };
        parser.source(number, &source, from, hashed, progress).map_err(|error| {
            match error.downcast::<io::Error>() {
                Ok(error) => read_failure(&source.name, &error).into(),
                Err(error) => error,
            }
        })?;
    }
    Ok(())
}

fn read_failure(name: &str, error: &io::Error) -> Failure {
    let text = format!("{name}: {error}");
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Failure::DataCheck(text)
        }
        // zstd reports damaged data by this kind.
        io::ErrorKind::Other => Failure::DataCheck(text),
        _ => Failure::Unavailable(text),
    }
}

struct Parser<'a> {
    strict: bool,
    mapping: &'a Mapping,
    name: &'a str,
    messages: &'a Sender<Message>,
    chunk: Building,
    /// Records in the chunks that were sent, and before the place where this import began.
    before: u64,
}

#[derive(Default)]
struct Building {
    rows: Vec<Row>,
    raw: Vec<u8>,
    encoded: BytesMut,
    rejected: Vec<Rejected>,
    rejected_bytes: usize,
    records: u64,
}

/// Nobody takes messages any more: the other half has failed and says why.
#[derive(Debug, thiserror::Error)]
#[error("writing ended early")]
pub(super) struct Abandoned;

/// A source that is being read.
struct Reading {
    input: Input,
    record: Record,
    csv: Option<Csv>,
    header: Option<Vec<u8>>,
}

impl Parser<'_> {
    fn source(
        &mut self,
        number: usize,
        source: &Source,
        from: Option<Position>,
        hashed: bool,
        progress: &ProgressBar,
    ) -> anyhow::Result<()> {
        let mut reading = self.open(source, hashed, progress)?;
        let mut resumed = None;
        if let Some(position) = from {
            if reading.input.reader.advance_to(&position.place)? {
                reading.record.go_on_after(position.lines);
                (self.before, resumed) = (position.records, Some(position.records));
            } else {
                tracing::warn!(
                    input = source.name,
                    "it has changed since the import that was interrupted: from the beginning"
                );
                reading = self.open(source, hashed, progress)?;
            }
        }
        self.message(Message::Begin { source: number, resumed, header: reading.header.take() })?;
        while self.next(&mut reading)? {
            let full = self.chunk.rows.len() + self.chunk.rejected.len() >= CHUNK_ROWS_MAX
                || self.chunk.raw.len() + self.chunk.rejected_bytes >= CHUNK_BYTES_MAX;
            if full {
                self.send(Some(&reading))?;
            }
        }
        self.send(Some(&reading))?;
        self.message(Message::End)
    }

    fn open(&self, source: &Source, hashed: bool, progress: &ProgressBar) -> anyhow::Result<Reading> {
        let mut input = Input::open(source, progress, hashed)?;
        record::skip_byte_order_mark(&mut input.reader)?;
        let mut record = Record::with_limit(RECORD_BYTES_MAX);
        let (csv, header) = match input.format {
            Format::Ndjson => (None, None),
            Format::Csv => {
                let csv = Csv::begin(&mut input.reader, &mut record, self.mapping)?;
                (Some(csv), Some(record.raw().to_vec()))
            }
        };
        Ok(Reading { input, record, csv, header })
    }

    /// Takes the next record; false at the end.
    fn next(&mut self, reading: &mut Reading) -> anyhow::Result<bool> {
        let Reading { input, record, csv, .. } = reading;
        let mut long = false;
        let mut overflow = |piece: &[u8]| -> io::Result<()> {
            if self.strict {
                return Ok(());
            }
            let sent = if long { Ok(()) } else { self.send(None) };
            long = true;
            sent.and_then(|()| self.message(Message::Piece(piece.to_vec()))).map_err(io::Error::other)
        };
        let next = match csv {
            Some(csv) => csv.read(&mut input.reader, record, &mut overflow)?,
            None => record::read_line(&mut input.reader, record, &mut overflow)?,
        };
        match next {
            Next::End => return Ok(false),
            Next::Whole if csv.is_none() && record.raw().trim_ascii().is_empty() => return Ok(true),
            Next::Whole | Next::TooLong => self.chunk.records += 1,
        }
        let rejection = if next == Next::TooLong {
            Rejection(format!("is longer than {RECORD_BYTES_MAX} bytes"))
        } else {
            let draft = match csv {
                Some(csv) => csv.draft(),
                None => ndjson::draft(record.raw(), self.mapping),
            };
            match draft.and_then(|draft| completed(self.mapping, draft)) {
                Ok(post) => {
                    self.chunk.add(&post, record);
                    return Ok(true);
                }
                Err(rejection) => rejection,
            }
        };
        let (line, reason) = (record.line, rejection.0);
        if self.strict {
            return Err(Failure::DataCheck(format!("{}:{line}: {reason}", self.name)).into());
        }
        if next == Next::TooLong {
            self.message(Message::TooLong(Rejected { line, reason, record: Vec::new() }))?;
        } else {
            self.chunk.rejected_bytes += record.raw().len();
            self.chunk.rejected.push(Rejected { line, reason, record: record.raw().to_vec() });
        }
        Ok(true)
    }

    /// Sends the chunk; with `reading` it says where it ends.
    fn send(&mut self, reading: Option<&Reading>) -> anyhow::Result<()> {
        let Building { rows, raw, encoded, rejected, records, .. } = std::mem::take(&mut self.chunk);
        if records == 0 {
            return Ok(());
        }
        self.before += records;
        let position = reading.and_then(|reading| {
            let place = reading.input.reader.place()?;
            Some(Position { place, records: self.before, lines: reading.record.lines() })
        });
        self.message(Message::Chunk(Chunk { encoded: encoded.freeze(), rejected, records, position, rows, raw }))
    }

    fn message(&self, message: Message) -> anyhow::Result<()> {
        self.messages.blocking_send(message).map_err(|_| Abandoned.into())
    }
}

impl Building {
    fn add(&mut self, post: &Post<'_>, record: &Record) {
        post::encode(post, &mut self.encoded);
        self.raw.extend_from_slice(record.raw());
        self.rows.push(Row { line: record.line, raw_end: self.raw.len(), encoded_end: self.encoded.len() });
    }
}

fn completed<'a>(mapping: &'a Mapping, mut draft: Draft<'a>) -> Result<Post<'a>, Rejection> {
    for (column, value) in mapping.constants() {
        csv::set(&mut draft, column, value)?;
    }
    draft.check()
}
