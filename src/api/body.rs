//! Request bodies: one JSON object, its type and size checked, its members kept as the client wrote them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderName};
use actix_web::web::{Bytes, Payload};
use rust_decimal::Decimal;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::encoding::Encoding;
use super::problem::{ApiError, ApiResult, Code};

const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// How much of a body is read, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Bytes, after decompression.
    pub bytes_max: usize,
    /// Until all of it must be there.
    pub time: Duration,
}

/// Reads the whole body and decompresses it.
///
/// # Errors
/// 415 when its type is none of `types` or its compression is not known, 413 when it has more bytes than `limit` says, 408 when
/// it takes longer, 400 when it breaks off.
pub(super) async fn read(request: &HttpRequest, payload: Payload, types: &[&str], limit: Limit) -> ApiResult<Bytes> {
    media_type(request, types)?;
    let encoding = Encoding::of(request)?;
    let bytes_max = limit.bytes_max;
    let too_large = || ApiError::new(Code::BodyTooLarge, format!("a body may have {bytes_max} bytes"));
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let body = tokio::time::timeout(limit.time, payload.to_bytes_limited(bytes_max)).await.map_err(|_| {
        ApiError::new(Code::RequestTimeout, format!("the body did not arrive within {} ms", limit.time.as_millis()))
    })?;
    let body = body.map_err(|_| too_large())?;
    encoding.decode(body.map_err(|_| ApiError::new(Code::BadRequest, "the body broke off"))?, bytes_max)
}

/// Which of `types` the body's is.
///
/// # Errors
/// 415 that lists them.
pub(super) fn media_type<'a>(request: &HttpRequest, types: &[&'a str]) -> ApiResult<&'a str> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (essence, parameters) = given.split_once(';').unwrap_or((given, ""));
    let utf8 = parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, charset)| charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"));
    let found = types.iter().find(|kind| utf8 && essence.trim().eq_ignore_ascii_case(kind));
    found.copied().ok_or_else(|| {
        ApiError::new(Code::UnsupportedMediaType, format!("send Content-Type: {}", types.join(" or ")))
            .header(ACCEPT_POST, types.join(", "))
    })
}

/// The members of a JSON object in the client's order, each once, each with its text as written, in the body's own bytes.
#[derive(Debug)]
pub(super) struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// Up to so many names are compared one by one; it is quicker than hashing the few that a body has.
const NAMES_COMPARED: usize = 32;

impl<'a> Members<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 `invalid-json` when it is no JSON object, or one member comes twice.
    pub(super) fn parse(body: &'a [u8]) -> ApiResult<Self> {
        serde_json::from_slice(body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "the body must be one JSON object whose members come once",
                _ => "the body is not JSON in UTF-8",
            };
            ApiError::new(Code::InvalidJson, format!("{what}; line {} column {}", error.line(), error.column()))
        })
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(NAMES_COMPARED);
                let mut seen = HashSet::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    let twice = if members.len() < NAMES_COMPARED {
                        members.iter().any(|(earlier, _)| *earlier == name)
                    } else {
                        if seen.is_empty() {
                            seen.extend(members.iter().map(|(earlier, _)| earlier.clone()));
                        }
                        !seen.insert(name.clone())
                    };
                    if twice {
                        return Err(serde::de::Error::custom("a member comes twice"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A member's name: the body's bytes, or a text of its own where it is written with escapes. A `Cow` by itself is never borrowed.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A whole number in any of JSON's spellings: `500`, `500.0` and `5e2` are one number.
pub(super) fn whole_number(text: &str) -> Option<i32> {
    let number = || match text.contains(['e', 'E']) {
        true => Decimal::from_scientific(text).ok(),
        false => text.parse::<Decimal>().ok(),
    };
    serde_json::from_str(text).ok().or_else(|| {
        let number = number().filter(|_| !text.starts_with('"') && !text.contains('_'))?;
        i32::try_from(number.normalize()).ok().filter(|whole| Decimal::from(*whole) == number)
    })
}

/// RFC 7396: `target` with `patch` merged in, on the texts, so that no number passes through a float.
///
/// Both must be JSON; the order of members is not kept (jsonb does not keep it either).
pub(super) fn merge_patch(target: Option<&str>, patch: &str) -> String {
    merge(target, patch, 0)
}

/// Objects nested deeper are replaced instead of merged; serde_json reads no deeper than 127 levels anyway.
const MERGE_DEPTH_MAX: usize = 120;

fn merge(target: Option<&str>, patch: &str, depth: usize) -> String {
    let object = |text: &str| serde_json::from_str::<std::collections::BTreeMap<String, Box<RawValue>>>(text).ok();
    let Some(changes) = object(patch).filter(|_| depth < MERGE_DEPTH_MAX) else { return patch.to_owned() };
    let mut merged = target.and_then(object).unwrap_or_default();
    for (name, change) in changes {
        if change.get() == "null" {
            merged.remove(&name);
            continue;
        }
        let value = merge(merged.get(&name).map(|value| value.get()), change.get(), depth + 1);
        if let Ok(value) = RawValue::from_string(value) {
            merged.insert(name, value);
        }
    }
    serde_json::to_string(&merged).unwrap_or_else(|_| patch.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_one_object_with_unique_members() {
        let members = Members::parse(br#" {"b": 1.10, "a": [null]} "#).expect("an object");
        let texts: Vec<_> = members.0.iter().map(|(name, value)| (name.as_ref(), value.get())).collect();
        assert_eq!(texts, [("b", "1.10"), ("a", "[null]")]);
        assert!(members.0.iter().all(|(name, _)| matches!(name, Cow::Borrowed(_))), "{members:?}");
        for body in
            ["", "[]", "1", "null", "{", r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, "{\"a\":\"\u{1}\"}", "{} {}"]
        {
            assert!(Members::parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn many_members_come_once_too() {
        let body = |names: &[usize]| {
            let members: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
            format!("{{{}}}", members.join(","))
        };
        let many: Vec<usize> = (0..3 * NAMES_COMPARED).collect();
        assert_eq!(Members::parse(body(&many).as_bytes()).expect("an object").0.len(), many.len());
        for (twice, at) in [(0, 1), (0, NAMES_COMPARED), (5, many.len()), (NAMES_COMPARED, many.len()), (40, 41)] {
            let mut names = many.clone();
            names.insert(at, twice);
            assert!(Members::parse(body(&names).as_bytes()).is_err(), "{twice} at {at}");
        }
    }

    #[test]
    fn whole_numbers_have_several_spellings() {
        for (text, expected) in [("500", 500), ("500.0", 500), ("5e2", 500), ("-0", 0), ("2147483647", i32::MAX)] {
            assert_eq!(whole_number(text), Some(expected), "{text}");
        }
        for text in ["1.5", "\"1\"", "2147483648", "1e400", "true", "null", "1_0", "1e-1"] {
            assert_eq!(whole_number(text), None, "{text}");
        }
    }

    /// The examples of RFC 7396, appendix A, as far as the patch is an object or the whole is replaced.
    #[test]
    fn merges_like_rfc_7396() {
        for (target, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (r#"{"n":1.000000000000000000000001}"#, "{}", r#"{"n":1.000000000000000000000001}"#),
        ] {
            assert_eq!(merge_patch(Some(target), patch), expected, "{target} + {patch}");
        }
        assert_eq!(merge_patch(None, r#"{"a":null,"b":1e400}"#), r#"{"b":1e400}"#);
    }
}
