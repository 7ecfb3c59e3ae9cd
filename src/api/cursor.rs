//! Cursors of lists: opaque texts that hold the last row's place and a digest that binds it to the filters.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};

use super::posts_sql::Filter;
use super::problem::{ApiError, ApiResult, Code};

/// Bytes of the digest that a cursor carries: enough to notice mistakes, which is all it is for.
const DIGEST_BYTES: usize = 12;
const PLACE_BYTES: usize = 16;

/// The place of a row in a list.
pub(super) type Place = (DateTime<Utc>, i64);

/// The cursor behind `place` in the list of `filter`.
pub(super) fn write(filter: &Filter, place: Place) -> String {
    let mut bytes = place.0.timestamp_micros().to_be_bytes().to_vec();
    bytes.extend(place.1.to_be_bytes());
    let digest = digest(filter, &bytes);
    bytes.extend(digest);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that a cursor names.
///
/// # Errors
/// 400 `invalid-cursor` when it was not made by `write` for an equal filter.
pub(super) fn read(filter: &Filter, text: &str) -> ApiResult<Place> {
    parse(filter, text).ok_or_else(|| {
        ApiError::new(Code::InvalidCursor, "the cursor was not made for these filters and this sort, or was changed")
    })
}

fn parse(filter: &Filter, text: &str) -> Option<Place> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (place, found) = bytes.split_at_checked(PLACE_BYTES)?;
    if found != digest(filter, place) {
        return None;
    }
    let (micros, id) = place.split_at_checked(8)?;
    let posted_at = DateTime::from_timestamp_micros(i64::from_be_bytes(micros.try_into().ok()?))?;
    Some((posted_at, i64::from_be_bytes(id.try_into().ok()?)))
}

/// Over every filter with its length, so that no two filters have one text.
fn digest(filter: &Filter, place: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut part = |text: &[u8]| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    part(b"sentiment-social 1");
    part(place);
    part(if filter.oldest_first { b"oldest" } else { b"newest" });
    for moment in [filter.posted_from, filter.posted_to] {
        part(moment.map_or_else(String::new, |moment| moment.timestamp_micros().to_string()).as_bytes());
    }
    for (column, value) in &filter.equal {
        part(column.as_bytes());
        part(value.as_bytes());
    }
    hash.finalize().iter().take(DIGEST_BYTES).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_round_trip_and_stay_with_their_filter(micros in -2_000_000_000_000_000i64..9_000_000_000_000_000, id: i64, oldest_first: bool, topic in "[a-z]{0,3}") {
            let place = (DateTime::from_timestamp_micros(micros).expect("in range"), id);
            let filter = Filter { oldest_first, equal: vec![("topic", topic.clone())], ..Filter::default() };
            let text = write(&filter, place);
            prop_assert_eq!(parse(&filter, &text), Some(place));
            let others = [
                Filter { oldest_first: !oldest_first, ..filter.clone() },
                Filter { equal: vec![("author", topic)], ..filter.clone() },
                Filter { equal: vec![], ..filter.clone() },
                Filter { posted_from: Some(DateTime::UNIX_EPOCH), ..filter.clone() },
                Filter { posted_to: Some(DateTime::UNIX_EPOCH), ..filter.clone() },
            ];
            for other in others {
                prop_assert_eq!(parse(&other, &text), None);
            }
        }

        #[test]
        fn any_other_text_is_refused(text in ".{0,60}") {
            prop_assert_eq!(parse(&Filter::default(), &text), None);
        }
    }
}
