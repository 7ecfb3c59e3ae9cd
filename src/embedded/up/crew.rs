//! All steps together: started as their needs are met, stopped the other way round.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::console::{say, seconds};
use super::runner::Runner;
use super::service::{Kind, Step};
use super::supervisor::{FirstReady, Supervised};
use crate::domain::Failure;

/// What every later group of services keeps of the time that is left for stopping.
const RESERVE: Duration = Duration::from_secs(3);
/// For killing what did not stop in time.
const MARGIN: Duration = Duration::from_secs(2);

/// The services that run.
#[derive(Debug, Default)]
pub(super) struct Crew {
    members: Vec<Supervised>,
}

impl Crew {
    /// Starts every step as soon as what it needs is ready, and says how long each took. After the first failure nothing
    /// more is started; what runs stays for `stop`.
    ///
    /// # Errors
    /// The first step's that fails, or `Failure::Signal` when `runner.stop` is cancelled.
    pub(super) async fn start(
        &mut self,
        steps: Vec<Step>,
        runner: &Runner,
        ready_timeout: Duration,
    ) -> anyhow::Result<()> {
        let all: BTreeSet<&str> = steps.iter().map(|step| step.name).collect();
        let mut done = BTreeSet::new();
        let mut waiting = steps;
        let mut under_way = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if failure.is_none() && !runner.stop.is_cancelled() {
                let is_met = |step: &Step| step.needs.iter().all(|need| done.contains(need) || !all.contains(need));
                let (go, stay): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_met);
                waiting = stay;
                for step in go {
                    let first_ready = self.enlist(&step, runner, ready_timeout);
                    under_way.push(complete(step, first_ready, runner));
                }
            }
            match under_way.next().await {
                None => break,
                Some((step, Ok(took))) => {
                    say(format!("  {:20} ready    {:>6}", step.title, seconds(took)));
                    done.insert(step.name);
                }
                Some((_, Err(error))) => {
                    failure.get_or_insert(error);
                    // Jobs that are under way end too, in an orderly way.
                    runner.stop.cancel();
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None if runner.stop.is_cancelled() => Err(Failure::Signal(15).into()),
            None => Ok(()),
        }
    }

    fn enlist(&mut self, step: &Step, runner: &Runner, ready_timeout: Duration) -> Option<FirstReady> {
        let Kind::Service(service) = &step.kind else { return None };
        let (supervised, first_ready) = Supervised::start(step, service.clone(), runner.clone(), ready_timeout);
        self.members.push(supervised);
        Some(first_ready)
    }

    /// Stops every service, those first that nobody else needs, all within `limit`.
    pub(super) async fn stop(self, limit: Duration) {
        let end = Instant::now() + limit.saturating_sub(MARGIN);
        let groups = stop_order(self.members);
        let mut later = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        for group in groups {
            later = later.saturating_sub(1);
            let left = end.saturating_duration_since(Instant::now());
            let grace = left.saturating_sub(RESERVE * later).max(RESERVE / 2);
            join_all(group.into_iter().map(|member| member.stop(grace))).await;
        }
    }
}

/// Groups of services: each is needed by earlier groups only.
fn stop_order(mut members: Vec<Supervised>) -> Vec<Vec<Supervised>> {
    let mut groups = Vec::new();
    while !members.is_empty() {
        let needed: BTreeSet<&str> = members.iter().flat_map(|member| member.needs.iter().copied()).collect();
        let (stay, go): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| needed.contains(member.name));
        if go.is_empty() {
            groups.push(stay);
            break;
        }
        members = stay;
        groups.push(go);
    }
    groups
}

async fn complete(step: Step, first_ready: Option<FirstReady>, runner: &Runner) -> (Step, anyhow::Result<Duration>) {
    let started = Instant::now();
    let outcome = match (&step.kind, first_ready) {
        (Kind::Job(job), _) => job.run(runner).await,
        (Kind::Service(_), Some(first_ready)) => until_first_ready(first_ready, &runner.stop).await,
        (Kind::Service(_), None) => Ok(()),
    };
    (step, outcome.map(|()| started.elapsed()))
}

async fn until_first_ready(first_ready: FirstReady, stop: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        ready = first_ready => ready.unwrap_or_else(|_| Err(anyhow::anyhow!("the task that watches a service is gone"))),
        () = stop.cancelled() => Err(Failure::Signal(15).into()),
    }
}
