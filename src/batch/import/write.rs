//! The writing half: chunks into PostgreSQL, and how far each source was read.

use std::collections::BTreeMap;

use super::Options;
use super::parse::{Chunk, Position};
use super::prefix::Place;
use super::rejects::{Lengths, Rejects};
use super::source::Source;
use crate::domain::Failure;
use crate::store::import_progress::Progress;
use crate::store::posts::{Merged, OnConflict, PostWriter, WriteError};

/// Writes chunks.
#[derive(Debug)]
pub(super) struct Write<'a> {
    writer: &'a PostWriter,
    on_conflict: OnConflict,
    strict: bool,
    /// Whether COPY goes straight into the table: as long as every post is new, which is about twice as fast as merging.
    direct: bool,
}

impl<'a> Write<'a> {
    pub(super) fn new(writer: &'a PostWriter, on_conflict: OnConflict, strict: bool) -> Self {
        Self { writer, on_conflict, strict, direct: true }
    }

    /// Writes a chunk inside the transaction. When PostgreSQL refuses a value, halves find the row, which is set aside like
    /// any other bad record.
    ///
    /// # Errors
    /// `Failure::DataCheck` for a post that must not exist, and for a refused one when that ends the import.
    pub(super) async fn chunk(&mut self, chunk: &Chunk, rejects: &mut Rejects) -> anyhow::Result<Merged> {
        let mut merged = Merged::default();
        let mut ranges = vec![(0, chunk.len())];
        ranges.retain(|(from, to)| from < to);
        while let Some((from, to)) = ranges.pop() {
            match self.rows(chunk, from, to).await {
                Ok(done) => {
                    merged.inserted += done.inserted;
                    merged.updated += done.updated;
                }
                Err(WriteError::Data(reason)) if to - from == 1 => {
                    let (line, record) = chunk.record(from);
                    if self.strict {
                        return Err(Failure::DataCheck(format!("{}: {reason}", rejects.place(line))).into());
                    }
                    rejects.add(line, &reason, record)?;
                }
                Err(WriteError::Data(_)) => {
                    let middle = usize::midpoint(from, to);
                    ranges.extend([(middle, to), (from, middle)]);
                }
                Err(WriteError::Exists(row)) => {
                    let place = rejects.place(chunk.record(from + row.unwrap_or(0)).0);
                    let text = format!("{place}: {}; nothing was imported", WriteError::Exists(row));
                    return Err(Failure::DataCheck(text).into());
                }
                Err(WriteError::Other(error)) => return Err(error),
            }
        }
        Ok(merged)
    }

    async fn rows(&mut self, chunk: &Chunk, from: usize, to: usize) -> Result<Merged, WriteError> {
        let rows = chunk.encoded(from, to);
        if self.direct {
            match self.writer.insert(&rows).await {
                Ok(inserted) => return Ok(Merged { inserted, updated: 0 }),
                // The rows that were copied before it are dead ones: try again only when all are new for a while.
                Err(WriteError::Exists(_)) => self.direct = false,
                Err(error) => return Err(error),
            }
        }
        let merged = self.writer.merge(&rows, self.on_conflict).await?;
        self.direct = u64::try_from(to - from) == Ok(merged.inserted);
        Ok(merged)
    }
}

/// How far sources were read by imports with the same options.
#[derive(Debug)]
pub(super) struct Journal {
    options: String,
    known: BTreeMap<String, (Position, Lengths)>,
}

impl Journal {
    /// Looks up all sources.
    ///
    /// # Errors
    /// See `PostWriter::progress`.
    pub(super) async fn new(writer: &PostWriter, sources: &[Source], options: &Options) -> anyhow::Result<Self> {
        let Options { on_conflict, mapping, format, from_start, .. } = options;
        let fingerprint = format!("{on_conflict:?} {format:?} {}", mapping.fingerprint());
        let mut journal = Self { options: fingerprint, known: BTreeMap::new() };
        let inputs: Vec<String> = sources.iter().filter_map(Source::identity).collect();
        for progress in writer.progress(&journal.options, &inputs).await? {
            if *from_start {
                writer.forget_progress(&journal.options, &progress.input).await?;
                continue;
            }
            let Progress { input, bytes, sha256, records, lines, rejects_bytes, reasons_bytes } = progress;
            let position = Position { place: Place { bytes, sha256 }, records, lines };
            journal.known.insert(input, (position, Lengths { records: rejects_bytes, reasons: reasons_bytes }));
        }
        Ok(journal)
    }

    /// From where to go on with `source`.
    pub(super) fn position(&self, source: &Source) -> Option<Position> {
        self.known.get(&source.identity()?).map(|(position, _)| position.clone())
    }

    /// How long its files of rejected records were there.
    pub(super) fn lengths(&self, source: &Source) -> Lengths {
        let known = source.identity().and_then(|input| self.known.get(&input));
        known.map_or_else(Lengths::default, |(_, lengths)| *lengths)
    }

    /// Keeps a position inside the transaction.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn keep(
        &self,
        writer: &PostWriter,
        source: &Source,
        position: &Position,
        lengths: Lengths,
    ) -> anyhow::Result<()> {
        let Some(input) = source.identity() else { return Ok(()) };
        let Position { place: Place { bytes, sha256 }, records, lines } = position.clone();
        let (rejects_bytes, reasons_bytes) = (lengths.records, lengths.reasons);
        let progress = Progress { input, bytes, sha256, records, lines, rejects_bytes, reasons_bytes };
        writer.keep_progress(&self.options, &progress).await
    }

    /// Forgets a source that was read to its end.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn forget(&self, writer: &PostWriter, source: &Source) -> anyhow::Result<()> {
        match source.identity() {
            Some(input) => writer.forget_progress(&self.options, &input).await,
            None => Ok(()),
        }
    }
}
