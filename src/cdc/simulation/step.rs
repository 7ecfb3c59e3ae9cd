//! Asynchronous code, moved on by hand: who goes on, and who never does, is drawn from the seed.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A piece of work that is moved from one pause to the next. Dropping it is a crash.
pub(super) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Goes on to the next pause.
pub(super) fn go_on<T>(work: &mut Work<T>) -> Option<T> {
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// What must be done at once.
pub(super) fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// A moment in which others may go on, or in which this work ends for ever.
pub(super) async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
