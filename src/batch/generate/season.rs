//! What makes one day differ from another: the rhythm of the week, topics that rise and fall, bursts of one topic. Whole
//! numbers only, so that every machine comes to the same ones.

use std::ops::Range;

use chrono::Datelike as _;

use super::words::TOPICS;
use crate::domain::RunDate;

/// Posts of a weekday in percent, from Monday on.
const WEEK: [u64; 7] = [102, 105, 107, 106, 104, 88, 88];
/// Weights of the hours of a working day, UTC.
const HOURS: [u32; 24] = [5, 4, 3, 2, 2, 3, 5, 8, 10, 10, 9, 9, 10, 10, 9, 9, 9, 10, 12, 13, 13, 12, 10, 7];
/// And of the weekend, which begins later and lasts longer.
const HOURS_WEEKEND: [u32; 24] = [8, 7, 5, 3, 2, 2, 2, 3, 5, 8, 11, 12, 12, 12, 11, 11, 11, 11, 12, 13, 13, 13, 12, 10];
/// How much more is written in the hours of a burst, and how much of that is about its topic.
const BURST_HOUR: u32 = 3;
const BURST_TOPIC: u64 = 40;
/// One day in so many has a burst, and gets so many posts more, in percent.
const BURST_EVERY: u64 = 4;
const BURST_ROWS: u64 = 25;

/// Something happens: for some hours everybody writes about one topic, in one mood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Burst {
    /// Hours of the day.
    pub(super) hours: Range<usize>,
    /// Place in `TOPICS`.
    pub(super) topic: usize,
    /// Thousandths on top of the topic's mood.
    pub(super) mood: i16,
}

/// A day of a seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Season {
    day: i64,
    weekday: usize,
    seed: u64,
}

impl Season {
    pub(super) fn new(date: RunDate, seed: u64) -> Self {
        let date = date.naive();
        let weekday = usize::try_from(date.weekday().num_days_from_monday()).unwrap_or(0);
        Self { day: i64::from(date.num_days_from_ce()), weekday, seed }
    }

    /// Posts of this day where a usual one has `rows`; at least one.
    pub(super) fn rows(&self, rows: u64) -> u64 {
        let week = WEEK.get(self.weekday).copied().unwrap_or(100);
        let burst = if self.burst().is_some() { BURST_ROWS } else { 0 };
        // Up to 6 percent more or less by chance.
        let percent = week + burst + self.chance("rows", 0) % 13 - 6;
        (rows.saturating_mul(percent) / 100).max(1)
    }

    /// Weights of the 24 hours.
    pub(super) fn hours(&self) -> [u32; 24] {
        let mut hours = if self.weekday < 5 { HOURS } else { HOURS_WEEKEND };
        if let Some(burst) = self.burst() {
            hours.iter_mut().take(burst.hours.end).skip(burst.hours.start).for_each(|hour| *hour *= BURST_HOUR);
        }
        hours
    }

    /// Weights of `TOPICS`: the k-th would have 1/k of the first, and each of them goes up and down in weeks of its own.
    pub(super) fn topics(&self) -> Vec<u64> {
        (0..TOPICS.len()).map(|topic| self.topic(topic)).collect()
    }

    /// The same in the hours of the burst.
    pub(super) fn topics_of_burst(&self) -> Vec<u64> {
        let mut weights = self.topics();
        let all: u64 = weights.iter().sum();
        if let Some(weight) = self.burst().and_then(|burst| weights.get_mut(burst.topic)) {
            *weight += all * BURST_TOPIC / (100 - BURST_TOPIC);
        }
        weights
    }

    /// The mood of a topic, in thousandths: its own one, which drifts.
    pub(super) fn mood(&self, topic: usize) -> i16 {
        let own = i64::try_from(topic * 373 % 1001).unwrap_or(500) - 500;
        let drift = self.wave("mood", topic, 35) * 3 / 10 - 150;
        i16::try_from(own + drift).unwrap_or(0)
    }

