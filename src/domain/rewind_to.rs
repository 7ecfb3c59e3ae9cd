//! Where an operator wants the sink to go back to.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::Lsn;

/// A place to read again from. Text form: an offset `1234`, a position `16/B374D848`, or a time `2026-11-22T10:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewindTo {
    /// An offset of the topic.
    Offset(i64),
    /// A position of PostgreSQL's log: everything committed at or after it is read again.
    Lsn(Lsn),
    /// A commit time.
    Time(DateTime<Utc>),
}

/// The text is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no offset (1234), no position (16/B374D848) and no time with its zone (2026-11-22T10:00:00Z)")]
pub struct ParseRewindToError(String);

impl fmt::Display for RewindTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "{offset}"),
            Self::Lsn(lsn) => write!(f, "{lsn}"),
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
        }
    }
}

impl FromStr for RewindTo {
    type Err = ParseRewindToError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseRewindToError(text.to_owned());
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Offset).map_err(|_| wrong());
        }
        if text.contains('/') {
            return text.parse().map(Self::Lsn).map_err(|_| wrong());
        }
        DateTime::parse_from_rfc3339(text).map(|time| Self::Time(time.to_utc())).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_told_apart_and_printed_back() {
        for (text, printed) in [
            ("0", "0"),
            ("9223372036854775807", "9223372036854775807"),
            ("16/B374D848", "16/B374D848"),
            ("0/0", "0/0"),
            ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"),
            ("2026-11-22T10:00:00.123456+02:00", "2026-11-22T08:00:00.123456Z"),
        ] {
            let parsed: RewindTo = text.parse().expect(text);
            assert_eq!(parsed.to_string(), printed);
            assert_eq!(printed.parse(), Ok(parsed));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let others =
            ["", "-1", "+1", "1.5", "9223372036854775808", "16/", "/1", "2026-11-22", "2026-11-22T10:00:00", "now"];
        for text in others {
            assert!(text.parse::<RewindTo>().is_err(), "{text}");
        }
    }
}
