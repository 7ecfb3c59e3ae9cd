//! `platform import`: files of posts into PostgreSQL. A bad record is set aside with its reason, the rest goes in, and
//! the same files again change nothing.

mod csv;
mod input;
mod ndjson;
mod parse;
mod record;
mod rejects;

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use crate::domain::Failure;
pub use crate::store::posts::OnConflict;
use crate::store::posts::{Merged, PostWriter, WriteError};
pub use input::{Format, Input};
use parse::Chunk;

/// What the person asked for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What happens to posts that exist already.
    pub on_conflict: OnConflict,
    /// Whether the first bad record ends the import, with nothing imported.
    pub strict: bool,
}

/// What an import did.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Files read.
    pub files: usize,
    /// Records read.
    pub read: u64,
    /// Posts that were new.
    pub inserted: u64,
    /// Posts that existed and were replaced.
    pub updated: u64,
    /// Records that changed nothing, because the post existed.
    pub unchanged: u64,
    /// Records that were set aside.
    pub rejected: u64,
}

/// Reads `inputs` and writes their posts.
///
/// Each chunk is a transaction, so that an import that was cut off is simply run again. `strict` and `OnConflict::Error`
/// make the whole import one transaction: all or nothing.
///
/// # Errors
/// `Failure::DataCheck` when `strict` meets a bad record, a post exists that must not, an input is damaged, or not one
/// record was good; `Failure::Unavailable` when PostgreSQL goes away.
pub async fn run(
    writer: &PostWriter,
    inputs: Vec<Input>,
    options: Options,
    progress: &ProgressBar,
) -> anyhow::Result<Imported> {
    let files = inputs.len();
    let (sender, mut chunks) = mpsc::channel(1);
    let parser = {
        let (progress, strict) = (progress.clone(), options.strict);
        tokio::task::spawn_blocking(move || parse::parse(inputs, strict, &progress, &sender))
    };
    let all_or_nothing = options.strict || options.on_conflict == OnConflict::Error;
    if all_or_nothing {
        writer.begin().await?;
    }
    let mut merged = Merged::default();
    while let Some(chunk) = chunks.recv().await {
        if !all_or_nothing {
            writer.begin().await?;
        }
        let done = write(writer, &chunk, options).await?;
        if !all_or_nothing {
            writer.commit().await?;
        }
        merged.inserted += done.inserted;
        merged.updated += done.updated;
    }
    let read = parser.await.context("the reading thread")??;
    if all_or_nothing {
        writer.commit().await?;
    }
    let mut rejected = 0;
    for rejects in &read.rejects {
        rejected += rejects.finish()?;
    }
    if rejected > 0 && rejected == read.records {
        return Err(Failure::DataCheck(format!("not one of {rejected} records could be imported")).into());
    }
    let unchanged = read.records - rejected - merged.inserted - merged.updated;
    let Merged { inserted, updated } = merged;
    Ok(Imported { files, read: read.records, inserted, updated, unchanged, rejected })
}

/// Merges a chunk. When PostgreSQL refuses a value, halves find the row, which is set aside like any other bad record.
async fn write(writer: &PostWriter, chunk: &Chunk, options: Options) -> anyhow::Result<Merged> {
    let mut merged = Merged::default();
    let mut ranges = vec![(0, chunk.len())];
    while let Some((from, to)) = ranges.pop() {
        match writer.merge(&chunk.encoded(from, to), options.on_conflict).await {
            Ok(done) => {
                merged.inserted += done.inserted;
                merged.updated += done.updated;
            }
            Err(WriteError::Data(reason)) if to - from == 1 => {
                let (line, record) = chunk.record(from);
                if options.strict {
                    return Err(Failure::DataCheck(format!("{}: {reason}", chunk.rejects.place(line))).into());
                }
                chunk.rejects.add(line, &reason, record)?;
            }
            Err(WriteError::Data(_)) => {
                let middle = usize::midpoint(from, to);
                ranges.extend([(middle, to), (from, middle)]);
            }
            Err(WriteError::Exists(row)) => {
                let place = row.map_or_else(
                    || chunk.rejects.place(chunk.record(from).0),
                    |row| chunk.rejects.place(chunk.record(from + row).0),
                );
                let text = format!("{place}: {}; nothing was imported", WriteError::Exists(row));
                return Err(Failure::DataCheck(text).into());
            }
            Err(WriteError::Other(error)) => return Err(error),
        }
    }
    Ok(merged)
}