    /// What happens on this day, if anything does.
    pub(super) fn burst(&self) -> Option<Burst> {
        if !self.chance("burst", 0).is_multiple_of(BURST_EVERY) {
            return None;
        }
        let pick =
            |what: &str, from: u64, to: u64| usize::try_from(from + self.chance(what, 1) % (to - from)).unwrap_or(0);
        let start = pick("start", 6, 20);
        let topics = u64::try_from(TOPICS.len()).unwrap_or(1);
        let mood = if self.chance("mood of the burst", 1).is_multiple_of(3) { 400 } else { -400 };
        Some(Burst { hours: start..start + pick("hours", 2, 5), topic: pick("topic", 0, topics), mood })
    }

    fn topic(&self, topic: usize) -> u64 {
        let rank = u64::try_from(topic).unwrap_or(0) + 1;
        let wave = u64::try_from(self.wave("topic", topic, 20)).unwrap_or(0);
        // Between a fifth and nine fifths of the usual.
        1_000_000 / rank * (200 + wave * 8 / 5) / 1000
    }

    /// Between 0 and 1000, up and down in a straight line; a period has between `days` and four times as many days.
    fn wave(&self, what: &str, topic: usize, days: i64) -> i64 {
        let chance = mixed(self.seed, what, i64::try_from(topic).unwrap_or(0));
        let period = days + i64::try_from(chance % 1000).unwrap_or(0) * 3 * days / 1000;
        let phase = i64::try_from(chance / 1000 % 1_000_000).unwrap_or(0);
        let at = (self.day + phase).rem_euclid(period) * 2000 / period;
        if at <= 1000 { at } else { 2000 - at }
    }

    fn chance(&self, what: &str, more: i64) -> u64 {
        mixed(self.seed, what, self.day * 2 + more)
    }
}

/// A number that looks like chance (the finisher of SplitMix64 over FNV-1a).
fn mixed(seed: u64, what: &str, number: i64) -> u64 {
    let bytes = what.bytes().chain(number.to_le_bytes()).chain(seed.to_le_bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn year(seed: u64) -> Vec<Season> {
        let first: RunDate = "2024-01-01".parse().expect("a day");
        first.through("2024-12-31".parse().expect("a day")).map(|date| Season::new(date, seed)).collect()
    }

    #[test]
    fn a_week_has_its_rhythm() {
        let year = year(1);
        let mean = |days: &dyn Fn(&Season) -> bool| {
            let rows: Vec<u64> = year.iter().filter(|season| days(season)).map(|season| season.rows(10_000)).collect();
            rows.iter().sum::<u64>() / u64::try_from(rows.len()).expect("small")
        };
        let (working, weekend) = (mean(&|season| season.weekday < 5), mean(&|season| season.weekday > 4));
        assert!(working > weekend + 1000, "{working} {weekend}");
        assert!((9_500..11_500).contains(&mean(&|_| true)), "a usual day is what was asked for");
        assert_eq!(year.first().map(|season| season.rows(1)), Some(1));
    }

    #[test]
    fn topics_rise_and_fall_slowly() {
        let year = year(3);
        for topic in 0..TOPICS.len() {
            let weights: Vec<u64> = year.iter().map(|season| season.topic(topic)).collect();
            let (least, most) = (weights.iter().min().expect("days"), weights.iter().max().expect("days"));
            assert!(*most > least * 4, "{topic}: {least} {most}");
            let step = weights.windows(2).map(|two| two[0].abs_diff(two[1])).max().expect("days");
            assert!(step * 6 < *most, "{topic}: {step} in a day of {most}");
        }
    }

    #[test]
    fn bursts_come_now_and_then_and_stay_within_the_day() {
        let bursts: Vec<Burst> = year(9).iter().filter_map(Season::burst).collect();
        assert!((50..150).contains(&bursts.len()), "{}", bursts.len());
        assert!(bursts.iter().all(|burst| burst.hours.start < burst.hours.end && burst.hours.end <= 24));
        assert!(bursts.windows(2).any(|two| two[0].topic != two[1].topic));
        let season = year(9).into_iter().find(|season| season.burst().is_some()).expect("one");
        let burst = season.burst().expect("it");
        let weights = season.topics_of_burst();
        assert!(weights[burst.topic] * 5 > weights.iter().sum::<u64>() * 2 - 5, "two fifths at least");
        assert!(season.hours()[burst.hours.start] > Season { seed: 0, ..season }.hours().iter().sum::<u32>() / 24);
    }
}
