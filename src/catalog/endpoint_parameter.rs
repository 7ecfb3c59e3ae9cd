//! Parameters of analytics endpoints: their types, limits and defaults, and how a request's text becomes a value that
//! ClickHouse gets bound.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};

/// Characters that a text may have when its parameter says no `max`.
const TEXT_CHARS_MAX: i64 = 256;

/// What a parameter may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `YYYY-MM-DD`; bound as `Date32`.
    Date,
    /// RFC 3339 time with an offset, or a date, which means its midnight in UTC; bound as `DateTime64(6, 'UTC')`.
    DateTime,
    /// Text; bound as `String`.
    String,
    /// One of these words; bound as `String`.
    Enum(Vec<String>),
    /// Whole number from 0 to 4294967295; bound as `UInt32`.
    UInt32,
    /// Whole number of 64 bits; bound as `Int64`.
    Int64,
}

/// What happens when a request leaves a parameter out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// The request is refused.
    Required,
    /// NULL is bound: the SQL says `Nullable(…)`.
    Optional,
    /// This value is bound.
    Default(String),
}

/// One `-- param` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the request and in the SQL.
    pub name: String,
    /// What it may hold.
    pub kind: Type,
    /// What happens without it.
    pub presence: Presence,
    /// Least value of a number.
    pub min: Option<i64>,
    /// Greatest value of a number, most characters of a text.
    pub max: Option<i64>,
    /// For people.
    pub description: String,
}

/// A value is not acceptable; the text says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Type {
    /// The type that the SQL must name between the braces, without `Nullable`.
    pub fn clickhouse(&self) -> &'static str {
        match self {
            Self::Date => "Date32",
            Self::DateTime => "DateTime64(6, 'UTC')",
            Self::String | Self::Enum(_) => "String",
            Self::UInt32 => "UInt32",
            Self::Int64 => "Int64",
        }
    }

    /// Whether `min` means something for it.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::UInt32 | Self::Int64)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Date => f.write_str("Date"),
            Self::DateTime => f.write_str("DateTime"),
            Self::String => f.write_str("String"),
            Self::Enum(words) => write!(f, "Enum({})", words.join(",")),
            Self::UInt32 => f.write_str("UInt32"),
            Self::Int64 => f.write_str("Int64"),
        }
    }
}

impl Parameter {
    /// The type that the SQL must name between the braces.
    pub fn clickhouse(&self) -> String {
        match self.presence {
            Presence::Optional => format!("Nullable({})", self.kind.clickhouse()),
            Presence::Required | Presence::Default(_) => self.kind.clickhouse().to_owned(),
        }
    }

    /// Checks a request's text and returns the text that ClickHouse gets bound, always in one spelling.
    ///
    /// # Errors
    /// `Refused`, which says what is accepted.
    pub fn accept(&self, text: &str) -> Result<String, Refused> {
        match &self.kind {
            Type::Date => parse_date(text).map(|date| date.format("%Y-%m-%d").to_string()),
            Type::DateTime => parse_moment(text).map(|moment| moment.format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
            Type::String => self.accept_text(text),
            Type::Enum(words) => match words.iter().find(|word| *word == text) {
                Some(word) => Ok(word.clone()),
                None => Err(Refused(format!("must be one of {}", words.join(", ")))),
            },
            Type::UInt32 => self.accept_number(text, 0, i64::from(u32::MAX)),
            Type::Int64 => self.accept_number(text, i64::MIN, i64::MAX),
        }
    }

    /// A value that it accepts, in ClickHouse's spelling: its default, or one of its type.
    pub fn example(&self) -> String {
        let text = match (&self.presence, &self.kind) {
            (Presence::Default(value), _) => value.clone(),
            (_, Type::Date | Type::DateTime) => "2024-01-31".to_owned(),
            (_, Type::String) => "x".to_owned(),
            (_, Type::Enum(words)) => words.first().cloned().unwrap_or_default(),
            (_, Type::UInt32 | Type::Int64) => self.min.or(self.max).unwrap_or(1).to_string(),
        };
        self.accept(&text).unwrap_or(text)
    }

    fn accept_text(&self, text: &str) -> Result<String, Refused> {
        let max = self.max.unwrap_or(TEXT_CHARS_MAX);
        if i64::try_from(text.chars().count()).map_or(true, |chars| chars > max) {
            return Err(Refused(format!("must have at most {max} characters")));
        }
        if text.contains('\0') {
            return Err(Refused("must not contain the character U+0000".to_owned()));
        }
        Ok(text.to_owned())
    }

    fn accept_number(&self, text: &str, least: i64, greatest: i64) -> Result<String, Refused> {
        let (min, max) = (self.min.unwrap_or(least), self.max.unwrap_or(greatest));
        let digits = text.strip_prefix('-').unwrap_or(text);
        let number = (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse::<i64>().ok())
            .flatten();
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(number.to_string()),
            _ => Err(Refused(format!("must be a whole number from {min} to {max}"))),
        }
    }
}

