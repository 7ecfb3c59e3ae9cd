//! When a stale bucket is built: soon after the last change of a burst, and now and then while changes keep coming. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::aggregates::Stale;
use crate::domain::RunDate;

/// While changes keep coming a bucket rests so many times as long as its last build took.
const REST: u32 = 1;
/// Wait after somebody else was at work on a bucket.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between two attempts of a build that fails.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(300);

/// What the configuration says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Without a change for so long a burst is over.
    pub(super) quiet: Duration,
    /// The longest that a bucket waits although changes keep coming.
    pub(super) longest: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    mark: u64,
    /// When it was first seen stale, or built last while changes kept coming.
    since: Instant,
    changed_at: Instant,
    failures: u32,
    not_before: Option<Instant>,
}

/// What is known of the stale buckets, at most those that a round lists.
#[derive(Debug, Default)]
pub(super) struct Paces {
    waiting: HashMap<(String, RunDate), Waiting>,
    /// How long the last build of an aggregate took, and the rows of its result.
    costs: HashMap<String, (Duration, u64)>,
}

impl Paces {
    /// Forgets buckets of an aggregate that are not stale any more.
    pub(super) fn keep(&mut self, aggregate: &str, stale: &[Stale]) {
        let buckets: std::collections::HashSet<RunDate> = stale.iter().map(|stale| stale.bucket).collect();
        self.waiting.retain(|(name, bucket), _| name != aggregate || buckets.contains(bucket));
    }

    /// Takes in a stale bucket as it is now.
    pub(super) fn note(&mut self, aggregate: &str, stale: &Stale, now: Instant) {
        let fresh = Waiting { mark: stale.mark, since: now, changed_at: now, failures: 0, not_before: None };
        let waiting = self.waiting.entry((aggregate.to_owned(), stale.bucket)).or_insert(fresh);
        if waiting.mark != stale.mark {
            (waiting.mark, waiting.changed_at) = (stale.mark, now);
        }
    }

    /// Whether a bucket that was noted has waited long enough; `together` with another of the same rows half as long is enough, because
    /// the rows are read only once then.
    pub(super) fn may_be_due(&self, aggregate: &str, stale: &Stale, pace: Pace, now: Instant, together: bool) -> bool {
        let Some(waiting) = self.waiting.get(&(aggregate.to_owned(), stale.bucket)) else { return false };
        let cost = self.costs.get(aggregate).map_or(Duration::ZERO, |(cost, _)| *cost);
        let longest = (cost * REST).max(pace.quiet).min(pace.longest.max(pace.quiet));
        let longest = if together { longest / 2 } else { longest };
        waiting.not_before.is_none_or(|at| now >= at)
            && (now - waiting.changed_at >= pace.quiet || now - waiting.since >= longest)
    }

    /// The same, when the sink has acknowledged `batch`: a build is in vain that sees no more than the one before, and early
    /// before the newest mark's rows are there, as long as they may still be waited for.
    pub(super) fn is_due(&self, aggregate: &str, stale: &Stale, pace: Pace, now: Instant, batch: u64) -> bool {
        let Some(waiting) = self.waiting.get(&(aggregate.to_owned(), stale.bucket)) else { return false };
        let waited = now - waiting.since >= pace.longest || now - waiting.changed_at < pace.quiet;
        stale.as_of.is_none_or(|as_of| batch > as_of) && (batch >= stale.mark || waited)
    }

    /// Rows of an aggregate's last result: those with few are built first. What a build took does not tell them apart, because the first of
    /// several reads the rows' hash for all.
    pub(super) fn rows_out(&self, aggregate: &str) -> u64 {
        self.costs.get(aggregate).map_or(0, |(_, rows_out)| *rows_out)
    }

    /// It was built; what is stale of it now has begun to be so.
    pub(super) fn built(&mut self, aggregate: &str, bucket: RunDate, now: Instant, cost: (Duration, u64)) {
        self.costs.insert(aggregate.to_owned(), cost);
        if let Some(waiting) = self.waiting.get_mut(&(aggregate.to_owned(), bucket)) {
            (waiting.since, waiting.failures, waiting.not_before) = (now, 0, None);
        }
    }

