//! One codec a type: what a PostgreSQL type becomes in ClickHouse, and how single values are written.
//!
//! A value is stored exactly or refused; nothing is clamped, rounded or replaced.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::DateTime;

use super::column::Column;
use super::postgres_text::{as_text, float_word, inet_text, interval_text, numeric_text, time_text};
use super::trust::{Trust, is_utc_range};
use super::{Identity, PgType, decimal};

/// Why a value cannot be stored. Holds no part of the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// ClickHouse's type does not reach this far.
    #[error("the value is outside what {0} holds")]
    OutOfRange(&'static str),
    /// The type has no such value: infinity, NaN, an array with several dimensions.
    #[error("{0} cannot be stored exactly")]
    NotRepresentable(&'static str),
    /// The event does not have the form that the type has.
    #[error("expected {0}")]
    Malformed(&'static str),
    /// NULL in a column that cannot be NULL.
    #[error("NULL in a column that cannot be NULL")]
    UnexpectedNull,
    /// The event's form of the value is not exact: it is to be read again.
    #[error("the log does not carry the value exactly")]
    Inexact,
}

/// 1900-01-01 and 2299-12-31 23:59:59.999999 in microseconds: what every version of ClickHouse holds in `DateTime64(6)`.
const MICROS: std::ops::RangeInclusive<i64> = -2_208_988_800_000_000..=10_413_791_999_999_999;
/// The same days, counted from 1970-01-01, for `Date32`.
const DAYS: std::ops::RangeInclusive<i32> = -25_567..=120_529;

/// Digits of `money`, and those of them after the point: an int64 of hundredths.
pub(super) const MONEY: (u8, u8) = (19, 2);

/// Writes values of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    pg: PgType,
    nullable: bool,
    trust: Trust,
}

impl Codec {
    /// Of a column of type `pg` in a table with REPLICA IDENTITY FULL.
    pub fn new(pg: PgType, nullable: bool) -> Self {
        let trust = Trust::of(&pg, Identity::Full);
        Self { pg, nullable, trust }
    }

    /// The same in a table with another identity.
    #[must_use]
    pub fn under(self, identity: Identity) -> Self {
        Self { trust: Trust::of(&self.pg, identity), ..self }
    }

    /// The same for a generated column, which is in no event.
    #[must_use]
    pub fn generated(self) -> Self {
        Self { trust: Trust::Never { null_is_exact: false }, ..self }
    }

    /// The same for a column that may be NULL.
    #[must_use]
    pub fn nullable(&self) -> Self {
        Self { nullable: true, ..self.clone() }
    }

    /// The PostgreSQL type.
    pub fn pg(&self) -> &PgType {
        &self.pg
    }

    /// Whether NULL can be stored.
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// How far an event is believed.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether no event carries a value of this column exactly, so that every row is read again.
    pub fn is_never_exact(&self) -> bool {
        matches!(self.trust, Trust::Never { .. })
    }

    /// The codec of an array's elements, which may always be NULL.
    pub(super) fn element(&self) -> Option<Self> {
        match &self.pg {
            PgType::Array(element) => Some(Self::new((**element).clone(), true)),
            _ => None,
        }
    }

    pub(super) fn push_null(&self, column: &mut Column) -> Result<(), CellError> {
        if !self.nullable {
            return Err(CellError::UnexpectedNull);
        }
        column.push_default();
        Ok(())
    }

    pub(super) fn push_bool(&self, column: &mut Column, value: bool) -> Result<(), CellError> {
        match self.pg {
            PgType::Bool => column.push(&[u8::from(value)]),
            PgType::AsText(_) => column.push(if value { b"true" } else { b"false" }),
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    pub(super) fn push_int(&self, column: &mut Column, value: i64) -> Result<(), CellError> {
        match &self.pg {
            PgType::Int2 => {
                column.push(&i16::try_from(value).map_err(|_| CellError::OutOfRange("Int16"))?.to_le_bytes());
            }
            PgType::Int4 => {
                column.push(&i32::try_from(value).map_err(|_| CellError::OutOfRange("Int32"))?.to_le_bytes());
            }
            PgType::Int8 => column.push(&value.to_le_bytes()),
            PgType::Oid => {
                column.push(&u32::try_from(value).map_err(|_| CellError::OutOfRange("UInt32"))?.to_le_bytes());
            }
            PgType::Date => {
                Self::push_days(column, i32::try_from(value).map_err(|_| CellError::OutOfRange("Date32"))?)?;
            }
            PgType::Timestamp | PgType::Timestamptz => Self::push_micros(column, value)?,
            PgType::Time => column.push(time_text(value)?.as_bytes()),
            PgType::AsText(inner) => column.push(as_text::of_int(inner, value)?.as_bytes()),
            // JSON has one kind of number: a float without a fraction may come as an integer, always exactly below 2^53.
            #[expect(clippy::cast_precision_loss, reason = "checked: the integer is below 2^53")]
            PgType::Float4 | PgType::Float8 if value.unsigned_abs() < 1 << 53 => {
                self.push_float(column, value as f64)?;
            }
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    pub(super) fn push_float(&self, column: &mut Column, value: f64) -> Result<(), CellError> {
        match self.pg {
            #[expect(clippy::cast_possible_truncation, reason = "the text was the shortest one of a float4")]
            PgType::Float4 => column.push(&(value as f32).to_le_bytes()),
            PgType::Float8 => column.push(&value.to_le_bytes()),
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    /// A JSON string, or the text form of a type that is read as text.
    pub(super) fn push_text(&self, column: &mut Column, text: &str) -> Result<(), CellError> {
        match &self.pg {
            PgType::Text { .. } | PgType::TextForm | PgType::Json | PgType::Jsonb | PgType::Xml => {
                column.push(text.as_bytes());
            }
            PgType::NumericText => column.push(numeric_text(text).as_bytes()),
            PgType::Numeric { precision, scale } => {
                let value = decimal::parse(text, *precision, *scale).ok_or_else(|| not_a_decimal(text))?;
                Self::push_decimal(column, value, *precision);
            }
            PgType::Money => {
                let value = decimal::parse(text, MONEY.0, MONEY.1).ok_or_else(|| self.malformed())?;
                Self::push_decimal(column, value, MONEY.0);
            }
            PgType::Interval => column.push(interval_text(text).ok_or(CellError::Inexact)?.as_bytes()),
            PgType::Inet => column.push(inet_text(text).as_bytes()),
            PgType::Tstzrange if !is_utc_range(text) => return Err(CellError::Inexact),
            PgType::Tstzrange => column.push(text.as_bytes()),
            PgType::AsText(inner) => column.push(as_text::of_text(inner, text)?.as_bytes()),
            PgType::Uuid => {
                column.push(&uuid_bytes(uuid::Uuid::try_parse(text).map_err(|_| self.malformed())?.as_u128()));
            }
            PgType::Bytea => column.push(&BASE64.decode(text).map_err(|_| self.malformed())?),
            PgType::Timestamptz => {
                let time = DateTime::parse_from_rfc3339(text).map_err(|_| CellError::OutOfRange("DateTime64(6)"))?;
                Self::push_micros(column, time.timestamp_micros())?;
            }
            PgType::Float4 | PgType::Float8 => {
                self.push_float(column, float_word(text).ok_or_else(|| self.malformed())?)?;
            }
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    pub(super) fn push_decimal(column: &mut Column, value: i128, precision: u8) {
        let bytes = value.to_le_bytes();
        let size = if precision <= 9 {
            4
        } else if precision <= 18 {
            8
        } else {
            16
        };
        // Two's complement: the low bytes are the value, which `decimal` has checked to fit.
        column.push(bytes.get(..size).unwrap_or(&bytes));
    }

    pub(super) fn push_micros(column: &mut Column, micros: i64) -> Result<(), CellError> {
        if !MICROS.contains(&micros) {
            return Err(CellError::OutOfRange("DateTime64(6)"));
        }
        column.push(&micros.to_le_bytes());
        Ok(())
    }

    pub(super) fn push_days(column: &mut Column, days: i32) -> Result<(), CellError> {
        if !DAYS.contains(&days) {
            return Err(CellError::OutOfRange("Date32"));
        }
        column.push(&days.to_le_bytes());
        Ok(())
    }

    fn malformed(&self) -> CellError {
        CellError::Malformed(match &self.pg {
            PgType::Bool => "true or false",
            PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => "an integer",
            PgType::Float4 | PgType::Float8 => "a number",
            PgType::Numeric { .. } | PgType::NumericText => "a numeric as text (decimal.handling.mode=string)",
            PgType::Date => "days since 1970 as an integer",
            PgType::Time | PgType::Timestamp => "microseconds as an integer (time.precision.mode=microseconds)",
            PgType::Timestamptz => "a time with zone as text",
            PgType::Bytea => "base64 (binary.handling.mode=bytes)",
            PgType::Uuid => "a UUID",
            PgType::Array(_) => "an array",
            PgType::Money => "an amount as text with at most two digits after the point",
            PgType::Interval => "an interval as text (interval.handling.mode=string)",
            PgType::Text { .. }
            | PgType::TextForm
            | PgType::TextOnly(_)
            | PgType::AsText(_)
            | PgType::Inet
            | PgType::Xml
            | PgType::Tstzrange
            | PgType::Json
            | PgType::Jsonb => "a text",
        })
    }
}

/// ClickHouse keeps a UUID as two little-endian halves, the high one first.
pub(super) fn uuid_bytes(value: u128) -> [u8; 16] {
    value.rotate_left(64).to_le_bytes()
}

/// Why a text is no Decimal of the column.
fn not_a_decimal(text: &str) -> CellError {
    match text {
        "NAN" | "NaN" => CellError::NotRepresentable("NaN in a Decimal"),
        "POSITIVE_INFINITY" | "NEGATIVE_INFINITY" | "Infinity" | "-Infinity" => {
            CellError::NotRepresentable("infinity in a Decimal")
        }
        _ => CellError::NotRepresentable("a numeric with other digits than the Decimal has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_days_they_say() {
        use chrono::NaiveDate;
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a day");
        let day = |y, m, d| {
            i32::try_from((NaiveDate::from_ymd_opt(y, m, d).expect("a day") - epoch).num_days()).expect("small")
        };
        assert_eq!((*DAYS.start(), *DAYS.end()), (day(1900, 1, 1), day(2299, 12, 31)));
        assert_eq!(*MICROS.start(), i64::from(day(1900, 1, 1)) * 86_400_000_000);
        assert_eq!(*MICROS.end(), i64::from(day(2300, 1, 1)) * 86_400_000_000 - 1);
    }

    #[test]
    fn nothing_is_clamped() {
        let timestamp = Codec::new(PgType::Timestamp, true);
        let mut column = timestamp.new_column();
        for infinity in [i64::MAX, i64::MIN, *MICROS.end() + 1] {
            assert!(timestamp.push_int(&mut column, infinity).is_err());
        }
        let int = Codec::new(PgType::Int2, false);
        assert_eq!(int.push_int(&mut int.new_column(), 32768), Err(CellError::OutOfRange("Int16")));
        assert_eq!(int.push_null(&mut int.new_column()), Err(CellError::UnexpectedNull));
    }
}
