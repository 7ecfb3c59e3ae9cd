//! The order of a list of posts, and places in it.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::problem::ApiResult;
use crate::catalog::endpoint_parameter::Refused;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Moment,
    Number,
    Decimal,
    Text,
}

/// Something to sort by. Its expression is never null, so that every row has a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Column {
    name: &'static str,
    /// Its SQL.
    pub expression: &'static str,
    kind: Kind,
}

const fn column(name: &'static str, expression: &'static str, kind: Kind) -> Column {
    Column { name, expression, kind }
}

/// A score that is null counts as lower than all others.
const COLUMNS: [Column; 11] = [
    column("id", "id", Kind::Number),
    column("posted_at", "posted_at", Kind::Moment),
    column("created_at", "created_at", Kind::Moment),
    column("updated_at", "updated_at", Kind::Moment),
    column("platform", "platform", Kind::Text),
    column("sentiment_label", "sentiment_label", Kind::Text),
    column("sentiment_score", "coalesce(sentiment_score, -2)", Kind::Decimal),
    column("confidence", "coalesce(confidence, -2)", Kind::Decimal),
    column("likes", "likes::int8", Kind::Number),
    column("replies", "replies::int8", Kind::Number),
    column("shares", "shares::int8", Kind::Number),
];
/// Columns that a request may name.
const NAMED_MAX: usize = 4;

/// One step of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// What is compared.
    pub column: &'static Column,
    /// Highest first.
    pub descending: bool,
}

/// An order in which every row has a place of its own: the last step is the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order(pub Vec<Step>);

impl Order {
    /// `newest`, `oldest`, or up to four columns with commas, `-` before those that come highest first. The id, in the
    /// direction of the last column, settles what is left.
    ///
    /// # Errors
    /// `Refused` for unknown columns and too many.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let names = match text {
            "newest" => "-posted_at",
            "oldest" => "posted_at",
            other => other,
        };
        let mut steps: Vec<Step> = Vec::new();
        if names.split(',').count() > NAMED_MAX {
            return Err(refused());
        }
        for name in names.split(',') {
            let (descending, name) = name.strip_prefix('-').map_or((false, name), |rest| (true, rest));
            let found = COLUMNS.iter().find(|column| column.name == name).ok_or_else(refused)?;
            // What was sorted by already changes nothing.
            if !steps.iter().any(|step| step.column == found) {
                steps.push(Step { column: found, descending });
            }
        }
        // Whatever follows the id changes nothing.
        if let Some(at) = steps.iter().position(|step| step.column.name == "id") {
            steps.truncate(at + 1);
        } else if let (Some(id), Some(last)) = (COLUMNS.first(), steps.last()) {
            steps.push(Step { column: id, descending: last.descending });
        }
        Ok(Self(steps))
    }

    /// A text that no other order has.
    pub(super) fn text(&self) -> String {
        let steps = self.0.iter().map(|step| format!("{}{}", if step.descending { "-" } else { "" }, step.column.name));
        steps.collect::<Vec<_>>().join(",")
    }

    /// The place of a row whose columns from `first` on are the expressions of this order.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn place_of(&self, row: &Row, first: usize) -> ApiResult<Vec<PlaceValue>> {
        let steps = self.0.iter().enumerate();
        steps
            .map(|(at, step)| {
                Ok(match step.column.kind {
                    Kind::Moment => PlaceValue::Moment(row.try_get(first + at)?),
                    Kind::Number => PlaceValue::Number(row.try_get(first + at)?),
                    Kind::Decimal => PlaceValue::Decimal(row.try_get(first + at)?),
                    Kind::Text => PlaceValue::Text(row.try_get(first + at)?),
                })
            })
            .collect()
    }

    /// The opposite of `encode`; `None` for bytes that are of another form.
    pub(super) fn decode(&self, bytes: &[u8]) -> Option<Vec<PlaceValue>> {
        let mut rest = bytes;
        let mut place = Vec::new();
        for step in &self.0 {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = after;
            place.push(match step.column.kind {
                Kind::Moment => {
                    PlaceValue::Moment(DateTime::from_timestamp_micros(i64::from_be_bytes(value.try_into().ok()?))?)
                }
                Kind::Number => PlaceValue::Number(i64::from_be_bytes(value.try_into().ok()?)),
                Kind::Decimal => PlaceValue::Decimal(std::str::from_utf8(value).ok()?.parse().ok()?),
                Kind::Text => {
                    PlaceValue::Text(String::from_utf8(value.to_vec()).ok().filter(|text| !text.contains('\0'))?)
                }
            });
        }
        rest.is_empty().then_some(place)
    }
}

fn refused() -> Refused {
    let names = COLUMNS.map(|column| column.name).join(", ");
    Refused(format!("must be newest, oldest, or up to {NAMED_MAX} of {names} with commas, - before one: highest first"))
}

/// A row's value of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlaceValue {
    /// `timestamptz`
    Moment(DateTime<Utc>),
    /// `int8`
    Number(i64),
    /// `numeric`
    Decimal(Decimal),
    /// `text`
    Text(String),
}

impl PlaceValue {
    /// The value and the type it is sent as.
    pub(super) fn bound(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Moment(moment) => (moment, Type::TIMESTAMPTZ),
            Self::Number(number) => (number, Type::INT8),
            Self::Decimal(number) => (number, Type::NUMERIC),
            Self::Text(text) => (text, Type::TEXT),
        }
    }
}

/// A place as bytes.
pub(super) fn encode(place: &[PlaceValue]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in place {
        let value = match value {
            PlaceValue::Moment(moment) => moment.timestamp_micros().to_be_bytes().to_vec(),
            PlaceValue::Number(number) => number.to_be_bytes().to_vec(),
            PlaceValue::Decimal(number) => number.to_string().into_bytes(),
            PlaceValue::Text(text) => text.as_bytes().to_vec(),
        };
        // Texts to sort by have 64 bytes at most where the API wrote them; a longer one is cut, and its page may repeat rows.
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_be_bytes());
        bytes.extend(value.iter().take(usize::from(length)));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn orders_end_with_the_id() {
        for (text, expected) in [
            ("newest", "-posted_at,-id"),
            ("oldest", "posted_at,id"),
            ("-likes,posted_at", "-likes,posted_at,id"),
            ("platform,-id,likes", "platform,-id"),
            ("id", "id"),
            ("likes,-likes", "likes,id"),
        ] {
            assert_eq!(Order::parse(text).map(|order| order.text()).ok().as_deref(), Some(expected), "{text}");
        }
        for wrong in ["", "best", "id;drop table x", "likes,replies,shares,platform,id", "raw", "1", "\"id\"", "-"] {
            assert!(Order::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn places_round_trip(micros in -9_000_000_000_000_000_i64..9_000_000_000_000_000, id: i64, score in -2000_i64..1000, text in "[^\0]{0,40}") {
            let order = Order::parse("-posted_at,sentiment_score,platform").expect("an order");
            let place = vec![
                PlaceValue::Moment(DateTime::from_timestamp_micros(micros).expect("in range")),
                PlaceValue::Decimal(Decimal::new(score, 3)),
                PlaceValue::Text(text),
                PlaceValue::Number(id),
            ];
            prop_assert_eq!(order.decode(&encode(&place)), Some(place));
        }

        #[test]
        fn other_bytes_are_no_place_or_harmless(bytes: Vec<u8>) {
            let order = Order::parse("platform,sentiment_score").expect("an order");
            let _ = order.decode(&bytes);
        }
    }
}
