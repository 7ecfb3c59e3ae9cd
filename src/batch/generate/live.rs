//! Changes that go on until they are stopped: most are new posts, some change one or remove one that this run has written.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use chrono::Utc;
use indicatif::ProgressBar;
use rand::RngExt as _;
use tokio::time::MissedTickBehavior;

use super::day::{Day, Rng, popularity};
use crate::batch::post::{self, Label};
use crate::domain::RunDate;
use crate::shutdown::Shutdown;
use crate::store::live_changes::Update;
use crate::store::posts::PostWriter;

/// Transactions a second.
const TRANSACTIONS: u32 = 20;
/// Posts that may still change: the youngest ones.
const YOUNG_MAX: usize = 20_000;
/// Of a hundred changes, how many are of an existing post and how many remove one.
const UPDATES: u64 = 20;
const DELETES: u64 = 5;
/// One update in so many moves the post to the day before.
const MOVE_EVERY: u32 = 50;

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, serde::Serialize)]
pub struct Lived {
    /// Changes a second that were asked for.
    pub rate: u32,
    /// Changes made: the three below.
    pub changes: u64,
    /// New posts.
    pub inserted: u64,
    /// Changed posts.
    pub updated: u64,
    /// Removed posts.
    pub deleted: u64,
    /// Changes left out, because PostgreSQL was more than a second behind.
    pub missed: u64,
    /// Transactions.
    pub transactions: u64,
}

/// Makes `rate` changes a second until `shutdown`, or until `limit` has passed. The transaction that is under way is finished.
///
/// # Errors
/// `Failure::Unavailable` when PostgreSQL goes away.
pub async fn live(
    writer: &PostWriter,
    rate: u32,
    seed: u64,
    limit: Option<Duration>,
    shutdown: &Shutdown,
    progress: &ProgressBar,
) -> anyhow::Result<Lived> {
    let begun = Instant::now();
    let mut state = State::new(seed)?;
    let mut done = Lived { rate, ..Lived::default() };
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / TRANSACTIONS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.token().cancelled() => return Ok(done),
            _ = ticks.tick() => {}
        }
        let passed = begun.elapsed();
        let over = limit.is_some_and(|limit| passed >= limit);
        let micros = u64::try_from(limit.map_or(passed, |limit| passed.min(limit)).as_micros()).unwrap_or(u64::MAX);
        let due = micros.saturating_mul(u64::from(rate)) / 1_000_000;
        let behind = due.saturating_sub(done.changes + done.missed);
        let count = behind.min(u64::from(rate));
        done.missed += behind - count;
        if count > 0 {
            state.change(writer, count, &mut done).await?;
            progress.set_position(done.changes);
        }
        if over {
            return Ok(done);
        }
    }
}

struct State {
    seed: u64,
    day: Day,
    date: RunDate,
    rng: Rng,
    /// Differs between runs, so that no run meets the posts of another.
    run: i64,
    number: u64,
    young: VecDeque<(String, String)>,
    encoded: BytesMut,
}

impl State {
    fn new(seed: u64) -> anyhow::Result<Self> {
        let now = Utc::now();
        let (date, run) = (RunDate::of(now), now.timestamp_micros());
        let day = Day::new(date, seed)?;
        let rng = day.rng(0);
        Ok(Self { seed, day, date, rng, run, number: 0, young: VecDeque::new(), encoded: BytesMut::new() })
    }

    /// One transaction of `count` changes.
    async fn change(&mut self, writer: &PostWriter, count: u64, done: &mut Lived) -> anyhow::Result<()> {
        let (mut inserts, mut updates, mut deletes) = (0, Vec::new(), Vec::new());
        for _ in 0..count {
            match self.rng.random_range(0..100u64) {
                0..DELETES if !self.young.is_empty() => deletes.extend(self.taken()),
                DELETES..UPDATES if !self.young.is_empty() => updates.extend(self.update()),
                _ => inserts += 1,
            }
        }
        // A post that is removed in this transaction is not changed in it too.
        updates.retain(|update: &Update| !deletes.contains(&update.key));
        updates.sort_by(|one, other| one.key.cmp(&other.key));
        updates.dedup_by(|one, other| one.key == other.key);
        let rows = self.posts(inserts)?;
        writer.begin().await?;
        let inserted = writer.insert(&rows).await.map_err(anyhow::Error::from)?;
        let updated = writer.update(&updates).await?;
        let deleted = writer.delete(&deletes).await?;
        writer.commit().await?;
        done.inserted += inserted;
        done.updated += updated;
        done.deleted += deleted;
        done.changes += inserted + updated + deleted;
        // Changes that met in one post count as missed, so that the rate is not chased.
        done.missed += count - inserted - updated - deleted;
        done.transactions += 1;
        Ok(())
    }

    fn posts(&mut self, count: u64) -> anyhow::Result<bytes::Bytes> {
        let now = Utc::now();
        if RunDate::of(now) != self.date {
            self.date = RunDate::of(now);
            self.day = Day::new(self.date, self.seed)?;
        }
        for _ in 0..count {
            let id = format!("live-{}-{}-{:010}", self.seed, self.run, self.number);
            let post = self.day.post_at(now, self.number, id, &mut self.rng);
            post::encode(&post, &mut self.encoded);
            self.young.push_back((post.platform.into_owned(), post.post_id.into_owned()));
            self.number += 1;
        }
        let beyond = self.young.len().saturating_sub(YOUNG_MAX);
        self.young.drain(..beyond);
        Ok(self.encoded.split().freeze())
    }

    fn taken(&mut self) -> Option<(String, String)> {
        let at = self.rng.random_range(0..self.young.len());
        self.young.swap_remove_back(at)
    }

    fn update(&mut self) -> Option<Update> {
        let at = self.rng.random_range(0..self.young.len());
        let key = self.young.get(at)?.clone();
        let score = self.rng.random_range(-1000..=1000i32);
        let label = match score {
            200.. => Label::Positive,
            ..=-200 => Label::Negative,
            _ => Label::Neutral,
        };
        Some(Update {
            key,
            label: label.as_str(),
            score_thousandths: score,
            likes: popularity(&mut self.rng),
            days_back: i32::from(self.rng.random_ratio(1, MOVE_EVERY)),
        })
    }
}
