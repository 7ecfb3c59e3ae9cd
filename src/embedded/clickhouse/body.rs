//! Bodies between HTTP, which is asynchronous, and the engine, which blocks.

use std::io::{self, Read};
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::exception::{self, Exception};

/// Longest wait for the next bytes of a request; ClickHouse's own `http_receive_timeout` is 30 seconds. The request
/// holds one of the places for statements meanwhile.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait until a client takes some of its answer; longer than ClickHouse's 30 seconds, for clients that compute
/// between two pieces.
const SEND_TIMEOUT: Duration = Duration::from_secs(300);

/// What comes from a client.
#[derive(Debug)]
pub(super) enum Incoming {
    Data(Bytes),
    /// The body is complete. Without it the client has gone.
    End,
}

/// A request body as a reader, for a thread that may block.
#[derive(Debug)]
pub(super) struct BodyReader {
    pieces: mpsc::Receiver<Incoming>,
    current: Bytes,
    ended: bool,
    runtime: Handle,
}

impl BodyReader {
    pub(super) fn new(pieces: mpsc::Receiver<Incoming>, runtime: Handle) -> Self {
        Self { pieces, current: Bytes::new(), ended: false, runtime }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.runtime.block_on(tokio::time::timeout(RECEIVE_TIMEOUT, self.pieces.recv())) {
                Ok(Some(Incoming::Data(data))) => self.current = data,
                Ok(Some(Incoming::End)) => self.ended = true,
                Ok(None) => {
                    return Err(
                        Exception::new(exception::NETWORK_ERROR, "the client left before its body ended").into()
                    );
                }
                Err(_) => {
                    return Err(Exception::new(exception::SOCKET_TIMEOUT, "the client sent nothing for 60 s").into());
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        let taken = self.current.split_to(count);
        if let Some(target) = buffer.get_mut(..count) {
            target.copy_from_slice(&taken);
        }
        Ok(count)
    }
}

/// Refuses more than a number of unpacked bytes.
#[derive(Debug)]
pub(super) struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Limited<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)).ok_or_else(|| {
            Exception::new(exception::QUERY_IS_TOO_LARGE, "the body is larger than this front accepts (--max-body-mb)")
        })?;
        Ok(count)
    }
}

/// What goes to a client.
#[derive(Debug)]
pub(super) enum Outgoing {
    Data(Bytes),
    /// The answer ends in an error: the connection is to be broken, so that no part passes for the whole.
    Broken,
}

/// The client has gone, or takes nothing any more.
#[derive(Debug)]
pub(super) struct Gone;

/// The sending end of an answer's body, for a thread that may block.
#[derive(Debug)]
pub(super) struct BodySender {
    pieces: mpsc::Sender<Outgoing>,
    runtime: Handle,
}

impl BodySender {
    pub(super) fn new(pieces: mpsc::Sender<Outgoing>, runtime: Handle) -> Self {
        Self { pieces, runtime }
    }

    /// Waits until there is room.
    pub(super) fn send(&self, piece: Outgoing) -> Result<(), Gone> {
        let sent = self.runtime.block_on(tokio::time::timeout(SEND_TIMEOUT, self.pieces.send(piece)));
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(Gone) }
    }
}
