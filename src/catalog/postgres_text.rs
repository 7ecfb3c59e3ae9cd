//! PostgreSQL's text of values: from Debezium's forms of them, and of what is stored.

use std::borrow::Cow;
use std::fmt::Write as _;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, Timelike as _};

use super::codec::{CellError, Codec, MONEY};
use super::{PgType, decimal};

impl Codec {
    /// PostgreSQL's text of a stored value: what a key is asked for by. An array's is the JSON that is stored, and `None`
    /// when it is an Array.
    pub(super) fn to_text(&self, bytes: &[u8]) -> Option<String> {
        let utf8 = || std::str::from_utf8(bytes).ok().map(str::to_owned);
        Some(match self.pg() {
            PgType::Bool => (bytes == [1]).to_string(),
            PgType::Int2 => i16::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Int4 => i32::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Int8 => i64::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Oid => u32::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Float4 => {
                let value = f32::from_le_bytes(bytes.try_into().ok()?);
                float_special(f64::from(value)).map_or_else(|| format!("{value:e}"), str::to_owned)
            }
            PgType::Float8 => {
                let value = f64::from_le_bytes(bytes.try_into().ok()?);
                float_special(value).map_or_else(|| format!("{value:e}"), str::to_owned)
            }
            PgType::Numeric { scale, .. } => decimal::to_text(bytes, *scale)?,
            PgType::Money => decimal::to_text(bytes, MONEY.1)?,
            PgType::Uuid => {
                uuid::Uuid::from_u128(u128::from_le_bytes(bytes.try_into().ok()?).rotate_left(64)).to_string()
            }
            PgType::Date => date_text(i64::from(i32::from_le_bytes(bytes.try_into().ok()?)))?,
            PgType::Timestamp => timestamp_text(i64::from_le_bytes(bytes.try_into().ok()?))?,
            PgType::Timestamptz => format!("{}+00", timestamp_text(i64::from_le_bytes(bytes.try_into().ok()?))?),
            PgType::Bytea => bytea_text(bytes),
            PgType::Text { .. }
            | PgType::TextForm
            | PgType::TextOnly(_)
            | PgType::AsText(_)
            | PgType::Inet
            | PgType::Xml
            | PgType::Tstzrange
            | PgType::Interval
            | PgType::Time
            | PgType::NumericText
            | PgType::Json
            | PgType::Jsonb => utf8()?,
            PgType::Array(_) if self.is_json_array() => utf8()?,
            PgType::Array(_) => return None,
        })
    }
}

/// Types that the configuration stores as text, from Debezium's form.
pub(super) mod as_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::{CellError, DateTime, PgType, bytea_text, date_text, numeric_text, time_text, timestamp_text};

    /// From a JSON integer.
    pub(in crate::catalog) fn of_int(pg: &PgType, value: i64) -> Result<String, CellError> {
        let text = match pg {
            PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => Some(value.to_string()),
            PgType::Date => date_text(value),
            PgType::Timestamp => timestamp_text(value),
            PgType::Time => return time_text(value),
            _ => None,
        };
        text.ok_or(CellError::Inexact)
    }

    /// From a JSON string.
    pub(in crate::catalog) fn of_text(pg: &PgType, text: &str) -> Result<String, CellError> {
        let printed = match pg {
            PgType::Uuid => Some(text.to_owned()),
            PgType::Bytea => BASE64.decode(text).ok().map(|bytes| bytea_text(&bytes)),
            PgType::Numeric { scale, .. } => {
                let text = numeric_text(text);
                let places = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
                (places <= usize::from(*scale)).then(|| text.into_owned())
            }
            PgType::Timestamptz if matches!(text, "infinity" | "-infinity") => Some(text.to_owned()),
            PgType::Timestamptz => DateTime::parse_from_rfc3339(text)
                .ok()
                .and_then(|time| timestamp_text(time.timestamp_micros()))
                .map(|text| text + "+00"),
            _ => None,
        };
        printed.ok_or(CellError::Inexact)
    }
}

/// The three values of a float that are no JSON numbers, as JSON and as PostgreSQL write them.
pub(super) fn float_word(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The name of a float that is no number.
pub(super) fn float_special(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

/// PostgreSQL's text of a numeric, from Debezium's.
pub(super) fn numeric_text(text: &str) -> Cow<'_, str> {
    match text {
        "NAN" => "NaN".into(),
        "POSITIVE_INFINITY" => "Infinity".into(),
        "NEGATIVE_INFINITY" => "-Infinity".into(),
        plain => plain.into(),
    }
}

/// `inet::text`, from what PostgreSQL prints: the cast always names the length of the network.
pub(super) fn inet_text(text: &str) -> Cow<'_, str> {
    if text.contains('/') {
        text.into()
    } else if text.contains(':') {
        format!("{text}/128").into()
    } else {
        format!("{text}/32").into()
    }
}

