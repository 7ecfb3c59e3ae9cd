//! The posts of one day and seed. Whole numbers only, so that every machine makes the same ones.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use anyhow::Context as _;
use chrono::{DateTime, Datelike as _, Utc};
use rand::distr::Distribution as _;
use rand::distr::weighted::WeightedIndex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::season::{Burst, Season};
use super::words::{LANGUAGES, Language, PLATFORMS, TOPICS};
use crate::batch::post::{Label, Post, PostedAt, Thousandths};
use crate::domain::RunDate;

/// Authors of all days; the k-th writes about 1/k as much as the first.
const AUTHORS: u64 = 50_000;
/// One post in so many is an essay, longer than what PostgreSQL keeps in the row.
const ESSAY_EVERY: u32 = 250;
const ESSAY_BYTES: Range<usize> = 9_000..20_000;
const HOUR_MICROS: i64 = 3_600_000_000;

/// What all posts of a day share.
#[derive(Debug)]
pub(super) struct Day {
    date: RunDate,
    seed: u64,
    season: Season,
    burst: Option<Burst>,
    authors: WeightedIndex<u64>,
    topics: WeightedIndex<u64>,
    topics_of_burst: WeightedIndex<u64>,
    languages: WeightedIndex<u32>,
    platforms: WeightedIndex<u32>,
    hours: WeightedIndex<u32>,
}

pub(super) type Rng = ChaCha8Rng;

impl Day {
    pub(super) fn new(date: RunDate, seed: u64) -> anyhow::Result<Self> {
        let zipf = |count: u64| WeightedIndex::new((1..=count).map(|rank| 1_000_000_000 / rank));
        let season = Season::new(date, seed);
        Ok(Self {
            date,
            seed,
            burst: season.burst(),
            authors: zipf(AUTHORS).context("weights of authors")?,
            topics: WeightedIndex::new(season.topics()).context("weights of topics")?,
            topics_of_burst: WeightedIndex::new(season.topics_of_burst()).context("weights of topics")?,
            languages: WeightedIndex::new(LANGUAGES.iter().map(|language| language.weight)).context("weights")?,
            platforms: WeightedIndex::new(PLATFORMS.iter().map(|(_, weight)| weight)).context("weights")?,
            hours: WeightedIndex::new(season.hours()).context("weights of hours")?,
            season,
        })
    }

    /// The id of a post: in the order of bytes, ids of one day and seed are in the order of their numbers.
    pub(super) fn post_id(&self, number: u64) -> String {
        format!("gen-{}-{}-{number:010}", self.seed, self.date)
    }

    /// Makes the posts `numbers` of block `block`; the first ones are the same however many there are.
    pub(super) fn block(&self, block: u64, numbers: Range<u64>, mut take: impl FnMut(Post<'static>)) {
        let mut rng = self.rng(block);
        for number in numbers {
            take(self.post(number, &mut rng));
        }
    }

    /// A post as one of this day is, but written now: its id is `id`.
    pub(super) fn post_at(&self, moment: DateTime<Utc>, number: u64, id: String, rng: &mut Rng) -> Post<'static> {
        let posted_at = PostedAt::from_micros(moment.timestamp_micros()).unwrap_or(PostedAt::EPOCH);
        Post { post_id: id.into(), posted_at, ..self.post(number, rng) }
    }

    /// The chance of a block.
    pub(super) fn rng(&self, block: u64) -> Rng {
        let mut seed = [0; 32];
        let parts = [self.seed.to_le_bytes(), block.to_le_bytes()].concat();
        let day = self.date.naive().num_days_from_ce().to_le_bytes();
        for (slot, byte) in seed.iter_mut().zip(parts.into_iter().chain(day)) {
            *slot = byte;
        }
        Rng::from_seed(seed)
    }

