//! How finely an aggregate divides time, in UTC, and what of it is rebuilt at once.

use chrono::{DateTime, Datelike as _, Utc};

use crate::domain::{RunDate, quote_clickhouse};

/// The bucket of an aggregate. What is swapped in at once is a day, also of hours: a partition an hour would make thousands of
/// them, and a day's rows cost little more to read than an hour's. Of months it is the month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BucketUnit {
    /// A row an hour: days, with a column `hour`.
    Hour,
    /// A row a day.
    Day,
    /// A row a month.
    Month,
}

impl BucketUnit {
    /// Reads `hour(COLUMN)`, `day(COLUMN)` or `month(COLUMN)`.
    pub fn parse(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once('(')?;
        let column = rest.strip_suffix(')')?.trim();
        let unit = match word {
            "hour" => Self::Hour,
            "day" => Self::Day,
            "month" => Self::Month,
            _ => return None,
        };
        (!column.is_empty()).then_some((unit, column))
    }

    /// The word in the header.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The column of the result that says what was rebuilt at once: its first day.
    pub fn column(self) -> &'static str {
        match self {
            Self::Hour | Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// What is rebuilt when a row of `day` has changed, by its first day.
    pub fn of(self, day: RunDate) -> RunDate {
        match self {
            Self::Hour | Self::Day => day,
            Self::Month => day.first_of_month(),
        }
    }

    /// What is rebuilt for the days from `from` to `to`, both included.
    pub fn within(self, from: RunDate, to: RunDate) -> Vec<RunDate> {
        let mut all: Vec<RunDate> = from.through(to).map(|day| self.of(day)).collect();
        all.dedup();
        all
    }

    /// The first moment behind what begins on `first`.
    pub fn end(self, first: RunDate) -> DateTime<Utc> {
        match self {
            Self::Hour | Self::Day => first.end(),
            Self::Month => {
                let days = i64::from(first.naive().num_days_in_month());
                // The last day that ClickHouse can hold has no end there, and is nobody's bucket.
                (first.start() + chrono::Duration::days(days)).min(RunDate::LAST.end())
            }
        }
    }

    /// ClickHouse's expression for `of`, of an expression with a `Date32`.
    pub fn of_date32(self, day: &str) -> String {
        match self {
            Self::Hour | Self::Day => day.to_owned(),
            // `toStartOfMonth` begins in 1970.
            Self::Month => format!("toDate32(concat(left(toString({day}), 7), '-01'))"),
        }
    }
}

/// ClickHouse's expression for the first second of the hour of `column`, also before 1970.
pub(super) fn hour_of(column: &str) -> String {
    let column = quote_clickhouse(column);
    format!("(toDateTime64(toDate32({column}), 0, 'UTC') + toIntervalHour(toHour({column})))")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_and_ends_with_its_days() {
        let day = |text: &str| text.parse::<RunDate>().expect("a day");
        for (of, first, end) in [
            ("2024-02-29", "2024-02-01", "2024-03-01T00:00:00+00:00"),
            ("1931-12-31", "1931-12-01", "1932-01-01T00:00:00+00:00"),
            ("2299-12-05", "2299-12-01", "2299-12-31T00:00:00+00:00"),
        ] {
            assert_eq!(BucketUnit::Month.of(day(of)), day(first));
            assert_eq!(BucketUnit::Month.end(day(first)).to_rfc3339(), end);
            assert_eq!(BucketUnit::Month.within(day(first), day(of)), [day(first)]);
            assert_eq!((BucketUnit::Hour.of(day(of)), BucketUnit::Hour.end(day(of))), (day(of), day(of).end()));
        }
    }

    #[test]
    fn only_three_words_are_known() {
        assert_eq!(BucketUnit::parse("month( at )"), Some((BucketUnit::Month, "at")));
        for text in ["week(at)", "day()", "day", "day(at", ""] {
            assert_eq!(BucketUnit::parse(text), None, "{text}");
        }
    }
}
