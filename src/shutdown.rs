//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::domain::Failure;

/// `timeout` and session managers signal a process and its group, which is one wish that arrives twice.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Cancelled by the first SIGINT or SIGTERM; every loop and every wait watches it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    hurry: CancellationToken,
    signal: Arc<AtomicU8>,
}

impl Shutdown {
    /// Starts to listen. Call once, inside the runtime.
    ///
    /// # Errors
    /// The operating system refuses the handlers.
    pub fn listen() -> anyhow::Result<Self> {
        let shutdown = Self::default();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let heard = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let number = tokio::select! { _ = interrupt.recv() => 2, _ = terminate.recv() => 15 };
                if heard.token.is_cancelled() {
                    // The operator asked twice: what was promised to survive kill -9 survives this too.
                    #[expect(clippy::disallowed_methods, reason = "a second signal ends at once")]
                    std::process::exit(128 + i32::from(number));
                }
                heard.signal.store(number, Ordering::SeqCst);
                heard.token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// As `listen`, for a process that must not leave its children alone: a second signal cancels `hurry` instead of
    /// ending this process, and a terminal that is closed (SIGHUP) counts as a signal too.
    ///
    /// # Errors
    /// The operating system refuses the handlers.
    pub fn listen_as_parent() -> anyhow::Result<Self> {
        let shutdown = Self::default();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let heard = shutdown.clone();
        tokio::spawn(async move {
            let mut first = None;
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => 2,
                    _ = terminate.recv() => 15,
                    // It comes beside SIGTERM when a session ends, and means no impatience.
                    _ = hangup.recv() => 1,
                };
                let first = *first.get_or_insert_with(Instant::now);
                if !heard.token.is_cancelled() {
                    heard.signal.store(number, Ordering::SeqCst);
                    heard.token.cancel();
                } else if number != 1 && first.elapsed() >= SAME_SIGNAL {
                    heard.hurry.cancel();
                }
            }
        });
        Ok(shutdown)
    }

    /// Cancelled by the second signal, if this was made by `listen_as_parent`: what still runs shall be killed.
    pub fn hurry(&self) -> &CancellationToken {
        &self.hurry
    }

    /// One that only `cancel` ends; for tests and for parts of a larger process.
    pub fn manual() -> Self {
        Self::default()
    }

    /// The token to select on.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Whether the end was asked for.
    pub fn requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The failure that a job interrupted by the signal ends with (130 or 143).
    pub fn failure(&self) -> Failure {
        Failure::Signal(self.signal.load(Ordering::SeqCst).max(2))
    }

    /// Runs `work` until it ends or the signal comes.
    ///
    /// # Errors
    /// Those of `work`, or `Failure::Signal`.
    pub async fn guard<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            result = work => result,
            () = self.token.cancelled() => Err(self.failure().into()),
        }
    }
}
