//! Where in time a row belongs: the bucket of its value in the column that an aggregate's header names. Buckets are days in
//! UTC, known by their first second since 1970.

use std::collections::BTreeSet;

use chrono::DateTime;
use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Block, PgType, TableColumn};

/// Seconds of a day in UTC.
const DAY_S: i64 = 86_400;
/// Microseconds of a day in UTC.
const DAY_US: i64 = DAY_S * 1_000_000;

impl TableColumn {
    /// ClickHouse's expression for the bucket of the column's value, NULL for NULL; `None` for types without a day.
    pub fn bucket_expression(&self) -> Option<String> {
        let name = crate::domain::quote_clickhouse(self.name());
        match self.codec().pg() {
            PgType::Date => Some(format!("toInt64(toInt32({name})) * {DAY_S}")),
            PgType::Timestamp | PgType::Timestamptz => {
                // Rounded down, also before 1970. A remainder would not say so: ClickHouse takes a large literal for unsigned, and
                // what is left of a negative number by it for positive.
                Some(format!("toInt64(toInt32(toDate32({name}))) * {DAY_S}"))
            }
            _ => None,
        }
    }

    /// The bucket of the column's value in `row`, a row of an event, or that it is NULL and in none; `None` when the row does
    /// not say it.
    pub fn bucket_in(&self, row: &RawValue) -> Option<Option<i64>> {
        let mut deserializer = serde_json::Deserializer::from_str(row.get());
        let value = Field(self.name()).deserialize(&mut deserializer).ok()??;
        if value.get() == "null" {
            return Some(None);
        }
        let bucket = match self.codec().pg() {
            PgType::Date => i64::deserialize(value).ok()?.checked_mul(DAY_S)?,
            PgType::Timestamp => day_of(i64::deserialize(value).ok()?),
            PgType::Timestamptz => {
                let text = <std::borrow::Cow<'_, str>>::deserialize(value).ok()?;
                day_of(DateTime::parse_from_rfc3339(&text).ok()?.timestamp_micros())
            }
            _ => return None,
        };
        Some(Some(bucket))
    }

    /// `text`, an expression with the text that `Block::key_texts` gives, as a value of the column's type in ClickHouse.
    pub fn from_text_in_clickhouse(&self, text: &str) -> String {
        match self.codec().pg() {
            // `\x…`.
            PgType::Bytea => format!("unhex(substring({text}, 3))"),
            // Without the zone: it is always UTC.
            PgType::Timestamptz => {
                format!("CAST(substring({text}, 1, length({text}) - 3), 'DateTime64(6, \\'UTC\\')')")
            }
            _ => format!("CAST({text}, '{}')", self.codec().native_type().replace('\'', "\\'")),
        }
    }
}

impl Block {
    /// The buckets of the rows that are no tombstones, by the column at `position`.
    pub fn buckets(&self, position: usize, pg: &PgType) -> BTreeSet<i64> {
        let mut buckets = BTreeSet::new();
        let mut last = None;
        let Some(column) = self.columns.get(position) else { return buckets };
        for row in (0..self.rows()).filter(|row| !self.is_tombstone(*row)) {
            let Some(bytes) = column.get(row) else { continue };
            let bucket = match pg {
                PgType::Date => bytes.try_into().ok().map(|bytes| i64::from(i32::from_le_bytes(bytes)) * DAY_S),
                _ => bytes.try_into().ok().map(|bytes| day_of(i64::from_le_bytes(bytes))),
            };
            // Rows come in the order of time more often than not.
            if bucket != last {
                buckets.extend(bucket);
                last = bucket;
            }
        }
        buckets
    }

    /// Whether a row is a tombstone.
    pub fn is_tombstone(&self, row: usize) -> bool {
        self.version_of(row).is_some_and(|(_, deleted)| deleted)
    }
}

fn day_of(micros: i64) -> i64 {
    micros.div_euclid(DAY_US) * DAY_S
}

/// One field of a JSON object; the others are passed over.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(self.0))? {
            if is_it {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is this one.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a column's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}
