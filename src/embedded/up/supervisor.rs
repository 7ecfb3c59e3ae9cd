//! One service: started, watched, started again when it dies, stopped.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::console::{say, seconds};
use super::process::Process;
use super::runner::{Runner, tail};
use super::service::{Service, Step};
use crate::domain::Failure;

const ASK_EVERY: Duration = Duration::from_millis(50);
/// A service that does not answer at all must not keep its own end from being seen.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const RESTART_WAIT_MIN: Duration = Duration::from_secs(1);
const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);
/// After this long a service counts as healthy, and its next death is the first again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// A service under supervision.
#[derive(Debug)]
pub(super) struct Supervised {
    /// Its name.
    pub(super) name: &'static str,
    /// What people call it.
    pub(super) title: &'static str,
    /// What must outlive it.
    pub(super) needs: &'static [&'static str],
    stop: watch::Sender<Option<Duration>>,
    task: tokio::task::JoinHandle<()>,
}

/// Resolves when the service is ready for the first time, or cannot become so.
pub(super) type FirstReady = oneshot::Receiver<anyhow::Result<()>>;

impl Supervised {
    /// Starts `service` and the task that watches it. It has `ready_timeout` to become ready for the first time.
    pub(super) fn start(
        step: &Step,
        service: Arc<dyn Service>,
        runner: Runner,
        ready_timeout: Duration,
    ) -> (Self, FirstReady) {
        let (stop, stopped) = watch::channel(None);
        let (ready, first_ready) = oneshot::channel();
        let watcher = Watcher { name: step.name, title: step.title, service, runner, stopped, ready_timeout };
        let task = tokio::spawn(watcher.run(ready));
        (Self { name: step.name, title: step.title, needs: step.needs, stop, task }, first_ready)
    }

    /// Stops the service within `grace`.
    pub(super) async fn stop(self, grace: Duration) {
        let started = Instant::now();
        self.stop.send_replace(Some(grace));
        if self.task.await.is_ok() {
            say(format!("  {:20} stopped  {:>6}", self.title, seconds(started.elapsed())));
        }
    }
}

struct Watcher {
    name: &'static str,
    title: &'static str,
    service: Arc<dyn Service>,
    runner: Runner,
    stopped: watch::Receiver<Option<Duration>>,
    ready_timeout: Duration,
}

/// How long to wait before the next life.
#[derive(Debug, Default)]
struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The wait after a life of this length: doubled after each short one.
    fn after(&mut self, life: Duration) -> Duration {
        self.deaths = if life >= HEALTHY_AFTER { 1 } else { self.deaths.saturating_add(1) };
        RESTART_WAIT_MIN.saturating_mul(2_u32.saturating_pow(self.deaths - 1)).min(RESTART_WAIT_MAX)
    }
}

/// How a life of the process ended.
enum End {
    /// It was asked to, within this time.
    Asked(Duration),
    /// By itself, or it could not even be started; with the reason.
    Died(String),
}

impl Watcher {
    async fn run(mut self, ready: oneshot::Sender<anyhow::Result<()>>) {
        if let Err(error) = self.service.prepare(&self.runner).await {
            drop(ready.send(Err(error)));
            return;
        }
        let mut ready = Some(ready);
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let Some(reason) = self.live(&mut ready).await else { return };
            let log = self.runner.data_dir.log(self.name);
            if let Some(ready) = ready.take() {
                let text = format!("{} {reason}; the end of {}:\n{}", self.title, log.display(), tail(&log));
                drop(ready.send(Err(Failure::Unavailable(text).into())));
                return;
            }
            let wait = backoff.after(started.elapsed());
            say(format!(
                "platform: {} {reason}; it is started again in {} s; its log is {}",
                self.title,
                wait.as_secs(),
                log.display()
            ));
            tokio::select! {
                _ = self.stopped.wait_for(Option::is_some) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One life of the process, from its start to its end; `None` when it was asked to end, else why it died.
    async fn live(&mut self, ready: &mut Option<oneshot::Sender<anyhow::Result<()>>>) -> Option<String> {
        let launched = self.service.launch();
        let started = launched.and_then(|launch| Process::start(self.name, &launch, &self.runner.data_dir));
        let mut process = match started {
            Ok(process) => process,
            Err(error) => return Some(format!("does not start: {error:#}")),
        };
        process.detach_on_drop();
        match self.until_ended(&mut process, ready).await {
            End::Died(reason) => Some(reason),
            End::Asked(grace) => {
                if !process.stop(self.service.farewell(), grace, &self.runner.hurry).await {
                    say(format!("platform: {} did not stop in time and was killed", self.title));
                }
                None
            }
        }
    }

    async fn until_ended(
        &mut self,
        process: &mut Process,
        ready: &mut Option<oneshot::Sender<anyhow::Result<()>>>,
    ) -> End {
        let deadline = ready.is_some().then_some(self.ready_timeout);
        let became_ready = tokio::select! {
            became = until_ready(self.service.as_ref(), deadline) => became,
            status = process.ended() => return End::Died(died(status)),
            grace = asked(&mut self.stopped) => return End::Asked(grace),
        };
        match (ready.take(), became_ready) {
            (Some(first), Ok(())) => drop(first.send(Ok(()))),
            (None, _) => say(format!("platform: {} is ready again", self.title)),
            (Some(first), Err(reason)) => {
                let log = self.runner.data_dir.log(self.name);
                let text = format!(
                    "{} is not ready after {} s ({reason}); its log is {}",
                    self.title,
                    self.ready_timeout.as_secs(),
                    log.display()
                );
                drop(first.send(Err(Failure::Unavailable(text).into())));
            }
        }
        tokio::select! {
            status = process.ended() => End::Died(died(status)),
            grace = asked(&mut self.stopped) => End::Asked(grace),
        }
    }
}

/// Asks until the service is ready; gives up after `limit` with the last reason.
async fn until_ready(service: &dyn Service, limit: Option<Duration>) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let reason = match tokio::time::timeout(ANSWER_TIMEOUT, service.ready()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            return Err(reason);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn asked(stopped: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stopped.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // Whoever could ask is gone: nobody would wait.
        Err(_) => Duration::ZERO,
    }
}

fn died(status: anyhow::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended ({status})"),
        Err(error) => format!("was lost ({error:#})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_become_rarer_until_a_life_was_healthy() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..7).map(|_| backoff.after(Duration::from_secs(2)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.after(HEALTHY_AFTER).as_secs(), 1);
        assert_eq!(backoff.after(Duration::ZERO).as_secs(), 2);
    }
}
