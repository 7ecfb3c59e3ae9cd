//! Builds the statistics that a change concerns, beside the sink that is active: within seconds, bucket by bucket, by the code of
//! `platform etl`, without asking PostgreSQL for more than the lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use metrics::{counter, gauge, histogram};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::aggregates::{self, BucketLock, DayRead, Outcome, Position, Published, Request, Stale};
use super::refresh_groups::{Due, groups};
use super::refresh_pace::{Pace, Paces};
use crate::catalog::Aggregate;
use crate::config::Settings;
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror_day::MirrorTable;
use crate::store::results::{self, Shown};
use crate::store::stale_buckets::{self, StaleBuckets};
use crate::store::table_states::{self, TableState};
use crate::store::{dirty_buckets, postgres};

/// Time after which a round ends when a bucket has all that is made of its rows, and looks anew at what is most urgent.
const ROUND: Duration = Duration::from_secs(2);
/// Stale buckets of an aggregate that a round looks at, the latest first.
const STALE_MAX: usize = 1_000;
/// Age up to which a read serves another aggregate too: an older one would make the bucket less fresh than a read of its own.
const READ_AGE_MAX: Duration = Duration::from_secs(1);
/// Time between two looks while everything is built: what the sink marks is told at once, what others mark (a load, a repair) is not.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time between two counts of the dirty buckets, for the metric.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What the refresher is told.
#[derive(Debug)]
pub struct Refresher<A> {
    /// Settings of the sink that it runs beside.
    pub settings: Settings,
    /// What it builds.
    pub aggregates: Vec<Aggregate>,
    /// Whether this sink is the one that writes.
    pub is_active: A,
    /// Rings when that sink has marked buckets.
    pub marked: Arc<Notify>,
    /// Ends a build between two steps.
    pub shutdown: Shutdown,
    /// Ends the refresher.
    pub cancelled: CancellationToken,
}

/// What it remembers between two rounds.
#[derive(Default)]
struct Memory {
    client: Option<Client>,
    /// State of the marks when everything was built.
    idle: Option<String>,
    /// By aggregate: the mark of the whole table up to which every bucket with rows was looked for.
    whole_done: HashMap<String, u64>,
    /// Aggregates whose result readers see.
    published: HashSet<String>,
    paces: Paces,
    rounds: usize,
    counted_at: Option<Instant>,
}

/// How far the mirror was, and the rows of a bucket that were read after that, for every aggregate over the same rows.
struct Read {
    position: Position,
    begun: Instant,
    rows: Option<DayRead>,
}

impl<A: Fn() -> bool> Refresher<A> {
    /// Looks every `etl.refresh_interval_ms` while something is to be built, until cancelled.
    pub async fn run(self) {
        let on = self.settings.etl.refresh_interval_ms > 0;
        let interval =
            if on { Duration::from_millis(self.settings.etl.refresh_interval_ms.max(50)) } else { COUNT_EVERY };
        let mut memory = Memory::default();
        let refreshing = async {
            loop {
                tokio::time::sleep(interval).await;
                if memory.idle.is_some() {
                    // A mark that was made before is told too, at worst once in vain.
                    drop(tokio::time::timeout(IDLE_LOOK_EVERY, self.marked.notified()).await);
                }
                if !(self.is_active)() {
                    // What another sink has done meanwhile is not known.
                    memory = Memory::default();
                    continue;
                }
                if let Err(error) = self.round(&mut memory, on).await {
                    memory.client = None;
                    counter!("platform_sink_retries_total", "step" => "refresh").increment(1);
                    tracing::warn!(error = format!("{error:#}"), "the statistics cannot be refreshed; tried again");
                }
            }
        };
        Box::pin(self.cancelled.run_until_cancelled(refreshing)).await;
    }

    async fn round(&self, memory: &mut Memory, on: bool) -> anyhow::Result<()> {
        let limit = Duration::from_secs(self.settings.etl.build_timeout_s);
        let clickhouse = ClickHouse::new(&self.settings.clickhouse)?.with_timeout(limit);
        self.count(&clickhouse, memory).await;
        let marks = dirty_buckets::state(&clickhouse).await?;
        if !on || memory.idle.as_ref() == Some(&marks) {
            return Ok(());
        }
        memory.idle = None;
        let states = table_states::of_pipeline(&clickhouse, &self.settings.sink.pipeline).await?;
        let ours = |aggregate: &&Aggregate| states.contains_key(&aggregate.table.mirror_name());
        let mut ours: Vec<&Aggregate> = self.aggregates.iter().filter(ours).collect();
        if ours.is_empty() {
            return Ok(());
        }
        // Each comes first in its turn.
        memory.rounds = memory.rounds.wrapping_add(1);
        let first = memory.rounds % ours.len();
        ours.rotate_left(first);
        let live = |aggregate: &&Aggregate| {
            let state = states.get(&aggregate.table.mirror_name()).map(|stored| stored.state);
            state == Some(TableState::Live)
        };
        let (live, others): (Vec<&Aggregate>, Vec<&Aggregate>) = ours.into_iter().partition(live);
        let (mut rest, mut lists) = (others.len(), Vec::new());
        let asked: Vec<_> = live.iter().map(|aggregate| (*aggregate, None)).collect();
        let known = stale_buckets::list(&clickhouse, &asked, STALE_MAX).await?;
        for (aggregate, known) in live.into_iter().zip(known) {
            let (stale, is_all) = self.list(&clickhouse, aggregate, known, memory).await?;
            rest += stale.len() + usize::from(!is_all);
            lists.push((aggregate, stale));
        }
        let fresh = self.refresh(&clickhouse, &groups(lists), memory).await?;
        if rest == fresh {
            memory.idle = Some(marks);
        }
        Ok(())
    }