    fn post(&self, number: u64, rng: &mut Rng) -> Post<'static> {
        let author = self.authors.sample(rng);
        let hour = self.hours.sample(rng);
        let burst = self.burst.as_ref().filter(|burst| burst.hours.contains(&hour));
        let rank = if burst.is_some() { self.topics_of_burst.sample(rng) } else { self.topics.sample(rng) };
        let stirred = burst.filter(|burst| burst.topic == rank).map_or(0, |burst| burst.mood);
        let topic = TOPICS.get(rank).copied().unwrap_or("news");
        let language = LANGUAGES.get(self.languages.sample(rng)).unwrap_or(&LANGUAGES[0]);
        let platform = PLATFORMS.get(self.platforms.sample(rng)).map_or("forum", |(name, _)| name);
        let score = score(self.season.mood(rank) + stirred, rng);
        let label = match score {
            _ if one_in(rng, 25) => Label::Mixed,
            150.. => Label::Positive,
            ..=-150 => Label::Negative,
            _ => Label::Neutral,
        };
        let content = content(language, topic, label, rng);
        let known = |rng: &mut Rng, every: u32| !one_in(rng, every);
        Post {
            platform: platform.into(),
            post_id: self.post_id(number).into(),
            author: known(rng, 30).then(|| format!("user{author}").into()),
            content: content.into(),
            lang: known(rng, 20).then_some(language.code.into()),
            topic: known(rng, 12).then_some(topic.into()),
            hashtags: hashtags(topic, rng),
            label,
            score: known(rng, 30).then(|| Thousandths::new(score)).flatten(),
            confidence: known(rng, 10).then(|| Thousandths::new(rng.random_range(400..=1000))).flatten(),
            likes: popularity(rng),
            replies: popularity(rng) / 8,
            shares: popularity(rng) / 4,
            model_name: known(rng, 15).then_some("generator-1".into()),
            raw: one_in(rng, 10).then(|| raw(number, author, rng).into()),
            posted_at: self.posted_at(hour, rng),
        }
    }

    fn posted_at(&self, hour: usize, rng: &mut Rng) -> PostedAt {
        let hour = i64::try_from(hour).unwrap_or(0);
        let micros = self.date.start().timestamp_micros() + hour * HOUR_MICROS + rng.random_range(0..HOUR_MICROS);
        // A `RunDate` lies within the range by its own rule.
        PostedAt::from_micros(micros).unwrap_or(PostedAt::EPOCH)
    }
}

fn one_in(rng: &mut Rng, every: u32) -> bool {
    rng.random_ratio(1, every)
}

/// Thousandths around a mood.
fn score(mood: i16, rng: &mut Rng) -> i16 {
    let noise: i16 = (0..3).map(|_| rng.random_range(-250i16..=250)).sum();
    (mood + noise).clamp(-1000, 1000)
}

/// Mostly few, seldom very many: each further doubling is half as likely.
pub(super) fn popularity(rng: &mut Rng) -> i32 {
    let doublings = rng.random::<u32>().trailing_zeros().min(20);
    rng.random_range(0..(2 << doublings))
}

fn hashtags(topic: &str, rng: &mut Rng) -> Vec<Option<Cow<'static, str>>> {
    let count = rng.random_range(0..6u32).saturating_sub(2);
    (0..count)
        .map(|at| {
            let tag =
                if at == 0 { topic } else { TOPICS.get(rng.random_range(0..TOPICS.len())).copied().unwrap_or(topic) };
            Some(Cow::Owned(tag.replace('-', "")))
        })
        .collect()
}

fn raw(number: u64, author: usize, rng: &mut Rng) -> String {
    let (followers, version) = (popularity(rng), rng.random_range(1..5u32));
    let client = if rng.random() { "android" } else { "web" };
    format!(
        r#"{{"source": {{"client": "{client}", "version": "{version}.0"}}, "author": {{"number": {author}, "followers": {followers}}}, "sequence": {number}, "rate": {version}.50}}"#
    )
}