    /// Somebody else is at work on it.
    pub(super) fn postpone(&mut self, aggregate: &str, bucket: RunDate, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&(aggregate.to_owned(), bucket)) {
            waiting.not_before = Some(now + BUSY_WAIT);
        }
    }

    /// It could not be built: the wait is twice as long after each failure.
    pub(super) fn failed(&mut self, aggregate: &str, bucket: RunDate, now: Instant) -> Duration {
        let Some(waiting) = self.waiting.get_mut(&(aggregate.to_owned(), bucket)) else { return BUSY_WAIT };
        waiting.failures = waiting.failures.saturating_add(1);
        let wait = Duration::from_secs(1 << waiting.failures.min(9)).min(RETRY_WAIT_MAX);
        waiting.not_before = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { quiet: Duration::from_millis(500), longest: Duration::from_secs(10) };

    fn stale(mark: u64, as_of: Option<u64>) -> Stale {
        Stale { bucket: "2024-05-01".parse().expect("a day"), mark, as_of, noted_at: None }
    }

    fn due(paces: &mut Paces, stale: &Stale, now: Instant, batch: u64) -> bool {
        paces.note("a", stale, now);
        paces.may_be_due("a", stale, PACE, now, false) && paces.is_due("a", stale, PACE, now, batch)
    }

    #[test]
    fn a_burst_is_built_when_it_is_over_and_its_rows_are_there() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        let at = |ms: u64| begun + Duration::from_millis(ms);
        assert!(!due(&mut paces, &stale(5, Some(1)), at(0), 9));
        assert!(!due(&mut paces, &stale(6, Some(1)), at(400), 9));
        assert!(!due(&mut paces, &stale(6, Some(1)), at(900), 5), "its rows are not acknowledged");
        assert!(due(&mut paces, &stale(6, Some(1)), at(900), 6));
        assert!(due(&mut paces, &stale(6, None), at(900), 6));
        assert!(!due(&mut paces, &stale(99, Some(6)), at(20_000), 6), "nothing new is there");
    }

    #[test]
    fn changes_that_keep_coming_are_built_by_what_a_build_costs() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        paces.built("a", stale(0, None).bucket, begun, (Duration::from_millis(800), 1));
        let times: Vec<u64> = (0..50_u64)
            .map(|step| step * 200)
            .filter(|ms| {
                let now = begun + Duration::from_millis(*ms);
                let is_due = due(&mut paces, &stale(100 + ms, Some(1)), now, 99 + ms);
                if is_due {
                    paces.built("a", stale(0, None).bucket, now, (Duration::from_millis(800), 1));
                }
                is_due
            })
            .collect();
        assert_eq!(times, (800..9_900).step_by(800).collect::<Vec<u64>>());
        paces.built("a", stale(0, None).bucket, begun, (Duration::from_secs(60), 1));
        assert!(!due(&mut paces, &stale(900, Some(1)), begun + Duration::from_secs(9), 800));
        assert!(due(&mut paces, &stale(901, Some(1)), begun + Duration::from_secs(10), 800), "never longer than that");
    }

    #[test]
    fn what_is_made_of_the_same_rows_is_built_together() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        let at = |ms: u64| begun + Duration::from_millis(ms);
        paces.note("a", &stale(1, Some(0)), at(0));
        paces.built("a", stale(0, None).bucket, at(0), (Duration::from_secs(2), 1));
        let due = |paces: &mut Paces, ms: u64, together: bool| {
            paces.note("a", &stale(ms, Some(1)), at(ms));
            paces.may_be_due("a", &stale(ms, Some(1)), PACE, at(ms), together)
        };
        let rest = [(900, true), (1_100, false), (1_400, false), (1_800, false)];
        assert!(
            rest.iter().all(|(ms, together)| !due(&mut paces, *ms, *together)),
            "its rest is 2 s, half of it with another"
        );
        assert!(due(&mut paces, 1_900, true));
        assert!(due(&mut paces, 2_000, false));
        assert!(!paces.may_be_due("b", &stale(1, None), PACE, at(9_000), true), "it was never noted");
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        let one = stale(5, None);
        assert!(!due(&mut paces, &one, begun, 9));
        let waits: Vec<u64> = (0..10).map(|_| paces.failed("a", one.bucket, begun).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(!due(&mut paces, &one, begun + Duration::from_secs(299), 9));
        assert!(due(&mut paces, &one, begun + Duration::from_secs(301), 9));
        paces.keep("a", &[]);
        assert!(!due(&mut paces, &one, begun + Duration::from_secs(302), 9), "it begins anew");
    }
}
