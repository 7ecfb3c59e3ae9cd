//! One codec a type: what a PostgreSQL type becomes in ClickHouse, and how single values are written.
//!
//! A value is stored exactly or refused; nothing is clamped, rounded or replaced.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::DateTime;

use super::column::{Column, Layout};
use super::{PgType, decimal};

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
    /// NULL in a column that is NOT NULL.
    #[error("NULL in a column that is NOT NULL")]
    UnexpectedNull,
}

/// 1900-01-01 and 2299-12-31 23:59:59.999999 in microseconds: what every version of ClickHouse holds in `DateTime64(6)`.
const MICROS: std::ops::RangeInclusive<i64> = -2_208_988_800_000_000..=10_413_791_999_999_999;
/// The same days, counted from 1970-01-01, for `Date32`.
const DAYS: std::ops::RangeInclusive<i32> = -25_567..=120_529;

/// Writes values of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    pg: PgType,
    nullable: bool,
}

impl Codec {
    /// Of a column of type `pg`.
    pub fn new(pg: PgType, nullable: bool) -> Self {
        Self { pg, nullable }
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

    /// Whether no event carries a value of this column exactly, so that every row is read again.
    pub fn is_never_exact(&self) -> bool {
        false
    }

    /// ClickHouse's type, as in DDL. An array that may be NULL is a String with its JSON: ClickHouse's Array cannot be NULL,
    /// and NULL is not the empty array.
    pub fn clickhouse_type(&self) -> String {
        match &self.pg {
            PgType::Text { label: true } if self.nullable => "LowCardinality(Nullable(String))".into(),
            PgType::Text { label: true } => "LowCardinality(String)".into(),
            _ => self.native_type(),
        }
    }

    /// ClickHouse's type as blocks carry it; the server converts String to LowCardinality.
    pub fn native_type(&self) -> String {
        if let (PgType::Array(element), false) = (&self.pg, self.nullable) {
            return format!("Array(Nullable({}))", Self::scalar_type(element));
        }
        let name = Self::scalar_type(&self.pg);
        if self.nullable { format!("Nullable({name})") } else { name }
    }

    /// Whether the value is an array that is stored as its JSON text.
    pub(super) fn is_json_array(&self) -> bool {
        self.nullable && matches!(self.pg, PgType::Array(_))
    }

    fn scalar_type(pg: &PgType) -> String {
        match pg {
            PgType::Bool => "Bool".into(),
            PgType::Int2 => "Int16".into(),
            PgType::Int4 => "Int32".into(),
            PgType::Int8 => "Int64".into(),
            PgType::Oid => "UInt32".into(),
            PgType::Float4 => "Float32".into(),
            PgType::Float8 => "Float64".into(),
            PgType::Numeric { precision, scale } => format!("Decimal({precision}, {scale})"),
            PgType::Uuid => "UUID".into(),
            PgType::Date => "Date32".into(),
            PgType::Timestamp | PgType::Timestamptz => "DateTime64(6, 'UTC')".into(),
            PgType::NumericText
            | PgType::Text { .. }
            | PgType::TextForm
            | PgType::Time
            | PgType::Json
            | PgType::Jsonb
            | PgType::Bytea
            | PgType::Array(_) => "String".into(),
        }
    }

    fn layout(pg: &PgType) -> Layout {
        match pg {
            PgType::Bool => Layout::Fixed(1),
            PgType::Int2 => Layout::Fixed(2),
            PgType::Int4 | PgType::Oid | PgType::Float4 | PgType::Date => Layout::Fixed(4),
            PgType::Int8 | PgType::Float8 | PgType::Timestamp | PgType::Timestamptz => Layout::Fixed(8),
            // Decimal32 up to 9 digits, Decimal64 up to 18, Decimal128 up to 38.
            PgType::Numeric { precision: 0..=9, .. } => Layout::Fixed(4),
            PgType::Numeric { precision: 10..=18, .. } => Layout::Fixed(8),
            PgType::Numeric { .. } | PgType::Uuid => Layout::Fixed(16),
            PgType::NumericText
            | PgType::Text { .. }
            | PgType::TextForm
            | PgType::Time
            | PgType::Json
            | PgType::Jsonb
            | PgType::Bytea
            | PgType::Array(_) => Layout::Variable,
        }
    }

    /// An empty column of this type.
    pub fn new_column(&self) -> Column {
        match (&self.pg, self.nullable) {
            (PgType::Array(element), false) => Column::array(Column::scalar(Self::layout(element), true)),
            (pg, nullable) => Column::scalar(Self::layout(pg), nullable),
        }
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
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    pub(super) fn push_int(&self, column: &mut Column, value: i64) -> Result<(), CellError> {
        match self.pg {
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
            PgType::Text { .. } | PgType::TextForm | PgType::Json | PgType::Jsonb => column.push(text.as_bytes()),
            PgType::NumericText => column.push(numeric_text(text).as_bytes()),
            PgType::Numeric { precision, scale } => {
                let value =
                    decimal::parse(text, *precision, *scale).ok_or(CellError::NotRepresentable("this numeric"))?;
                Self::push_decimal(column, value, *precision);
            }
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
            PgType::Time => column.push(text.as_bytes()),
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    /// PostgreSQL's text of a stored value, for the types that keys have; `None` for others.
    pub(super) fn to_text(&self, bytes: &[u8]) -> Option<String> {
        let utf8 = || std::str::from_utf8(bytes).ok().map(str::to_owned);
        Some(match &self.pg {
            PgType::Bool => (bytes == [1]).to_string(),
            PgType::Int2 => i16::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Int4 => i32::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Int8 => i64::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Oid => u32::from_le_bytes(bytes.try_into().ok()?).to_string(),
            PgType::Uuid => {
                uuid::Uuid::from_u128(u128::from_le_bytes(bytes.try_into().ok()?).rotate_left(64)).to_string()
            }
            PgType::Date => {
                let days = i64::from(i32::from_le_bytes(bytes.try_into().ok()?));
                (chrono::NaiveDate::default() + chrono::Duration::days(days)).to_string()
            }
            PgType::Timestamp => {
                DateTime::from_timestamp_micros(i64::from_le_bytes(bytes.try_into().ok()?))?.naive_utc().to_string()
            }
            PgType::Timestamptz => {
                DateTime::from_timestamp_micros(i64::from_le_bytes(bytes.try_into().ok()?))?.to_rfc3339()
            }
            PgType::Text { .. } | PgType::TextForm | PgType::Time | PgType::NumericText => utf8()?,
            PgType::Float4
            | PgType::Float8
            | PgType::Numeric { .. }
            | PgType::Json
            | PgType::Jsonb
            | PgType::Bytea
            | PgType::Array(_) => return None,
        })
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
            PgType::Text { .. } | PgType::TextForm | PgType::Json | PgType::Jsonb => "a text",
        })
    }
}

/// ClickHouse keeps a UUID as two little-endian halves, the high one first.
pub(super) fn uuid_bytes(value: u128) -> [u8; 16] {
    value.rotate_left(64).to_le_bytes()
}

/// The three values of a float that are no JSON numbers, as JSON and as PostgreSQL write them.
fn float_word(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// PostgreSQL's text of a numeric, from Debezium's.
fn numeric_text(text: &str) -> std::borrow::Cow<'_, str> {
    match text {
        "NAN" => "NaN".into(),
        "POSITIVE_INFINITY" => "Infinity".into(),
        "NEGATIVE_INFINITY" => "-Infinity".into(),
        plain => plain.into(),
    }
}

/// PostgreSQL's text of a time of day, from microseconds since midnight; 24:00:00 is one.
fn time_text(micros: i64) -> Result<String, CellError> {
    if !(0..=86_400_000_000).contains(&micros) {
        return Err(CellError::Malformed("microseconds of a day"));
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 {
        return Ok(text);
    }
    Ok(format!("{text}.{fraction:06}").trim_end_matches('0').to_owned())
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

    #[test]
    fn times_of_day_print_as_postgres_does() {
        assert_eq!(time_text(86_400_000_000).as_deref(), Ok("24:00:00"));
        assert_eq!(time_text(3_661_000_100).as_deref(), Ok("01:01:01.0001"));
    }

    #[test]
    fn an_array_that_may_be_null_is_json_text() {
        let array = PgType::Array(Box::new(PgType::Int4));
        assert_eq!(Codec::new(array.clone(), false).clickhouse_type(), "Array(Nullable(Int32))");
        assert_eq!(Codec::new(array, true).clickhouse_type(), "Nullable(String)");
        assert_eq!(
            Codec::new(PgType::Text { label: true }, true).clickhouse_type(),
            "LowCardinality(Nullable(String))"
        );
    }
}
