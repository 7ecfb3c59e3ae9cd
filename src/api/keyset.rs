//! Cursors of lists that ClickHouse orders: opaque texts with the last row's place, bound to the filters they were made for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::problem::{ApiError, ApiResult, Code};

/// Bytes of the digest that a cursor carries: enough to notice mistakes, which is all it is for.
const DIGEST_BYTES: usize = 12;

/// A list with its filters, so that a cursor of another list is told.
#[derive(Debug)]
pub(super) struct Keyset(Vec<String>);

impl Keyset {
    /// `parts`: the list's name, then every filter.
    pub(super) fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(parts.into_iter().map(str::to_owned).collect())
    }

    /// The cursor behind the row at `place`.
    pub(super) fn write(&self, place: &[&str]) -> String {
        let place = serde_json::Value::from(place).to_string();
        let mut bytes = self.digest(place.as_bytes());
        bytes.extend(place.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place that a cursor names.
    ///
    /// # Errors
    /// 400 `invalid-cursor` when it was not made by `write` for this list and these filters.
    pub(super) fn read(&self, cursor: &str) -> ApiResult<Vec<String>> {
        let parse = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let (digest, place) = bytes.split_at_checked(DIGEST_BYTES)?;
            if digest != self.digest(place) {
                return None;
            }
            serde_json::from_slice(place).ok()
        };
        parse().ok_or_else(|| {
            ApiError::new(Code::InvalidCursor, "the cursor was not made for these filters, or was changed")
        })
    }

    fn digest(&self, place: &[u8]) -> Vec<u8> {
        let mut hash = Sha256::new();
        // As JSON, so that no two lists of filters have one text.
        hash.update(serde_json::Value::from(self.0.as_slice()).to_string());
        hash.update([0]);
        hash.update(place);
        hash.finalize().iter().take(DIGEST_BYTES).copied().collect()
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
