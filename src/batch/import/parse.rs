//! The reading half: inputs to chunks of encoded rows. Runs on a thread of its own, one chunk ahead of PostgreSQL.

use std::io;

use bytes::{Bytes, BytesMut};
use indicatif::ProgressBar;
use tokio::sync::mpsc::Sender;

use super::csv::Csv;
use super::input::{Format, Input};
use super::ndjson;
use super::record::{self, Next, RECORD_BYTES_MAX, Record};
use super::rejects::Rejects;
use crate::batch::post::{self, Draft, Post, Rejection};
use crate::domain::Failure;

/// Limits of a chunk, which is a transaction: rows, and bytes of its records.
const CHUNK_ROWS_MAX: usize = 20_000;
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Rows of one input, encoded, with what is needed to name or reject any of them.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Where rejected rows go.
    pub rejects: Rejects,
    /// The rows in PostgreSQL's binary COPY format.
    pub encoded: Bytes,
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

/// What reading found.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Records, rejected ones included.
    pub records: u64,
    /// The rejects of every input.
    pub rejects: Vec<Rejects>,
}

/// Reads every input to its end and sends its chunks.
///
/// # Errors
/// An input breaks off or its header is wrong; with `strict` also the first rejected record (`Failure::DataCheck`).
pub(super) fn parse(
    inputs: Vec<Input>,
    strict: bool,
    progress: &ProgressBar,
    chunks: &Sender<Chunk>,
) -> anyhow::Result<Read> {
    let mut read = Read::default();
    for input in inputs {
        let rejects = Rejects::new(&input.name, &input.rejected, progress);
        read.rejects.push(rejects.clone());
        let name = input.name.clone();
        let mut parser = Parser { strict, rejects, chunks, chunk: Building::default(), records: 0 };
        let outcome = parser.input(input);
        read.records += parser.records;
        outcome.map_err(|error| match error.downcast::<io::Error>() {
            Ok(error) => read_failure(&name, &error).into(),
            Err(error) => error,
        })?;
    }
    Ok(read)
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
    rejects: Rejects,
    chunks: &'a Sender<Chunk>,
    chunk: Building,
    records: u64,
}

#[derive(Default)]
struct Building {
    rows: Vec<Row>,
    raw: Vec<u8>,
    encoded: BytesMut,
}

/// Nobody takes chunks any more: the other half has failed and says why.
#[derive(Debug, thiserror::Error)]
#[error("writing ended early")]
pub(super) struct Abandoned;

impl Parser<'_> {
    fn input(&mut self, mut input: Input) -> anyhow::Result<()> {
        record::skip_byte_order_mark(&mut input.reader)?;
        let mut record = Record::with_limit(RECORD_BYTES_MAX);
        match input.format {
            Format::Ndjson => loop {
                let rejects = self.rejects.clone();
                let next = record::read_line(&mut input.reader, &mut record, &mut |piece| self.long(&rejects, piece))?;
                if next == Next::End {
                    break;
                }
                let blank = next == Next::Whole && record.raw().trim_ascii().is_empty();
                if !blank {
                    self.take(next, &record, || ndjson::draft(record.raw()))?;
                }
            },
            Format::Csv => {
                let mut csv = Csv::begin(&mut input.reader, &mut record)?;
                self.rejects.set_header(record.raw());
                loop {
                    let rejects = self.rejects.clone();
                    let next = csv.read(&mut input.reader, &mut record, &mut |piece| self.long(&rejects, piece))?;
                    if next == Next::End {
                        break;
                    }
                    self.take(next, &record, || csv.draft())?;
                }
            }
        }
        self.send()
    }

    fn long(&self, rejects: &Rejects, piece: &[u8]) -> io::Result<()> {
        if self.strict { Ok(()) } else { rejects.add_piece(piece) }
    }

    fn take<'a>(
        &mut self,
        next: Next,
        record: &Record,
        draft: impl FnOnce() -> Result<Draft<'a>, Rejection>,
    ) -> anyhow::Result<()> {
        self.records += 1;
        let outcome = match next {
            Next::Whole => draft().and_then(Draft::check),
            Next::TooLong | Next::End => Err(Rejection(format!("is longer than {RECORD_BYTES_MAX} bytes"))),
        };
        match outcome {
            Ok(post) => self.add(&post, record),
            Err(Rejection(reason)) if self.strict => {
                Err(Failure::DataCheck(format!("{}: {reason}", self.rejects.place(record.line))).into())
            }
            Err(Rejection(reason)) if next == Next::Whole => self.rejects.add(record.line, &reason, record.raw()),
            Err(Rejection(reason)) => self.rejects.end_pieces(record.line, &reason),
        }
    }

    fn add(&mut self, post: &Post<'_>, record: &Record) -> anyhow::Result<()> {
        let chunk = &mut self.chunk;
        post::encode(post, &mut chunk.encoded);
        chunk.raw.extend_from_slice(record.raw());
        chunk.rows.push(Row { line: record.line, raw_end: chunk.raw.len(), encoded_end: chunk.encoded.len() });
        if chunk.rows.len() >= CHUNK_ROWS_MAX || chunk.raw.len() >= CHUNK_BYTES_MAX { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let Building { rows, raw, encoded } = std::mem::take(&mut self.chunk);
        if rows.is_empty() {
            return Ok(());
        }
        let chunk = Chunk { rejects: self.rejects.clone(), encoded: encoded.freeze(), rows, raw };
        self.chunks.blocking_send(chunk).map_err(|_| Abandoned.into())
    }
}