    /// The stale buckets of an aggregate, of which `known` are marked or built, and whether it is known that there are no others.
    async fn list(
        &self,
        clickhouse: &ClickHouse,
        aggregate: &Aggregate,
        known: StaleBuckets,
        memory: &mut Memory,
    ) -> anyhow::Result<(Vec<Stale>, bool)> {
        let name = &aggregate.name;
        if memory.whole_done.get(name) == Some(&known.whole) && memory.published.contains(name) {
            memory.paces.keep(name, &known.buckets);
            return Ok((known.buckets, true));
        }
        // After a TRUNCATE or a load, and for a new file, also buckets that nobody has marked.
        let Some(mirror) = MirrorTable::find(clickhouse, aggregate).await? else { return Ok((Vec::new(), true)) };
        let StaleBuckets { whole, buckets: stale } =
            stale_buckets::of(clickhouse, aggregate, Some(&mirror), STALE_MAX).await?;
        memory.paces.keep(name, &stale);
        if stale.iter().all(|stale| stale.as_of.is_some_and(|as_of| as_of >= whole)) {
            self.publish(clickhouse, aggregate, memory).await?;
            memory.whole_done.insert(name.clone(), whole);
        }
        // Of a result that nobody sees yet more is known in the next round.
        Ok((stale, false))
    }

