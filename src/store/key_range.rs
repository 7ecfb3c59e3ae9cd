//! The keys of a day in a mirror, where they are a range.

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error, Parameter};
use super::mirror_day::MirrorTable;

/// Keys that a day's rows have, and hardly any others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRange {
    /// The first key, as ClickHouse prints it.
    pub(super) first: String,
    /// The last one; it belongs to the range.
    pub(super) last: String,
    /// ClickHouse's type of both.
    pub(super) key_type: String,
}

#[derive(Deserialize)]
struct Row {
    first: String,
    last: String,
    key_type: String,
    #[serde(with = "text")]
    versions: u64,
}

impl KeyRange {
    /// Looks for it, with the parameters of the day; `None` for an empty day, one whose keys are scattered among those of others, and
    /// keys that cannot be bound as they are printed.
    ///
    /// # Errors
    /// ClickHouse's.
    pub(super) async fn find(
        clickhouse: &ClickHouse,
        table: &MirrorTable,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Between {
            #[serde(with = "text")]
            versions: u64,
        }
        let row: Option<Row> = clickhouse.fetch_optional(&table.key_range_sql(), parameters).await?;
        let Some(row) = row.filter(Row::may_be_bound) else { return Ok(None) };
        let is_dense = row.is_dense() || {
            let bound = [("key_first", row.first.as_str()), ("key_last", row.last.as_str())];
            let sql = table.versions_between_sql(&row.key_type);
            let between: Option<Between> = clickhouse.fetch_optional(&sql, &bound).await?;
            between.is_some_and(|between| between.versions <= row.versions.saturating_mul(2))
        };
        let Row { first, last, key_type, .. } = row;
        Ok(is_dense.then_some(Self { first, last, key_type }))
    }
}

impl Row {
    fn may_be_bound(&self) -> bool {
        // Bytes that are no text would come back as others.
        let is_plain = |text: &str| text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b'\\');
        self.versions > 0 && is_plain(&self.first) && is_plain(&self.last)
    }

    /// Whether there is not even room for more keys of other days than there are of this one. `false`: they have to be counted.
    fn is_dense(&self) -> bool {
        let (Ok(first), Ok(last)) = (self.first.parse::<i128>(), self.last.parse::<i128>()) else { return false };
        let room = last.checked_sub(first).and_then(|room| room.checked_add(1));
        let is_a_number = self.key_type.starts_with("Int") || self.key_type.starts_with("UInt");
        is_a_number && room.is_some_and(|room| room <= i128::from(self.versions) * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: &str, last: &str, key_type: &str, versions: u64) -> Row {
        Row { first: first.into(), last: last.into(), key_type: key_type.into(), versions }
    }

    #[test]
    fn only_plain_keys_are_bound() {
        assert!(row("a b", "9", "String", 1).may_be_bound());
        assert!(!row("a b", "9", "String", 0).may_be_bound(), "there is none");
        for text in ["\u{fffd}", "a\tb", "a\\b", "ä"] {
            assert!(!row(text, "9", "String", 1).may_be_bound(), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_close_together_without_being_counted() {
        assert!(row("-5", "4", "Int64", 5).is_dense());
        assert!(!row("-5", "5", "Int64", 5).is_dense(), "there is room for six others");
        assert!(!row("1", "2", "String", 5).is_dense(), "between them are the texts 10 and 11");
        assert!(!row("1.5", "2.5", "Decimal(9, 1)", 50).is_dense());
        let (least, most) = (i128::MIN.to_string(), i128::MAX.to_string());
        assert!(!row(&least, &most, "Int128", u64::MAX).is_dense());
    }
}
