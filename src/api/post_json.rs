//! Rows of posts as JSON, written from the database's bytes straight into the answer: a list has thousands of values, and
//! each conversion less is time less.

use std::error::Error;
use std::io::Write as _;

use chrono::{DateTime, SecondsFormat};
use rust_decimal::Decimal;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::problem::{ApiError, ApiResult};
use crate::catalog::endpoint_parameter::Refused;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Id,
    Text,
    Texts,
    Count,
    Decimal,
    Json,
    Moment,
}

/// The members of a post in their order. `post::Post` describes them.
const MEMBERS: [(&str, Kind); 20] = [
    ("id", Kind::Id),
    ("platform", Kind::Text),
    ("post_id", Kind::Text),
    ("author", Kind::Text),
    ("content", Kind::Text),
    ("lang", Kind::Text),
    ("topic", Kind::Text),
    ("hashtags", Kind::Texts),
    ("sentiment_label", Kind::Text),
    ("sentiment_score", Kind::Decimal),
    ("confidence", Kind::Decimal),
    ("likes", Kind::Count),
    ("replies", Kind::Count),
    ("shares", Kind::Count),
    ("model_name", Kind::Text),
    ("raw", Kind::Json),
    ("posted_at", Kind::Moment),
    ("created_at", Kind::Moment),
    ("updated_at", Kind::Moment),
    ("row_version", Kind::Id),
];
/// Bytes of a usual post.
pub(super) const POST_BYTES: usize = 768;

/// Which members are shown, and so which columns are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields(Vec<(&'static str, Kind)>);

impl Default for Fields {
    fn default() -> Self {
        Self(MEMBERS.to_vec())
    }
}

impl Fields {
    /// Names with commas between them; members come in the order of a post, each once.
    ///
    /// # Errors
    /// `Refused` for an unknown or absent name.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let names: Vec<&str> = text.split(',').collect();
        if !names.iter().all(|name| MEMBERS.iter().any(|(member, _)| member == name)) {
            let all: Vec<&str> = MEMBERS.iter().map(|(name, _)| *name).collect();
            return Err(Refused(format!("must be some of {}, with commas", all.join(","))));
        }
        Ok(Self(MEMBERS.iter().filter(|(name, _)| names.contains(name)).copied().collect()))
    }

    /// The columns, for SELECT and RETURNING.
    pub(super) fn columns(&self) -> String {
        self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends a row as a JSON object. The row begins with `columns`.
    ///
    /// # Errors
    /// 500 when a column holds what the API cannot carry, such as a two-dimensional array or an infinite time.
    pub(super) fn write(&self, row: &Row, out: &mut Vec<u8>) -> ApiResult<()> {
        out.push(b'{');
        for (at, (name, kind)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match kind {
                Kind::Id => json(out, &row.try_get::<_, i64>(at)?)?,
                Kind::Count => json(out, &row.try_get::<_, i32>(at)?)?,
                Kind::Text => json(out, &row.try_get::<_, Option<&str>>(at)?)?,
                Kind::Texts => json(out, &row.try_get::<_, Vec<Option<&str>>>(at)?)?,
                Kind::Decimal => match row.try_get::<_, Option<Decimal>>(at)? {
                    Some(number) => write!(out, "\"{number}\"").map_err(ApiError::internal)?,
                    None => out.extend_from_slice(b"null"),
                },
                Kind::Json => {
                    out.extend_from_slice(row.try_get::<_, Option<Jsonb>>(at)?.map_or(&b"null"[..], |json| json.0));
                }
                Kind::Moment => write_moment(out, row.try_get::<_, Micros>(at)?.0)?,
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// A whole post of `Fields::default()`, and its `row_version`.
///
/// # Errors
/// As `Fields::write`.
pub(super) fn post(fields: &Fields, row: &Row) -> ApiResult<(Vec<u8>, i64)> {
    let mut out = Vec::with_capacity(POST_BYTES);
    fields.write(row, &mut out)?;
    Ok((out, row.try_get("row_version")?))
}

fn json(out: &mut Vec<u8>, value: &impl Serialize) -> ApiResult<()> {
    serde_json::to_writer(out, value).map_err(ApiError::internal)
}

/// `jsonb` in its binary form: a version, then JSON as PostgreSQL writes it.
struct Jsonb<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Jsonb<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match raw.split_first() {
            Some((1, json)) => Ok(Self(json)),
            _ => Err("jsonb of an unknown version".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
}

/// `timestamptz` in its binary form: microseconds since 2000-01-01.
struct Micros(i64);

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match i64::from_be_bytes(raw.try_into()?) {
            i64::MAX | i64::MIN => Err("an infinite time".into()),
            micros => Ok(Self(micros)),
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// Microseconds from 1970 to 2000.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// RFC 3339 in UTC with as many decimals as needed in groups of three, as chrono writes it, at a third of the cost.
fn write_moment(out: &mut Vec<u8>, micros: i64) -> ApiResult<()> {
    let infinite = || ApiError::internal("a time that has no date");
    let micros = micros.checked_add(EPOCH_MICROS).ok_or_else(infinite)?;
    let (days, rest) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
    let (year, month, day) = civil(days);
    if !(0..=9999).contains(&year) {
        let moment = DateTime::from_timestamp_micros(micros).ok_or_else(infinite)?;
        return json(out, &moment.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    }
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.push(b'"');
    digits(out, year, 4);
    for (before, number) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        out.push(before);
        digits(out, number, 2);
    }
    if fraction % 1000 != 0 {
        out.push(b'.');
        digits(out, fraction, 6);
    } else if fraction != 0 {
        out.push(b'.');
        digits(out, fraction / 1000, 3);
    }
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Appends the last `width` decimal digits of a number that is not negative.
fn digits(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = number / 10_i64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or_default());
    }
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::super::post::Post;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn moments_are_written_as_chrono_writes_them(micros in -2_300_000_000_000_000_000_i64..8_000_000_000_000_000_000, unit in 0..3_u32) {
            let micros = micros / 1000_i64.pow(unit) * 1000_i64.pow(unit);
            let moment = DateTime::from_timestamp_micros(micros);
            prop_assume!(moment.is_some());
            let mut written = Vec::new();
            write_moment(&mut written, micros - EPOCH_MICROS).expect("written");
            let expected = serde_json::to_vec(&moment.expect("a moment").to_rfc3339_opts(SecondsFormat::AutoSi, true)).expect("JSON");
            prop_assert_eq!(String::from_utf8(written), String::from_utf8(expected));
        }
    }

    #[test]
    fn members_are_those_that_are_described() {
        use utoipa::PartialSchema as _;
        let schema = serde_json::to_value(Post::schema()).expect("JSON");
        let mut described: Vec<&str> =
            schema["properties"].as_object().expect("members").keys().map(String::as_str).collect();
        let mut written: Vec<&str> = MEMBERS.iter().map(|(name, _)| *name).collect();
        described.sort_unstable();
        written.sort_unstable();
        assert_eq!(described, written);
    }

    #[test]
    fn fields_are_known_names() {
        assert_eq!(Fields::parse("likes,id,likes").expect("two").columns(), "id, likes");
        for wrong in ["", "id,", "Id", "id likes", "id;drop table x", "*"] {
            assert!(Fields::parse(wrong).is_err(), "{wrong}");
        }
    }
}