    /// Builds what is due until the round ends; gives how many buckets are fresh then.
    async fn refresh(
        &self,
        clickhouse: &ClickHouse,
        groups: &[Vec<Due<'_>>],
        memory: &mut Memory,
    ) -> anyhow::Result<usize> {
        let (begun, mut fresh) = (Instant::now(), 0);
        for group in groups {
            let mut read = None;
            if begun.elapsed() > ROUND {
                return Ok(fresh);
            }
            for due in self.due(group, &mut memory.paces) {
                if !(self.is_active)() {
                    return Ok(fresh);
                }
                fresh += usize::from(self.refresh_bucket(clickhouse, due, &mut read, memory).await?);
            }
        }
        Ok(fresh)
    }

    /// Those of a group that have waited long enough; when one has, others come along.
    fn due<'d>(&self, group: &'d [Due<'d>], paces: &mut Paces) -> Vec<&'d Due<'d>> {
        let (pace, now) = (self.pace(), Instant::now());
        for (aggregate, stale) in group {
            paces.note(&aggregate.name, stale, now);
        }
        let is_due = |due: &&Due<'_>, together| paces.may_be_due(&due.0.name, &due.1, pace, now, together);
        if !group.iter().any(|due| is_due(&due, false)) {
            return Vec::new();
        }
        let mut due: Vec<&Due<'_>> = group.iter().filter(|due| is_due(due, true)).collect();
        // What is soon done does not wait for the rest: a day's statistic is small, those of its hours are many.
        due.sort_by_key(|(aggregate, _)| paces.rows_out(&aggregate.name));
        due
    }

    fn pace(&self) -> Pace {
        let etl = &self.settings.etl;
        Pace {
            quiet: Duration::from_millis(etl.refresh_quiet_ms),
            longest: Duration::from_millis(etl.refresh_wait_ms_max),
        }
    }

    async fn publish(&self, clickhouse: &ClickHouse, aggregate: &Aggregate, memory: &mut Memory) -> anyhow::Result<()> {
        let client = self.client(memory).await?;
        let swept = aggregates::sweep(&client, clickhouse, aggregate).await;
        memory.client = Some(client);
        swept?;
        // Without any bucket there is no table that could be shown.
        let is_shown = if aggregates::has_result(clickhouse, aggregate).await? {
            aggregates::publish(clickhouse, aggregate).await? == Published::Shown
        } else {
            results::look(clickhouse, aggregate).await?.0 == Shown::Nothing
        };
        if is_shown {
            memory.published.insert(aggregate.name.clone());
        }
        Ok(())
    }

    /// Builds a bucket if the mirror has what it waits for, out of what was `read` of its rows a moment before, or leaves that there; says
    /// whether it is fresh now.
    async fn refresh_bucket(
        &self,
        clickhouse: &ClickHouse,
        (aggregate, stale): &Due<'_>,
        read: &mut Option<Read>,
        memory: &mut Memory,
    ) -> anyhow::Result<bool> {
        let read = self.read(clickhouse, read).await?;
        let position = read.position;
        if !memory.paces.is_due(&aggregate.name, stale, self.pace(), Instant::now(), position.batch) {
            return Ok(false);
        }
        let client = self.client(memory).await?;
        let begun = Instant::now();
        let built = self.build(clickhouse, &client, (aggregate, stale.bucket), read).await;
        memory.client = Some(client);
        let outcome = match &built {
            Ok(Some(Outcome::Built(_))) => "built",
            Ok(Some(Outcome::Unchanged(_))) => "unchanged",
            Ok(Some(Outcome::Moved) | None) => "busy",
            Err(error) if matches!(error.downcast_ref(), Some(Failure::Busy(_))) => "busy",
            Err(_) => "failed",
        };
        let rows_out = match &built {
            Ok(Some(Outcome::Built(build) | Outcome::Unchanged(build))) => build.rows_out,
            _ => 0,
        };
        counter!("platform_refresh_buckets_total", "outcome" => outcome).increment(1);
        match outcome {
            "busy" => memory.paces.postpone(&aggregate.name, stale.bucket, Instant::now()),
            "failed" => {
                let wait = memory.paces.failed(&aggregate.name, stale.bucket, Instant::now());
                counter!("platform_sink_retries_total", "step" => "refresh").increment(1);
                let error = built.err().map(|error| format!("{error:#}")).unwrap_or_default();
                let (wait_s, bucket) = (wait.as_secs(), stale.bucket.to_string());
                tracing::warn!(
                    aggregate = aggregate.name,
                    bucket,
                    error,
                    wait_s,
                    "a bucket cannot be built; tried again"
                );
            }
            _ => {
                memory.paces.built(&aggregate.name, stale.bucket, Instant::now(), (begun.elapsed(), rows_out));
                let fresh = position.batch >= stale.mark;
                if fresh && let Some(noted_at) = stale.noted_at {
                    let delay = (Utc::now() - noted_at).to_std().unwrap_or_default();
                    histogram!("platform_refresh_delay_seconds").record(delay.as_secs_f64());
                }
                return Ok(fresh);
            }
        }
        Ok(false)
    }

    /// The connection of the build before, unless it has ended or failed.
    async fn client(&self, memory: &mut Memory) -> anyhow::Result<Client> {
        match memory.client.take() {
            Some(client) if !client.is_closed() => Ok(client),
            _ => postgres::connect(&self.settings.postgres, "platform sink refresher").await,
        }
    }

    /// The one there is, unless it is too old.
    async fn read<'r>(&self, clickhouse: &ClickHouse, read: &'r mut Option<Read>) -> anyhow::Result<&'r mut Read> {
        let recent = read.take().filter(|read| read.begun.elapsed() < READ_AGE_MAX);
        let one = match recent {
            Some(one) => one,
            None => {
                let position = aggregates::position(clickhouse, &self.settings.sink.pipeline).await?;
                Read { position, begun: Instant::now(), rows: None }
            }
        };
        Ok(read.insert(one))
    }

    /// `None`: somebody else builds it.
    async fn build(
        &self,
        clickhouse: &ClickHouse,
        client: &Client,
        (aggregate, day): (&Aggregate, RunDate),
        Read { position, rows, .. }: &mut Read,
    ) -> anyhow::Result<Option<Outcome>> {
        let position = *position;
        aggregates::refuse_unready(clickhouse, &aggregate.table, position).await?;
        let Some(lock) = BucketLock::acquire(client, &aggregate.name, day).await? else { return Ok(None) };
        let (pipeline, shutdown) = (self.settings.sink.pipeline.as_str(), &self.shutdown);
        // Whatever is remembered, the view may be gone since.
        let (force, exact, is_shown) = (false, false, false);
        let request =
            Request { clickhouse, pipeline, aggregate, day, lock: &lock, position, force, exact, is_shown, shutdown };
        let outcome = aggregates::build_bucket(&request, rows).await;
        lock.release().await?;
        outcome.map(Some)
    }

    async fn count(&self, clickhouse: &ClickHouse, memory: &mut Memory) {
        if memory.counted_at.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return;
        }
        memory.counted_at = Some(Instant::now());
        let aggregates: Vec<&Aggregate> = self.aggregates.iter().collect();
        match stale_buckets::count(clickhouse, &aggregates).await {
            #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
            Ok(count) => gauge!("platform_dirty_buckets").set(count as f64),
            Err(error) => tracing::debug!(error = %error, "the dirty buckets cannot be counted"),
        }
    }
}
