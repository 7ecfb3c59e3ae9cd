//! `platform import`: files of posts into PostgreSQL. A bad record is set aside with its reason, the rest goes in, the
//! same files again change nothing, and an import that was interrupted goes on where it was.

mod csv;
mod input;
mod mapping;
mod ndjson;
mod parse;
mod prefix;
mod record;
mod rejects;
mod source;
mod write;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use crate::domain::Failure;
pub use crate::store::posts::OnConflict;
use crate::store::posts::{Merged, PostWriter};
pub use input::Format;
pub use mapping::Mapping;
use parse::{Message, Rejected, Task};
use rejects::Rejects;
pub use source::Source;
use write::{Journal, Write};

/// How often a long import says on stderr where it is, when nobody watches a bar.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What the person asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What happens to posts that exist already.
    pub on_conflict: OnConflict,
    /// Whether the first bad record ends the import, with nothing imported.
    pub strict: bool,
    /// Fields to columns.
    pub mapping: Mapping,
    /// The format that was asked for.
    pub format: Option<Format>,
    /// Rejected records of one source beyond which the import ends.
    pub max_rejected: u64,
    /// Whether an interrupted import is begun anew.
    pub from_start: bool,
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
    /// Records that an earlier import, which was interrupted, had dealt with: not read again, not counted above.
    pub resumed: u64,
}

/// Reads `sources` and writes their posts.
///
/// Each chunk is a transaction that also keeps how far the source was read, with a hash of everything before: an import
/// that was cut off goes on there, unless something before has changed. `strict` and `OnConflict::Error` make the whole
/// import one transaction: all or nothing.
///
/// # Errors
/// `Failure::DataCheck` when `strict` meets a bad record, a post exists that must not, an input is damaged, too many records
/// or all of them are bad; `Failure::Unavailable` when PostgreSQL goes away.
pub async fn run(
    writer: &PostWriter,
    sources: Vec<Source>,
    options: Options,
    progress: &ProgressBar,
) -> anyhow::Result<Imported> {
    let all_or_nothing = options.strict || options.on_conflict == OnConflict::Error;
    let journal = Journal::new(writer, &sources, &options).await?;
    let positions = sources.iter().map(|source| if all_or_nothing { None } else { journal.position(source) });
    let task = Task {
        sources: sources.iter().cloned().zip(positions.collect::<Vec<_>>()).collect(),
        mapping: options.mapping.clone(),
        strict: options.strict,
        positions: !all_or_nothing,
    };
    let (sender, mut messages) = mpsc::channel(1);
    let parser = {
        let progress = progress.clone();
        tokio::task::spawn_blocking(move || parse::parse(task, &progress, &sender))
    };
    if all_or_nothing {
        writer.begin().await?;
    }
    let mut import = Import {
        write: Write::new(writer, options.on_conflict, options.strict),
        journal,
        sources: &sources,
        done: Imported { files: sources.len(), ..Imported::default() },
        rejects: None,
        max_rejected: options.max_rejected,
        all_or_nothing,
        progress,
        said: Instant::now(),
    };
    while let Some(message) = messages.recv().await {
        import.take(writer, message).await?;
    }
    parser.await.context("the reading thread")??;
    if all_or_nothing {
        writer.commit().await?;
    }
    writer.flush().await?;
    let done = import.done;
    if done.rejected > 0 && done.rejected == done.read && done.resumed == 0 {
        return Err(Failure::DataCheck(format!("not one of {} records could be imported", done.rejected)).into());
    }
    Ok(done)
}

/// An import under way.
struct Import<'a> {
    write: Write<'a>,
    journal: Journal,
    sources: &'a [Source],
    done: Imported,
    rejects: Option<(Source, Rejects)>,
    max_rejected: u64,
    all_or_nothing: bool,
    progress: &'a ProgressBar,
    said: Instant,
}

impl Import<'_> {
    async fn take(&mut self, writer: &PostWriter, message: Message) -> anyhow::Result<()> {
        if let Message::Begin { source, resumed, header } = message {
            let source = self.sources.get(source).context("a source of the list")?.clone();
            let mut rejects = Rejects::new(&source, header, self.max_rejected, self.progress);
            if let Some(records) = resumed {
                self.done.resumed += records;
                rejects.go_on_after(self.journal.lengths(&source))?;
                let input = &source.name;
                self.progress.suspend(|| {
                    tracing::info!(input, records, "goes on behind these records, where an import was interrupted");
                });
            }
            self.rejects = Some((source, rejects));
            return Ok(());
        }
        let (source, rejects) = self.rejects.as_mut().context("a source has begun")?;
        match message {
            Message::Begin { .. } => {}
            Message::Piece(piece) => rejects.add_piece(&piece)?,
            Message::TooLong(Rejected { line, reason, .. }) => {
                rejects.end_pieces(line, &reason)?;
                self.done.rejected += 1;
            }
            Message::Chunk(chunk) => {
                if !self.all_or_nothing {
                    writer.begin().await?;
                }
                let before = rejects.count;
                for Rejected { line, reason, record } in &chunk.rejected {
                    rejects.add(*line, reason, record)?;
                }
                let bad = rejects.count;
                let Merged { inserted, updated } = self.write.chunk(&chunk, rejects).await?;
                if !self.all_or_nothing {
                    if let Some(position) = &chunk.position {
                        // The files first: what is committed as read must be in them.
                        let lengths = rejects.flush()?;
                        self.journal.keep(writer, source, position, lengths).await?;
                    }
                    writer.commit_soon().await?;
                }
                let rows = u64::try_from(chunk.len()).unwrap_or(u64::MAX) - (rejects.count - bad);
                self.done.read += chunk.records;
                self.done.inserted += inserted;
                self.done.updated += updated;
                self.done.unchanged += rows - inserted - updated;
                self.done.rejected += rejects.count - before;
                self.say();
            }
            Message::End => {
                rejects.finish()?;
                if !self.all_or_nothing {
                    self.journal.forget(writer, source).await?;
                }
            }
        }
        Ok(())
    }

    /// On a terminal the bar says it.
    fn say(&mut self) {
        if self.progress.is_hidden() && self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let Imported { read, rejected, .. } = self.done;
            let (bytes, of) = (self.progress.position(), self.progress.length().unwrap_or(0));
            tracing::info!(read, rejected, bytes, of, "importing");
        }
    }
}
