//! From the decoder to the writer: a few batches at most, and knowing when all of them are durable.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::{Batch, record_hash};
use crate::store::kafka::Record;

/// The decoder's end.
#[derive(Debug)]
pub(super) struct Outbox {
    batches: mpsc::Sender<Batch>,
    sent: u64,
    written: watch::Receiver<Written>,
}

/// The writer's end: batches in their order, and where it says what it has written.
pub(super) type Inbox = (mpsc::Receiver<Batch>, watch::Sender<Written>);

/// What the writer has done.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    batches: u64,
    /// When the last one was durable, and how long that took.
    last: Option<(Instant, Duration)>,
}

impl Written {
    /// Counts a batch whose writing began at `begun` and has ended now.
    pub(super) fn add(&mut self, begun: Instant) {
        self.batches += 1;
        self.last = Some((Instant::now(), begun.elapsed()));
    }
}

impl Outbox {
    /// For `limit` batches under way.
    pub(super) fn new(limit: usize) -> (Self, Inbox) {
        let (batches, received) = mpsc::channel(limit.max(1));
        let (count, written) = watch::channel(Written::default());
        (Self { batches, sent: 0, written }, (received, count))
    }

    /// Waits until the writer has nothing to do, and has rested for as long as its last batch took, at most `rest_max`: a batch that
    /// is not full yet goes on filling up meanwhile. Small ones cost the engine their number, not their rows. Never ends when the
    /// writer has ended.
    pub(super) async fn rested(&mut self, rest_max: Duration) {
        self.all_written().await;
        let last = self.written.borrow().last;
        if let Some((ended, took)) = last {
            tokio::time::sleep_until(ended + took.min(rest_max)).await;
        }
    }

    /// Whether a batch would be taken at once.
    #[cfg(test)]
    pub(super) fn has_room(&self) -> bool {
        self.batches.capacity() > 0
    }

    /// Whether the writer has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.written.borrow().batches >= self.sent
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
        if self.written.wait_for(|written| written.batches >= sent).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Lsn;

    #[tokio::test]
    async fn a_batch_that_is_not_full_waits_until_the_writer_has_rested() {
        let (mut outbox, (_batches, written)) = Outbox::new(1);
        let rest = Duration::from_millis(40);
        outbox.rested(rest).await;
        outbox.send(Batch::at(1, Lsn::ZERO, -1, 0, String::new()), None).await;
        assert!(tokio::time::timeout(rest, outbox.rested(rest)).await.is_err(), "it is at work");
        assert!(!outbox.is_idle() && !outbox.has_room());

        let ended = Instant::now();
        written.send_modify(|written| written.add(ended - Duration::from_secs(1)));
        outbox.rested(rest).await;
        assert!(ended.elapsed() >= rest, "no longer than it may, but that long");
    }
}
