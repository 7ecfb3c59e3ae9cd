//! The body of a batch: a JSON array of posts, or one post a line (NDJSON). Each item is judged by itself.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::body::Members;
use super::post_input::Changes;
use super::problem::{ApiError, ApiResult, Code, FieldError};

/// Posts of one batch.
pub(super) const ITEMS_MAX: usize = 1000;
/// Mistakes named of one item, so that the answer to a thousand bad items stays readable.
const ERRORS_PER_ITEM: usize = 10;

/// Why an item was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What kind of mistake it is.
    pub code: Code,
    /// This time.
    pub detail: String,
    /// Each thing that is wrong, relative to the item.
    pub errors: Vec<FieldError>,
}

impl Refusal {
    /// Without single mistakes.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new() }
    }

    /// A post with this platform and post_id exists.
    pub(super) fn duplicate() -> Self {
        Self::new(Code::DuplicatePost, "a post with this platform and post_id exists")
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let (code, detail, mut errors) = error.into_parts();
        errors.truncate(ERRORS_PER_ITEM);
        Self { code, detail, errors }
    }
}

/// An item of a batch.
pub(super) type Item = Result<Changes, Refusal>;

/// Reads a JSON array.
///
/// # Errors
/// 400 when it is none, 422 when it is empty or too long. A wrong item is no error here.
pub(super) fn array(body: &[u8]) -> ApiResult<Vec<Item>> {
    let Texts(texts) = serde_json::from_slice(body).map_err(|error| {
        let text = format!("the body is not a JSON array in UTF-8; line {} column {}", error.line(), error.column());
        ApiError::new(Code::InvalidJson, text)
    })?;
    judged(texts.iter().map(|text| text.get().as_bytes()))
}

/// Reads one post a line; empty lines do not count.
///
/// # Errors
/// 422 when there is none or too many. A wrong line is no error here.
pub(super) fn lines(body: &[u8]) -> ApiResult<Vec<Item>> {
    let lines = body.split(|byte| *byte == b'\n');
    judged(lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace)))
}

fn judged<'a>(texts: impl Iterator<Item = &'a [u8]>) -> ApiResult<Vec<Item>> {
    let read = |text: &[u8]| Ok(Changes::whole(Members::parse(text)?)?);
    let mut items: Vec<Item> = texts.take(ITEMS_MAX + 1).map(read).collect();
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(ApiError::new(Code::InvalidBody, format!("a batch has 1 to {ITEMS_MAX} posts")));
    }
    refuse_twins(&mut items);
    Ok(items)
}

/// Of two items that cannot both be stored the later one is refused.
fn refuse_twins(items: &mut [Item]) {
    let mut first: HashMap<(String, String), usize> = HashMap::new();
    for (index, item) in items.iter_mut().enumerate() {
        let Ok(changes) = item else { continue };
        let (platform, post_id) = changes.identity();
        let earlier = *first.entry((platform.to_owned(), post_id.to_owned())).or_insert(index);
        if earlier != index {
            let detail = format!("item {earlier} of the batch has the same platform and post_id");
            *item = Err(Refusal::new(Code::DuplicatePost, detail));
        }
    }
}

/// The items of an array as they are written; behind one too many they are only checked to be JSON.
struct Texts<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Texts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;

        impl<'de> Visitor<'de> for Array {
            type Value = Texts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Texts<'de>, A::Error> {
                let mut texts = Vec::new();
                while texts.len() <= ITEMS_MAX {
                    let Some(text) = array.next_element::<&RawValue>()? else { return Ok(Texts(texts)) };
                    texts.push(text);
                }
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(id: &str) -> String {
        format!(
            r#"{{"platform":"p","post_id":"{id}","content":"x","sentiment_label":"mixed","posted_at":"2020-01-01"}}"#
        )
    }

    fn codes(items: &[Item]) -> Vec<&'static str> {
        items.iter().map(|item| item.as_ref().map_or_else(|refusal| refusal.code.as_str(), |_| "good")).collect()
    }

    #[test]
    fn items_are_judged_one_by_one() {
        let body = format!("[{}, 7, {{}}, {}, {}]", post("1"), post("1"), post("2"));
        let items = array(body.as_bytes()).expect("an array");
        let expected = ["good", "invalid-json", "invalid-body", "duplicate-post", "good"];
        assert_eq!(codes(&items), expected);
        let body = format!("{}\n7\r\n\n{{}}\n{}\n \n{}", post("1"), post("1"), post("2"));
        assert_eq!(codes(&lines(body.as_bytes()).expect("lines")), expected);
    }

    #[test]
    fn the_number_of_items_is_bounded() {
        for body in ["[]", "[1,]", "{}", "1", "", "[1] 2", "[\"\u{1}\"]"] {
            assert!(array(body.as_bytes()).is_err(), "{body}");
        }
        let many = |number: usize| format!("[{}]", vec!["1"; number].join(","));
        assert_eq!(array(many(ITEMS_MAX).as_bytes()).expect("fits").len(), ITEMS_MAX);
        assert!(array(many(ITEMS_MAX + 1).as_bytes()).is_err());
        assert!(array(many(100_000).as_bytes()).is_err());
        assert!(lines(b"\n \n").is_err());
        assert!(lines("1\n".repeat(ITEMS_MAX + 1).as_bytes()).is_err());
    }
}
