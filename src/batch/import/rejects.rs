//! What could not be imported: each record verbatim in one file, so that it can be mended and imported again, and the
//! reasons beside it in another.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use indicatif::ProgressBar;

use crate::domain::Failure;

/// Reasons said on stderr for each input; the rest is in the file alone.
const SHOWN_MAX: u64 = 5;

/// The rejected records of one input. Shared by the thread that reads and the task that writes to PostgreSQL.
#[derive(Debug, Clone)]
pub(super) struct Rejects(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    input: String,
    path: PathBuf,
    header: Option<Vec<u8>>,
    files: Option<Files>,
    count: u64,
    progress: ProgressBar,
}

#[derive(Debug)]
struct Files {
    records: BufWriter<File>,
    reasons: BufWriter<File>,
}

impl Rejects {
    /// For `input`; nothing is written before the first record. A CSV file's `header` goes before it.
    pub(super) fn new(input: &str, path: &Path, progress: &ProgressBar) -> Self {
        Self(Arc::new(Mutex::new(State {
            input: input.to_owned(),
            path: path.to_owned(),
            header: None,
            files: None,
            count: 0,
            progress: progress.clone(),
        })))
    }

    /// The CSV header.
    pub(super) fn set_header(&self, header: &[u8]) {
        self.lock().header = Some(header.to_vec());
    }

    /// A record and the reason.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn add(&self, line: u64, reason: &str, record: &[u8]) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.piece(record).and_then(|()| state.close(line, reason)).with_context(|| state.trouble())
    }

    /// A piece of a record that is too long to be held.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn add_piece(&self, piece: &[u8]) -> io::Result<()> {
        self.lock().piece(piece)
    }

    /// The end of such a record.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn end_pieces(&self, line: u64, reason: &str) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.close(line, reason).with_context(|| state.trouble())
    }

    /// Where a record stands, as messages say it.
    pub(super) fn place(&self, line: u64) -> String {
        format!("{}:{line}", self.lock().input)
    }

    /// Ends the files; says where they are. The number of records in them.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn finish(&self) -> anyhow::Result<u64> {
        let mut state = self.lock();
        if let Some(mut files) = state.files.take() {
            let flushed = files.records.flush().and_then(|()| files.reasons.flush());
            flushed.with_context(|| state.trouble())?;
            let (file, rejected) = (state.path.display(), state.count);
            tracing::warn!(input = state.input, rejected, %file, "rejected records are in this file; the reasons beside it in .reasons");
        }
        Ok(state.count)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Some(files) = &mut self.files {
            return files.records.write_all(piece);
        }
        let mut reasons = self.path.clone().into_os_string();
        reasons.push(".reasons");
        let mut files = Files {
            records: BufWriter::new(File::create(&self.path)?),
            reasons: BufWriter::new(File::create(reasons)?),
        };
        if let Some(header) = &self.header {
            files.records.write_all(header)?;
            files.records.write_all(b"\n")?;
        }
        files.records.write_all(piece)?;
        self.files = Some(files);
        Ok(())
    }

    fn close(&mut self, line: u64, reason: &str) -> io::Result<()> {
        self.count += 1;
        if let Some(files) = &mut self.files {
            files.records.write_all(b"\n")?;
            writeln!(files.reasons, "{}:{line}: {reason}", self.input)?;
        }
        let (input, shown) = (&self.input, self.count <= SHOWN_MAX);
        if shown {
            self.progress.suspend(|| tracing::warn!(input, line, reason, "record rejected"));
        }
        Ok(())
    }

    fn trouble(&self) -> Failure {
        Failure::Usage(format!("cannot write {}; name another place with --rejected", self.path.display()))
    }
}
