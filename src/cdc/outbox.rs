//! From the decoder to the writer: a few batches at most, and knowing when all of them are durable.

use tokio::sync::{mpsc, watch};

use super::batch::{Batch, record_hash};
use crate::store::kafka::Record;

/// The decoder's end.
#[derive(Debug)]
pub(super) struct Outbox {
    batches: mpsc::Sender<Batch>,
    sent: u64,
    written: watch::Receiver<u64>,
}

/// The writer's end: batches in their order, and where it says how many it has written.
pub(super) type Inbox = (mpsc::Receiver<Batch>, watch::Sender<u64>);

impl Outbox {
    /// For `limit` batches under way.
    pub(super) fn new(limit: usize) -> (Self, Inbox) {
        let (batches, received) = mpsc::channel(limit.max(1));
        let (count, written) = watch::channel(0);
        (Self { batches, sent: 0, written }, (received, count))
    }

    /// Waits until a batch would be taken at once. Never ends when the writer has ended.
    pub(super) async fn room(&self) {
        if self.batches.reserve().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the writer has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        *self.written.borrow() >= self.sent
    }

    /// Hands a batch to the writer, with the hash of its last record; returns the empty one that follows. Never ends when
    /// the writer has ended, which says itself why.
    pub(super) async fn send(&mut self, mut batch: Batch, last: Option<&Record>) -> Batch {
        if let Some(last) = last {
            batch.record_hash = record_hash(last);
        }
        let next = Batch::after(&batch);
        if self.batches.send(batch).await.is_err() {
            return std::future::pending().await;
        }
        self.sent += 1;
        next
    }

    /// Waits until every batch is written. Never ends when the writer has ended.
    pub(super) async fn all_written(&mut self) {
        let sent = self.sent;
        if self.written.wait_for(|written| *written >= sent).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