/// A calendar day from 1900-01-01 to 2299-12-31, which is what ClickHouse's `Date32` and `DateTime64` hold.
///
/// # Errors
/// `Refused` for every other text.
pub fn parse_date(text: &str) -> Result<NaiveDate, Refused> {
    let bad = || Refused("must be a date from 1900-01-01 to 2299-12-31, written YYYY-MM-DD".to_owned());
    let plain = text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    if !plain || !("1900-01-01"..="2299-12-31").contains(&text) {
        return Err(bad());
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| bad())
}

/// A moment: an RFC 3339 time with its offset and at most microseconds, or a date, which means its midnight in UTC.
///
/// # Errors
/// `Refused` for every other text, for more than six decimals of a second and for years outside 1900..=2299: both
/// databases must hold the moment exactly.
pub fn parse_moment(text: &str) -> Result<DateTime<Utc>, Refused> {
    if text.len() == 10 {
        return Ok(parse_date(text)?.and_time(NaiveTime::MIN).and_utc());
    }
    let bad = || {
        Refused(
            "must be a time such as 2014-01-31T09:30:00Z or 2014-01-31T09:30:00.000001+02:00 with at most \
             microseconds, or a date, from 1900 to 2299"
                .to_owned(),
        )
    };
    let moment = DateTime::parse_from_rfc3339(text).map_err(|_| bad())?.with_timezone(&Utc);
    let decimals = text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    // A leap second (`:60`) has no place in either database.
    let exact = decimals <= 6 && moment.timestamp_subsec_nanos() < 1_000_000_000;
    let day = moment.date_naive().format("%Y-%m-%d").to_string();
    if exact && ("1900-01-01"..="2299-12-31").contains(&day.as_str()) { Ok(moment) } else { Err(bad()) }
}

/// How the API writes a moment: RFC 3339 in UTC, as many decimals as needed in groups of three.
pub fn format_moment(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(kind: Type, min: Option<i64>, max: Option<i64>) -> Parameter {
        Parameter { name: "p".into(), kind, presence: Presence::Required, min, max, description: String::new() }
    }

    #[test]
    fn examples_are_accepted() {
        for kind in [Type::Date, Type::DateTime, Type::String, Type::UInt32, Type::Int64, Type::Enum(vec!["a".into()])]
        {
            let parameter = parameter(kind, Some(3), Some(5));
            assert!(parameter.accept(&parameter.example().replace("2024-01-31 00:00:00.000000", "2024-01-31")).is_ok());
        }
    }

    #[test]
    fn values_are_accepted_in_one_spelling_or_refused() {
        let words = Type::Enum(vec!["minute".into(), "hour".into()]);
        let accepted = [
            (parameter(Type::Date, None, None), "2024-02-29", "2024-02-29"),
            (parameter(Type::DateTime, None, None), "2014-01-01", "2014-01-01 00:00:00.000000"),
            (parameter(Type::DateTime, None, None), "2014-01-01T01:00:00.5+02:00", "2013-12-31 23:00:00.500000"),
            (parameter(words.clone(), None, None), "hour", "hour"),
            (parameter(Type::UInt32, Some(1), Some(100)), "007", "7"),
            (parameter(Type::Int64, None, None), "-9223372036854775808", "-9223372036854775808"),
            (parameter(Type::String, None, Some(3)), "äöü", "äöü"),
        ];
        for (parameter, text, expected) in accepted {
            assert_eq!(parameter.accept(text).as_deref(), Ok(expected), "{text}");
        }
        let refused = [
            (parameter(Type::Date, None, None), "2023-02-29"),
            (parameter(Type::Date, None, None), "1899-12-31"),
            (parameter(Type::DateTime, None, None), "2014-01-01T00:00:00"),
            (parameter(Type::DateTime, None, None), "2014-01-01T00:00:00.1234567Z"),
            (parameter(Type::DateTime, None, None), "2016-12-31T23:59:60Z"),
            (parameter(Type::DateTime, None, None), "1900-01-01T00:00:00+01:00"),
            (parameter(words, None, None), "Hour"),
            (parameter(Type::UInt32, Some(1), Some(100)), "0"),
            (parameter(Type::UInt32, None, None), "4294967296"),
            (parameter(Type::UInt32, None, None), "+1"),
            (parameter(Type::Int64, None, None), "9223372036854775808"),
            (parameter(Type::Int64, None, None), ""),
            (parameter(Type::String, None, Some(3)), "four"),
            (parameter(Type::String, None, None), "a\0b"),
        ];
        for (parameter, text) in refused {
            assert!(parameter.accept(text).is_err(), "{} {text:?}", parameter.kind);
        }
    }
}
