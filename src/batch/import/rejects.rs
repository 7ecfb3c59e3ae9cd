//! What could not be imported: each record verbatim in one file, so that it can be mended and imported again, and the
//! reasons beside it in another.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::ProgressBar;

use super::source::Source;
use crate::domain::Failure;

/// Reasons said on stderr for each input; the rest is in the file alone.
const SHOWN_MAX: u64 = 5;
/// Bytes that the rejected records of one input and their reasons may take: what is longer is no file of posts, and could
/// fill the disk.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The rejected records of one input.
#[derive(Debug)]
pub(super) struct Rejects {
    input: String,
    path: PathBuf,
    header: Option<Vec<u8>>,
    files: Option<Files>,
    /// How many, in this run.
    pub(super) count: u64,
    max: u64,
    bytes: u64,
    bytes_max: u64,
    progress: ProgressBar,
}

#[derive(Debug)]
struct Files {
    records: BufWriter<File>,
    reasons: BufWriter<File>,
}

/// How long both files were at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    /// Bytes of the records.
    pub(super) records: u64,
    /// Bytes of the reasons.
    pub(super) reasons: u64,
}

impl Rejects {
    /// For `source`, up to `max` of them; nothing is written before the first record. A CSV file's `header` goes before it.
    pub(super) fn new(source: &Source, header: Option<Vec<u8>>, max: u64, progress: &ProgressBar) -> Self {
        Self {
            input: source.name.clone(),
            path: source.rejected.clone(),
            header,
            files: None,
            count: 0,
            max,
            bytes: 0,
            bytes_max: BYTES_MAX,
            progress: progress.clone(),
        }
    }

    /// Goes on where an interrupted import was; what it wrote beyond that is written again. Files that are gone are begun
    /// anew.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn go_on_after(&mut self, lengths: Lengths) -> anyhow::Result<()> {
        if lengths.records == 0 {
            return Ok(());
        }
        let reopened = [(self.path.clone(), lengths.records), (self.reasons_path(), lengths.reasons)].map(
            |(path, length)| -> io::Result<BufWriter<File>> {
                let mut file = File::options().write(true).open(path)?;
                if file.metadata()?.len() < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.set_len(length)?;
                file.seek(io::SeekFrom::End(0))?;
                Ok(BufWriter::new(file))
            },
        );
        match reopened {
            [Ok(records), Ok(reasons)] => {
                (self.files, self.bytes) = (Some(Files { records, reasons }), lengths.records + lengths.reasons);
            }
            _ => tracing::warn!(
                input = self.input,
                "the rejected records of the import that was interrupted are gone; their file begins anew"
            ),
        }
        Ok(())
    }

    /// A record and the reason.
    ///
    /// # Errors
    /// The files cannot be written; `Failure::DataCheck` beyond the limit.
    pub(super) fn add(&mut self, line: u64, reason: &str, record: &[u8]) -> anyhow::Result<()> {
        self.add_piece(record)?;
        self.end_pieces(line, reason)
    }

    /// A piece of a record that is too long to be held.
    ///
    /// # Errors
    /// As `add`.
    pub(super) fn add_piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.take_room(piece.len())?;
        self.piece(piece).with_context(|| self.trouble())
    }

    /// Counts bytes that are about to be written.
    fn take_room(&mut self, bytes: usize) -> anyhow::Result<()> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes > self.bytes_max {
            let (input, most) = (&self.input, self.bytes_max);
            let text = format!("{input}: its rejected records and their reasons have more than {most} bytes");
            return Err(Failure::DataCheck(text).into());
        }
        Ok(())
    }

    /// The end of such a record.
    ///
    /// # Errors
    /// As `add`.
    pub(super) fn end_pieces(&mut self, line: u64, reason: &str) -> anyhow::Result<()> {
        let said = format!("{}: {reason}\n", self.place(line));
        self.take_room(said.len() + 1)?;
        self.close(&said).with_context(|| self.trouble())?;
        self.count += 1;
        let (input, shown) = (&self.input, self.count <= SHOWN_MAX);
        if shown {
            self.progress.suspend(|| tracing::warn!(input, line, reason, "record rejected"));
        }
        if self.count > self.max {
            let text = format!(
                "{}: more than {} records were rejected; the reasons are in {} (--max-rejected sets the limit)",
                self.input,
                self.max,
                self.reasons_path().display()
            );
            return Err(Failure::DataCheck(text).into());
        }
        Ok(())
    }

    /// Where a record stands, as messages say it.
    pub(super) fn place(&self, line: u64) -> String {
        format!("{}:{line}", self.input)
    }

    /// Hands everything to the system, and says how long the files are now.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn flush(&mut self) -> anyhow::Result<Lengths> {
        let Some(files) = &mut self.files else { return Ok(Lengths::default()) };
        let mut lengths = || -> io::Result<Lengths> {
            files.records.flush()?;
            files.reasons.flush()?;
            Ok(Lengths {
                records: files.records.get_mut().stream_position()?,
                reasons: files.reasons.get_mut().stream_position()?,
            })
        };
        let outcome = lengths();
        outcome.with_context(|| self.trouble())
    }

    /// Ends the files; says where they are.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        if self.files.take().is_some() {
            let (file, rejected) = (self.path.display(), self.count);
            tracing::warn!(input = self.input, rejected, %file, "rejected records are in this file; the reasons beside it in .reasons");
        }
        Ok(())
    }

    fn reasons_path(&self) -> PathBuf {
        let mut reasons = self.path.clone().into_os_string();
        reasons.push(".reasons");
        reasons.into()
    }

    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Some(files) = &mut self.files {
            return files.records.write_all(piece);
        }
        let mut files = Files {
            records: BufWriter::new(File::create(&self.path)?),
            reasons: BufWriter::new(File::create(self.reasons_path())?),
        };
        if let Some(header) = &self.header {
            files.records.write_all(header)?;
            files.records.write_all(b"\n")?;
        }
        files.records.write_all(piece)?;
        self.files = Some(files);
        Ok(())
    }

    fn close(&mut self, said: &str) -> io::Result<()> {
        let Some(files) = &mut self.files else { return Ok(()) };
        files.records.write_all(b"\n")?;
        files.reasons.write_all(said.as_bytes())
    }

    fn trouble(&self) -> Failure {
        Failure::Usage(format!("cannot write {}; name another place with --rejected", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten rejected lines of one byte each need far more room for their reasons.
    #[test]
    fn records_and_reasons_share_one_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected");
        let source =
            Source { name: "in".to_owned(), format: None, rejected: path.clone(), bytes: 0, path: Some("in".into()) };
        let room = u64::try_from("in:1: is bad\nx\n".len() * 10).expect("a number");
        let rejects = |bytes_max| {
            let mut rejects = Rejects::new(&source, None, 100, &ProgressBar::hidden());
            rejects.bytes_max = bytes_max;
            rejects
        };
        let fill = |rejects: &mut Rejects| (0..10).try_for_each(|line| rejects.add(line, "is bad", b"x"));
        let mut enough = rejects(room);
        fill(&mut enough).expect("there is room");
        let lengths = enough.flush().expect("written");
        assert_eq!(lengths.records + lengths.reasons, room);

        // One that goes on has as much room left as there was.
        let mut again = rejects(room);
        again.go_on_after(lengths).expect("reopened");
        assert!(again.add(11, "is bad", b"x").is_err());
        let error = fill(&mut rejects(room - 1)).expect_err("no room for the last one");
        assert!(error.to_string().contains("more than"), "{error:#}");
    }
}
