//! A post as bulk jobs write it: checked texts in, rows of PostgreSQL's binary COPY out. No value passes through a float.

mod check;
mod encode;

use std::borrow::Cow;

pub use check::{Draft, Given, Rejection};
pub use encode::encode;

/// A post whose every value the table takes. The columns `id`, `row_version`, `created_at` and `updated_at` are the
/// database's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of public.sentiment_social")]
pub struct Post<'a> {
    pub platform: Cow<'a, str>,
    pub post_id: Cow<'a, str>,
    pub author: Option<Cow<'a, str>>,
    pub content: Cow<'a, str>,
    pub lang: Option<Cow<'a, str>>,
    pub topic: Option<Cow<'a, str>>,
    pub hashtags: Vec<Option<Cow<'a, str>>>,
    pub label: Label,
    pub score: Option<Thousandths>,
    pub confidence: Option<Thousandths>,
    pub likes: i32,
    pub replies: i32,
    pub shares: i32,
    pub model_name: Option<Cow<'a, str>>,
    /// JSON text.
    pub raw: Option<Cow<'a, str>>,
    pub posted_at: PostedAt,
}

/// The columns in the order in which `encode` writes them.
pub const COLUMNS: [&str; 16] = [
    "platform",
    "post_id",
    "author",
    "content",
    "lang",
    "topic",
    "hashtags",
    "sentiment_label",
    "sentiment_score",
    "confidence",
    "likes",
    "replies",
    "shares",
    "model_name",
    "raw",
    "posted_at",
];

/// `sentiment_label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Label {
    Positive,
    Neutral,
    Negative,
    Mixed,
}

impl Label {
    /// As the column spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Neutral => "neutral",
            Self::Negative => "negative",
            Self::Mixed => "mixed",
        }
    }
}

/// A `numeric(4,3)` between −1 and 1, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thousandths(i16);

impl Thousandths {
    /// `None` outside −1000..=1000.
    pub fn new(thousandths: i16) -> Option<Self> {
        (-1000..=1000).contains(&thousandths).then_some(Self(thousandths))
    }

    /// The number of thousandths.
    pub fn get(self) -> i16 {
        self.0
    }
}

/// Microseconds since 1970 in UTC, within what the mirror's `DateTime64(6)` and the days of statistics hold: from
/// 1900-01-01 to before 2299-12-31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PostedAt(i64);

impl PostedAt {
    /// 1900-01-01 and 2299-12-31 in microseconds since 1970.
    const RANGE: std::ops::Range<i64> = -2_208_988_800_000_000..10_413_705_600_000_000;

    /// The beginning of 1970.
    pub const EPOCH: Self = Self(0);

    /// `None` outside the range.
    pub fn from_micros(micros: i64) -> Option<Self> {
        Self::RANGE.contains(&micros).then_some(Self(micros))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RunDate;

    #[test]
    fn the_range_of_times_is_that_of_days() {
        let first: RunDate = "1900-01-01".parse().expect("a day");
        let last: RunDate = "2299-12-30".parse().expect("a day");
        assert_eq!(PostedAt::RANGE, first.start().timestamp_micros()..last.end().timestamp_micros());
    }
}