fn content(language: &Language, topic: &str, label: Label, rng: &mut Rng) -> String {
    let mut text = String::new();
    sentence(&mut text, language, topic, label, rng);
    let essay = one_in(rng, ESSAY_EVERY);
    // A few sentences.
    let target = if essay { rng.random_range(ESSAY_BYTES) } else { text.len() * rng.random_range(1..4usize) };
    while text.len() < target {
        text.push(' ');
        sentence(&mut text, language, topic, label, rng);
        if essay {
            link(&mut text, rng);
        }
    }
    if one_in(rng, 8) {
        link(&mut text, rng);
    }
    text
}

/// The part of a text that does not compress: essays leave the row because of it.
fn link(text: &mut String, rng: &mut Rng) {
    let _written = write!(text, " https://example.org/{:016x}", rng.random::<u64>());
}

fn sentence(text: &mut String, language: &Language, topic: &str, label: Label, rng: &mut Rng) {
    let moods = match label {
        Label::Positive => language.good,
        Label::Negative => language.bad,
        Label::Neutral => language.plain,
        Label::Mixed => {
            [language.good, language.bad].get(rng.random_range(0..2usize)).copied().unwrap_or(language.plain)
        }
    };
    let mut pick = |words: &'static [&'static str]| words.get(rng.random_range(0..words.len())).copied().unwrap_or("");
    let (opening, mood, closing) = (pick(language.openings), pick(moods), pick(language.closings));
    let topic = topic.replace('-', " ");
    let joint = language.joint;
    let _written = write!(text, "{opening}{joint}{topic}{joint}{mood}{closing}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    fn posts(seed: u64, block: u64, count: u64) -> Vec<Post<'static>> {
        let day = Day::new("2024-05-01".parse().expect("a day"), seed).expect("weights");
        let mut posts = Vec::new();
        day.block(block, 0..count, |post| posts.push(post));
        posts
    }

    #[test]
    fn the_same_seed_gives_the_same_posts_on_every_machine() {
        let hash = Sha256::digest(format!("{:?}", posts(7, 0, 2000)).as_bytes());
        assert_eq!(hex::encode(hash), "5a5ee67967ba6a520acc4b5c5e0e097e431de17b5eeca668b943fa4c78c469a1");
        assert_eq!(posts(7, 0, 100)[..], posts(7, 0, 2000)[..100]);
        assert_ne!(posts(7, 0, 10), posts(8, 0, 10));
        assert_ne!(posts(7, 0, 10), posts(7, 1, 10));
    }

    #[test]
    fn posts_are_as_various_as_real_ones() {
        let posts = posts(1, 0, 10_000);
        let share = |test: &dyn Fn(&Post<'_>) -> bool| posts.iter().filter(|post| test(post)).count();
        assert!((10..100).contains(&share(&|post| post.content.len() > 8192)), "essays");
        assert!((100..1000).contains(&share(&|post| post.author.is_none())), "NULLs");
        assert!((500..2000).contains(&share(&|post| post.raw.is_some())));
        assert!(share(&|post| post.author.as_deref() == Some("user0")) > 500, "one author writes much");
        assert!(share(&|post| !post.content.is_ascii()) > 2000, "several scripts");
        for label in [Label::Positive, Label::Neutral, Label::Negative, Label::Mixed] {
            assert!(share(&|post| post.label == label) > 200, "{label:?}");
        }
        let mean = |topic: &str| {
            let scores: Vec<i64> = posts
                .iter()
                .filter(|post| post.topic.as_deref() == Some(topic))
                .filter_map(|post| post.score.map(|score| i64::from(score.get())))
                .collect();
            scores.iter().sum::<i64>() / i64::try_from(scores.len()).expect("small")
        };
        assert!((mean(TOPICS[0]) - mean(TOPICS[1])).abs() > 100, "sentiment goes with the topic");
        for raw in posts.iter().filter_map(|post| post.raw.as_deref()) {
            serde_json::from_str::<serde_json::Value>(raw).expect("JSON");
        }
    }
}
