//! Cursors of lists that ClickHouse orders: the last row's place is a list of texts.

use super::cursor;
use super::problem::ApiResult;

/// A list with its filters, so that a cursor of another list is told.
#[derive(Debug)]
pub(super) struct Keyset(Vec<u8>);

impl Keyset {
    /// `parts`: the list's name, then every filter.
    pub(super) fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(cursor::join(parts.into_iter().map(str::as_bytes)))
    }

    /// The cursor behind the row at `place`.
    pub(super) fn write(&self, place: &[&str]) -> String {
        cursor::write(&self.0, serde_json::Value::from(place).to_string().as_bytes())
    }

    /// The place that a cursor names.
    ///
    /// # Errors
    /// 400 `invalid-cursor` when it was not made by `write` for this list and these filters.
    pub(super) fn read(&self, cursor: &str) -> ApiResult<Vec<String>> {
        let place = cursor::read(&self.0, cursor)?;
        serde_json::from_slice(&place).map_err(|_| cursor::invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_stays_with_its_list() {
        let list = |filter| Keyset::new(["runs", filter]);
        let cursor = list("a").write(&["2024-01-01", "7"]);
        assert_eq!(list("a").read(&cursor).expect("its own"), ["2024-01-01", "7"]);
        assert!(list("b").read(&cursor).is_err());
        for other in [String::new(), "x".to_owned(), cursor.replacen('A', "B", 1) + "A", format!("{cursor}AA")] {
            assert!(list("a").read(&other).is_err(), "{other}");
        }
    }
}
