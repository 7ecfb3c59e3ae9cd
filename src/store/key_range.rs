//! The keys of a day in a mirror, where they are a range.

use serde::Deserialize;

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
    is_dense: u8,
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
        let row: Option<Row> = clickhouse.fetch_optional(&table.key_range_sql(), parameters).await?;
        Ok(row.and_then(Row::range))
    }
}

impl Row {
    fn range(self) -> Option<KeyRange> {
        // Bytes that are no text would come back as others.
        let is_plain = |text: &str| text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b'\\');
        let Self { first, last, key_type, is_dense } = self;
        (is_dense == 1 && is_plain(&first) && is_plain(&last)).then_some(KeyRange { first, last, key_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_and_plain_keys_are_a_range() {
        let row =
            |first: &str, is_dense| Row { first: first.into(), last: "9".into(), key_type: "String".into(), is_dense };
        assert!(row("a b", 1).range().is_some());
        assert_eq!(row("a", 0).range(), None);
        for text in ["\u{fffd}", "a\tb", "a\\b", "ä"] {
            assert_eq!(row(text, 1).range(), None, "{text:?}");
        }
    }
}
