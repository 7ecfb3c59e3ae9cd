//! The answer: held back while it is small, so that errors are statuses; then streamed, and broken if it fails.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use tempfile::SpooledTempFile;
use tokio::sync::oneshot;

use super::analysis::Statistics;
use super::body::{BodySender, Gone, Outgoing};
use super::compression::{Encoder, Encoding, compress_blocks};
use super::exception::{self, Exception};
use super::format::content_type;

/// Bytes held back before the status is sent: an error among the first rows is still a status.
const HELD_BYTES_MAX: usize = 1 << 20;
/// With `wait_end_of_query`: bytes in memory, then in a file, then no more.
const BUFFER_MEMORY_BYTES_MAX: usize = 16 << 20;
const BUFFER_BYTES_MAX: u64 = 16 << 30;
/// Bytes given to HTTP at once.
const PIECE_BYTES: usize = 256 << 10;

/// Status and headers.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Length of the body, if the whole of it is known.
    pub(super) length: Option<u64>,
}

/// How an answer is to look.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) encoding: Encoding,
    pub(super) blocks: bool,
    /// Hold the whole answer back; the folder is for what does not fit into memory.
    pub(super) buffer_in: Option<PathBuf>,
    pub(super) engine_version: String,
    pub(super) query_id: String,
}

/// Why an answer ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(Exception),
    Gone,
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Failed(exception)
    }
}

/// The answer of one request, written by the thread that runs its statement.
pub(super) struct Response {
    shape: Shape,
    head: Option<oneshot::Sender<Head>>,
    body: BodySender,
    encoder: Encoder,
    held: SpooledTempFile,
    held_bytes: u64,
    format: String,
    tag: String,
    started: Instant,
    statistics: Statistics,
}

impl Response {
    /// # Errors
    /// No memory for the encoder.
    pub(super) fn new(shape: Shape, head: oneshot::Sender<Head>, body: BodySender) -> Result<Self, Exception> {
        let held = match &shape.buffer_in {
            Some(folder) => tempfile::spooled_tempfile_in(BUFFER_MEMORY_BYTES_MAX, folder),
            None => tempfile::spooled_tempfile(HELD_BYTES_MAX * 2),
        };
        let encoder = Encoder::new(shape.encoding)?;
        Ok(Self {
            shape,
            head: Some(head),
            body,
            encoder,
            held,
            held_bytes: 0,
            format: "TabSeparated".into(),
            tag: uuid::Uuid::new_v4().simple().to_string().chars().take(16).collect(),
            started: Instant::now(),
            statistics: Statistics::default(),
        })
    }

    /// The format of the rows, known once the statement is read.
    pub(super) fn set_format(&mut self, format: &str) {
        format.clone_into(&mut self.format);
    }

    /// Counts of a piece or of the whole.
    pub(super) fn count(&mut self, statistics: Statistics) {
        self.statistics.add(statistics);
    }

    /// Adds rows, in pieces of a size that HTTP can hold.
    pub(super) fn write(&mut self, rows: &[u8]) -> Result<(), Stop> {
        for piece in rows.chunks(PIECE_BYTES) {
            let packed =
                if self.shape.blocks { self.encoder.push(&compress_blocks(piece)) } else { self.encoder.push(piece) };
            self.hold_or_send(packed.map_err(Exception::from)?)?;
        }
        let rest = self.encoder.flush().map_err(Exception::from)?;
        self.hold_or_send(rest)
    }

    fn hold_or_send(&mut self, packed: Vec<u8>) -> Result<(), Stop> {
        if self.head.is_none() {
            return Ok(self.send(packed)?);
        }
        self.held_bytes = self.held_bytes.saturating_add(u64::try_from(packed.len()).unwrap_or(u64::MAX));
        let buffered = self.shape.buffer_in.is_some();
        if buffered && self.held_bytes > BUFFER_BYTES_MAX {
            return Err(Stop::Failed(Exception::new(
                exception::TOO_MANY_ROWS_OR_BYTES,
                "the answer is larger than wait_end_of_query can hold back; ask without it",
            )));
        }
        self.held.write_all(&packed).map_err(Exception::from)?;
        if !buffered && self.held_bytes >= u64::try_from(HELD_BYTES_MAX).unwrap_or(u64::MAX) {
            self.open(None)?;
        }
        Ok(())
    }

