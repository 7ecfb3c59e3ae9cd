//! Ends a statement whose client has gone, and no other.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::engine::Engine;
use super::exception::{self, Exception};

#[derive(Debug, Default)]
enum State {
    /// No connection yet.
    #[default]
    Waiting,
    /// On the connection with this tag.
    Running(String),
    /// The connection is free for others.
    Ended,
    /// The client has gone.
    Cancelled,
}

/// The side of the thread that runs the statement.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<State>>);

impl Running {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on a cancel kills what runs under this tag.
    ///
    /// # Errors
    /// 394 if the client has gone meanwhile.
    pub(super) fn start(&self, tag: &str) -> Result<(), Exception> {
        let mut state = self.state();
        if matches!(*state, State::Cancelled) {
            return Err(Exception::new(exception::QUERY_WAS_CANCELLED, "Query was cancelled"));
        }
        *state = State::Running(tag.to_owned());
        Ok(())
    }

    /// From here on a cancel does nothing. Says whether one came before: then the connection must not be used again,
    /// because the kill may still be on its way.
    pub(super) fn end(&self) -> bool {
        let mut state = self.state();
        let cancelled = matches!(*state, State::Cancelled);
        if !cancelled {
            *state = State::Ended;
        }
        cancelled
    }
}

/// The side of the HTTP connection: cancels when it is dropped.
#[derive(Debug)]
pub(super) struct Cancel {
    running: Running,
    engine: Arc<Engine>,
    runtime: Handle,
}

impl Cancel {
    pub(super) fn new(running: Running, engine: Arc<Engine>, runtime: Handle) -> Self {
        Self { running, engine, runtime }
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        let mut state = self.running.state();
        if matches!(*state, State::Ended) {
            return;
        }
        if let State::Running(tag) = std::mem::replace(&mut *state, State::Cancelled) {
            let engine = Arc::clone(&self.engine);
            self.runtime.spawn_blocking(move || engine.kill(&tag));
        }
    }
}
