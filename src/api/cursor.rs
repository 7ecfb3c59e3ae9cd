//! Cursors of lists: opaque texts that hold a row's place and a digest that binds it to the list it was made for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::problem::{ApiError, ApiResult, Code};

/// Bytes of the digest that a cursor carries: enough to notice mistakes, which is all it is for. What a cursor says is bound
/// as a value like any other parameter.
const DIGEST_BYTES: usize = 12;

/// The cursor of `place` in `list`: a text that no other list, filter or order has.
pub(super) fn write(list: &[u8], place: &[u8]) -> String {
    let mut bytes = place.to_vec();
    bytes.extend(digest(list, place));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that a cursor names.
///
/// # Errors
/// 400 `invalid-cursor` when it was not made by `write` for an equal list.
pub(super) fn read(list: &[u8], text: &str) -> ApiResult<Vec<u8>> {
    parse(list, text).ok_or_else(invalid)
}

/// What a cursor that cannot be one is answered with.
pub(super) fn invalid() -> ApiError {
    ApiError::new(Code::InvalidCursor, "the cursor was not made for these filters and this sort, or was changed")
}

fn parse(list: &[u8], text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (place, found) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
    (found == digest(list, place)).then(|| place.to_vec())
}

fn digest(list: &[u8], place: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [list, place] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(DIGEST_BYTES).copied().collect()
}

/// Parts with their lengths, so that no two lists of parts have one text.
pub(super) fn join<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        joined.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        joined.extend(part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_round_trip_and_stay_with_their_list(list: Vec<u8>, other: Vec<u8>, place: Vec<u8>) {
            let text = write(&list, &place);
            prop_assert_eq!(parse(&list, &text), Some(place));
            prop_assume!(list != other);
            prop_assert_eq!(parse(&other, &text), None);
        }

        #[test]
        fn any_other_text_is_refused(text in ".{0,60}") {
            prop_assert_eq!(parse(b"list", &text), None);
        }
    }

    #[test]
    fn joined_parts_keep_their_borders() {
        assert_ne!(join([&b"ab"[..], b"c"]), join([&b"a"[..], b"bc"]));
    }
}
