//! A calendar day in UTC, the unit of the batch half.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, Utc};

use super::Failure;

/// One day, `YYYY-MM-DD`, half-open in UTC: `[00:00, next 00:00)`. Between 1900 and 2299, which ClickHouse's `Date32` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunDate(NaiveDate);

impl RunDate {
    /// The last day that has an end in ClickHouse.
    pub const LAST: Self = match NaiveDate::from_ymd_opt(2299, 12, 30) {
        Some(last) => Self(last),
        None => Self(NaiveDate::MAX),
    };

    /// The day of a moment.
    pub fn of(moment: DateTime<Utc>) -> Self {
        Self(moment.date_naive())
    }

    /// As chrono's type.
    pub fn naive(self) -> NaiveDate {
        self.0
    }

    /// The first day of its month.
    pub fn first_of_month(self) -> Self {
        Self(self.0.with_day(1).unwrap_or(self.0))
    }

    /// Every day from this one to `last`, both included.
    pub fn through(self, last: Self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |date| Some(Self::of(date.end()))).take_while(move |date| *date <= last)
    }

    /// First moment of the day.
    pub fn start(self) -> DateTime<Utc> {
        self.0.and_time(NaiveTime::MIN).and_utc()
    }

    /// First moment of the day after.
    pub fn end(self) -> DateTime<Utc> {
        self.start() + chrono::Duration::days(1)
    }
}

impl fmt::Display for RunDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d"))
    }
}

impl FromStr for RunDate {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad =
            || Failure::BadDate(format!("{text:?} is not a day; write YYYY-MM-DD, from 1900-01-01 to 2299-12-30"));
        let strict = text.len() == 10
            && text
                .bytes()
                .enumerate()
                .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
        if !strict {
            return Err(bad());
        }
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| bad())?;
        if ("1900-01-01"..="2299-12-30").contains(&text) { Ok(Self(date)) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_days_in_one_spelling() {
        let day: RunDate = "2024-02-29".parse().expect("a leap day");
        assert_eq!(
            (day.to_string().as_str(), day.end().to_rfc3339().as_str()),
            ("2024-02-29", "2024-03-01T00:00:00+00:00")
        );
        for text in
            ["2024-02-30", "2024-2-3", "24-01-01", "2024/01/01", " 2024-01-01", "1899-12-31", "2300-01-01", "today"]
        {
            assert!(text.parse::<RunDate>().is_err(), "{text}");
        }
    }
}