    /// Ends a good answer.
    pub(super) fn finish(mut self) -> Result<(), Gone> {
        let rest = std::mem::take(&mut self.encoder).finish();
        let Ok(rest) = rest else { return self.body.send(Outgoing::Broken) };
        if self.head.is_none() {
            return self.send(rest);
        }
        // Nothing at all is sent as nothing: an encoder's empty frame would only puzzle clients.
        let length = if self.held_bytes == 0 {
            self.shape.encoding = Encoding::Identity;
            0
        } else {
            if self.held.write_all(&rest).is_err() {
                return Err(Gone);
            }
            self.held_bytes.saturating_add(u64::try_from(rest.len()).unwrap_or(u64::MAX))
        };
        self.open(Some(length))
    }

    /// Ends with an error: as a status if nothing was sent, else at the end of what was sent, which is then broken off.
    pub(super) fn fail(mut self, error: &Exception) {
        let line = error.line(&self.shape.engine_version);
        if let Some(head) = self.head.take() {
            self.shape.encoding = Encoding::Identity;
            let mut headers = self.headers();
            headers.retain(|(name, _)| *name != "Content-Type" && *name != "X-ClickHouse-Format");
            headers.push(("Content-Type", "text/plain; charset=UTF-8".into()));
            headers.push(("X-ClickHouse-Exception-Code", error.code.to_string()));
            let length = u64::try_from(line.len()).ok();
            if head.send(Head { status: error.status(), headers, length }).is_ok() {
                drop(self.send(line.into_bytes()));
            }
            return;
        }
        // ClickHouse's `WriteBufferFromHTTPServerResponse`: the tag of the header, the text, its length, the tag again.
        let block = format!(
            "\r\n__exception__\r\n{tag}\r\n{line}{length} {tag}\r\n__exception__\r\n",
            tag = self.tag,
            length = line.len()
        );
        let block = if self.shape.blocks { compress_blocks(block.as_bytes()) } else { block.into_bytes() };
        // In one piece: a client looks for the block at the end of what it reads at once.
        let mut whole = self.encoder.push(&block).unwrap_or_default();
        whole.extend(std::mem::take(&mut self.encoder).finish().unwrap_or_default());
        if self.body.send(Outgoing::Data(whole.into())).is_ok() {
            drop(self.body.send(Outgoing::Broken));
        }
    }

    /// Sends status and headers, then what was held back.
    fn open(&mut self, length: Option<u64>) -> Result<(), Gone> {
        let headers = self.headers();
        let head = self.head.take().ok_or(Gone)?;
        head.send(Head { status: StatusCode::OK, headers, length }).map_err(|_| Gone)?;
        self.held.rewind().map_err(|_| Gone)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let limit = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
            if (&mut self.held).take(limit).read_to_end(&mut piece).is_err() {
                self.body.send(Outgoing::Broken)?;
                return Err(Gone);
            }
            if piece.is_empty() {
                return Ok(());
            }
            self.body.send(Outgoing::Data(piece.into()))?;
        }
    }

    fn send(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            self.body.send(Outgoing::Data(piece))?;
        }
        Ok(())
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("Content-Type", content_type(&self.format).to_owned()),
            ("X-ClickHouse-Format", self.format.clone()),
            ("X-ClickHouse-Query-Id", self.shape.query_id.clone()),
            ("X-ClickHouse-Timezone", "UTC".into()),
            ("X-ClickHouse-Summary", self.statistics.summary(self.started.elapsed())),
            ("X-ClickHouse-Exception-Tag", self.tag.clone()),
        ];
        if self.shape.encoding != Encoding::Identity {
            headers.push(("Content-Encoding", self.shape.encoding.name().into()));
            headers.push(("Vary", "Accept-Encoding".into()));
        }
        headers
    }
}