fn bytea_text(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

/// A date between the years 1 and 9999, from days since 1970. Outside, Debezium's number is not believed.
fn date_text(days: i64) -> Option<String> {
    let epoch = NaiveDate::default();
    let date = match u64::try_from(days) {
        Ok(after) => epoch.checked_add_days(Days::new(after))?,
        Err(_) => epoch.checked_sub_days(Days::new(days.unsigned_abs()))?,
    };
    (1..=9999).contains(&date.year()).then(|| date.to_string())
}

/// A timestamp between the years 1 and 9999, from microseconds since 1970.
fn timestamp_text(micros: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(micros)?.naive_utc();
    if !(1..=9999).contains(&time.year()) {
        return None;
    }
    let text = time.format("%Y-%m-%d %H:%M:%S").to_string();
    Some(with_fraction(text, time.nanosecond() / 1000))
}

/// PostgreSQL's text of a time of day, from microseconds since midnight; 24:00:00 is one.
pub(super) fn time_text(micros: i64) -> Result<String, CellError> {
    if !(0..=86_400_000_000).contains(&micros) {
        return Err(CellError::Malformed("microseconds of a day"));
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    Ok(with_fraction(text, u32::try_from(fraction).unwrap_or(0)))
}

fn with_fraction(text: String, micros: u32) -> String {
    if micros == 0 {
        return text;
    }
    format!("{text}.{micros:06}").trim_end_matches('0').to_owned()
}

/// PostgreSQL's text (IntervalStyle postgres) of an interval in Debezium's ISO form, `P1Y2M-3DT4H5M6.789S`. `None` when the
/// form is another one, and for zero, which stands also for what Debezium cannot read, as PostgreSQL 17's infinity.
///
/// Signs and plurals as in `EncodeInterval` of PostgreSQL's `datetime.c`.
pub(super) fn interval_text(iso: &str) -> Option<String> {
    let mut rest = iso.strip_prefix('P')?;
    let mut part = |unit: char| {
        let (number, after) = rest.split_once(unit)?;
        rest = after.strip_prefix('T').filter(|_| unit == 'D').unwrap_or(after);
        Some(number)
    };
    let (years, months, days) = (part('Y')?, part('M')?, part('D')?);
    let (hours, minutes, seconds) = (part('H')?, part('M')?, part('S')?);
    let whole = |text: &str| text.parse::<i64>().ok();
    let (years, months, days) = (whole(years)?, whole(months)?, whole(days)?);
    let (hours, minutes) = (whole(hours)?, whole(minutes)?);
    let micros = i64::try_from(decimal::parse(seconds, 18, 6)?).ok()?;
    // PostgreSQL has them in this form; anything else is none of its texts.
    let negative = hours < 0 || minutes < 0 || micros < 0;
    if !rest.is_empty() || (negative && (hours > 0 || minutes > 0 || micros > 0)) {
        return None;
    }
    if minutes.abs() >= 60 || micros.abs() >= 60_000_000 || months.abs() >= 12 {
        return None;
    }
    let mut text = String::new();
    let mut before_was_negative = false;
    for (value, unit) in [(years, "year"), (months, "mon"), (days, "day")] {
        if value != 0 {
            let (gap, plus) =
                (if text.is_empty() { "" } else { " " }, if before_was_negative && value > 0 { "+" } else { "" });
            write!(text, "{gap}{plus}{value} {unit}{}", if value == 1 { "" } else { "s" }).ok()?;
            before_was_negative = value < 0;
        }
    }
    if hours != 0 || minutes != 0 || micros != 0 {
        let gap = if text.is_empty() { "" } else { " " };
        let sign = if negative {
            "-"
        } else if before_was_negative {
            "+"
        } else {
            ""
        };
        let (seconds, fraction) = (micros.abs() / 1_000_000, micros.abs() % 1_000_000);
        let time = format!("{gap}{sign}{:02}:{:02}:{seconds:02}", hours.abs(), minutes.abs());
        text.push_str(&with_fraction(time, u32::try_from(fraction).ok()?));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_print_as_postgres_does() {
        assert_eq!(time_text(86_400_000_000).as_deref(), Ok("24:00:00"));
        assert_eq!(time_text(3_661_000_100).as_deref(), Ok("01:01:01.0001"));
    }

    #[test]
    fn intervals_print_as_postgres_does() {
        for (iso, text) in [
            ("P1Y2M3DT4H5M6.789012S", Some("1 year 2 mons 3 days 04:05:06.789012")),
            ("P-1Y0M-2DT3H4M5.000001S", Some("-1 years -2 days +03:04:05.000001")),
            ("P100000000Y0M0DT0H0M0S", Some("100000000 years")),
            ("P0Y-1M1DT0H0M0S", Some("-1 mons +1 day")),
            ("P0Y0M0DT0H0M-0.5S", Some("-00:00:00.5")),
            ("P0Y0M0DT-100H-1M-2.0S", Some("-100:01:02")),
            ("P0Y0M0DT0H0M0S", None),
            ("P0Y0M0DT1H-1M0S", None),
            ("P0Y0M0DT0H0M1.0E-6S", None),
            ("P1D", None),
            ("infinity", None),
        ] {
            assert_eq!(interval_text(iso).as_deref(), text, "{iso}");
        }
    }

    #[test]
    fn casts_name_the_length_of_a_network() {
        assert_eq!((&*inet_text("10.0.0.1"), &*inet_text("::1")), ("10.0.0.1/32", "::1/128"));
        assert_eq!(inet_text("10.0.0.1/8"), "10.0.0.1/8");
    }

    #[test]
    fn dates_outside_of_four_digits_are_not_believed() {
        assert_eq!(as_text::of_int(&PgType::Date, -719_162).as_deref(), Ok("0001-01-01"));
        assert_eq!(as_text::of_int(&PgType::Date, -719_163), Err(CellError::Inexact));
        assert_eq!(as_text::of_int(&PgType::Timestamp, i64::MAX), Err(CellError::Inexact));
        assert_eq!(
            as_text::of_text(&PgType::Timestamptz, "2024-02-29T07:04:56.700000Z").as_deref(),
            Ok("2024-02-29 07:04:56.7+00")
        );
        let numeric = PgType::Numeric { precision: 7, scale: 0 };
        assert_eq!(as_text::of_text(&numeric, "12300.00"), Err(CellError::Inexact));
        assert_eq!(as_text::of_text(&numeric, "NAN").as_deref(), Ok("NaN"));
    }
}
