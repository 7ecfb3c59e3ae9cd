//! One JSON object a line. Numbers are taken as their text, so that no digit passes through a float.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::mapping::Mapping;
use crate::batch::post::{COLUMNS, Draft, Given, Rejection};

type Raw<'a> = Option<&'a RawValue>;

/// The columns' raw values, in the order of `COLUMNS`.
struct Columns<'m>(&'m Mapping);

impl<'de> DeserializeSeed<'de> for Columns<'_> {
    type Value = [Raw<'de>; COLUMNS.len()];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Columns<'_> {
    type Value = [Raw<'de>; COLUMNS.len()];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut columns = [None; COLUMNS.len()];
        let mut guess = 0;
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            match self.0.column_of(&name, guess) {
                Some(at) => {
                    guess = at + 1;
                    let value = Some(map.next_value::<&RawValue>()?);
                    if let Some(slot) = columns.get_mut(at)
                        && std::mem::replace(slot, value).is_some()
                    {
                        return Err(A::Error::custom(format!("duplicate field `{name}`")));
                    }
                }
                None if self.0.ignore_unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
                None => return Err(A::Error::custom(format!("unknown field `{name}`"))),
            }
        }
        Ok(columns)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A post's draft out of one line.
///
/// # Errors
/// The line is not UTF-8, not a JSON object, has an unknown or a repeated field, or a value of the wrong JSON type.
pub(super) fn draft<'a>(line: &'a [u8], mapping: &Mapping) -> Result<Draft<'a>, Rejection> {
    // `from_utf8` of the standard library is the slower of the two.
    let text = simdutf8::compat::from_utf8(line)
        .map_err(|error| Rejection(format!("is not UTF-8 from byte {} on", error.valid_up_to() + 1)))?;
    // serde would take a list for the fields in their order.
    if text.trim_ascii_start().starts_with('[') {
        return Err(Rejection("is not a JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let columns = Columns(mapping).deserialize(&mut json).map_err(|error| reason(&error))?;
    json.end().map_err(|error| reason(&error))?;
    let [
        platform,
        post_id,
        author,
        content,
        lang,
        topic,
        hashtags,
        sentiment_label,
        sentiment_score,
        confidence,
        likes,
        replies,
        shares,
        model_name,
        raw,
        posted_at,
    ] = columns;
    Ok(Draft {
        platform: string("platform", platform)?,
        post_id: identifier("post_id", post_id)?,
        author: string("author", author)?,
        content: string("content", content)?,
        lang: string("lang", lang)?,
        topic: string("topic", topic)?,
        hashtags: tags("hashtags", hashtags)?,
        sentiment_label: string("sentiment_label", sentiment_label)?,
        sentiment_score: decimal("sentiment_score", sentiment_score)?,
        confidence: decimal("confidence", confidence)?,
        likes: number("likes", likes)?,
        replies: number("replies", replies)?,
        shares: number("shares", shares)?,
        model_name: string("model_name", model_name)?,
        raw: present(raw, |raw| Ok(Cow::Borrowed(raw)))?,
        posted_at: string("posted_at", posted_at)?,
    })
}

/// A list of texts, as `hashtags` has it.
///
/// # Errors
/// It is something else.
pub(super) fn list<'a>(column: &str, json: &'a str) -> Result<Vec<Option<Cow<'a, str>>>, Rejection> {
    let texts: Vec<Option<Text<'a>>> =
        serde_json::from_str(json).map_err(|_| Rejection(format!("{column} is not a list of texts")))?;
    Ok(texts.into_iter().map(|text| text.map(|Text(text)| text)).collect())
}

/// serde's messages repeat values in some cases; these do not.
fn reason(error: &serde_json::Error) -> Rejection {
    let text = error.to_string();
    let named = |prefix: &str| {
        let name = text.strip_prefix(prefix)?.split('`').next()?;
        Some(name.chars().take(64).collect::<String>())
    };
    Rejection(match error.classify() {
        Category::Data => match (named("unknown field `"), named("duplicate field `")) {
            (Some(name), _) => format!("unknown field {name:?}"),
            (_, Some(name)) => format!("field {name:?} stands there twice"),
            _ => "is not a JSON object".into(),
        },
        Category::Syntax | Category::Eof | Category::Io => format!("is not JSON from column {} on", error.column()),
    })
}

fn present<'a, T>(raw: Raw<'a>, value: impl FnOnce(&'a str) -> Result<T, Rejection>) -> Result<Given<T>, Rejection> {
    match raw.map(RawValue::get) {
        None => Ok(Given::Absent),
        Some("null") => Ok(Given::Null),
        Some(json) => value(json).map(Given::Value),
    }
}

fn string<'a>(column: &str, raw: Raw<'a>) -> Result<Given<Cow<'a, str>>, Rejection> {
    present(raw, |json| {
        if !json.starts_with('"') {
            return Err(Rejection(format!("{column} is not a text")));
        }
        let text: Text<'_> =
            serde_json::from_str(json).map_err(|_| Rejection(format!("{column} holds a broken Unicode escape")))?;
        Ok(text.0)
    })
}

/// Many sources number their posts: the digits are the text.
fn identifier<'a>(column: &str, raw: Raw<'a>) -> Result<Given<Cow<'a, str>>, Rejection> {
    match raw {
        Some(json) if json.get().bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Given::Value(Cow::Borrowed(json.get())))
        }
        _ => string(column, raw),
    }
}

fn number<'a>(column: &str, raw: Raw<'a>) -> Result<Given<Cow<'a, str>>, Rejection> {
    present(raw, |json| {
        let number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        if number { Ok(Cow::Borrowed(json)) } else { Err(Rejection(format!("{column} is not a number"))) }
    })
}

fn decimal<'a>(column: &str, raw: Raw<'a>) -> Result<Given<Cow<'a, str>>, Rejection> {
    match raw {
        Some(json) if json.get().starts_with('"') => string(column, raw),
        _ => number(column, raw),
    }
}

fn tags<'a>(column: &str, raw: Raw<'a>) -> Result<Given<Vec<Option<Cow<'a, str>>>>, Rejection> {
    present(raw, |json| list(column, json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Mapping {
        Mapping::new(&[], &[], false).expect("valid")
    }

    fn why(line: &str) -> String {
        match draft(line.as_bytes(), &plain()).and_then(Draft::check) {
            Ok(_) => "accepted".into(),
            Err(rejection) => rejection.0,
        }
    }

    fn with(fields: &str) -> String {
        format!(
            r#"{{"platform":"p","post_id":"1","content":"secret","sentiment_label":"mixed","posted_at":"2024-01-01T00:00:00Z"{fields}}}"#
        )
    }

    #[test]
    fn every_column_arrives() {
        let line = with(
            r#","author":"a\u00e9","lang":null,"hashtags":["x",null,"\"y"],"sentiment_score":-0.125,"confidence":"0.5","likes":3,"raw":{"n":1.10}"#,
        );
        let post = draft(line.as_bytes(), &plain()).and_then(Draft::check).expect("a post");
        assert_eq!((post.author.as_deref(), post.lang.as_deref()), (Some("aé"), None));
        assert_eq!(post.hashtags, [Some("x".into()), None, Some("\"y".into())]);
        assert_eq!(post.score.map(super::super::super::post::Thousandths::get), Some(-125));
        assert_eq!((post.likes, post.raw.as_deref()), (3, Some(r#"{"n":1.10}"#)));
    }

    #[test]
    fn reasons_name_the_column_and_never_the_value() {
        for (line, reason) in [
            (with(""), "accepted"),
            (with(r#","secret_field":1"#), "unknown field \"secret_field\""),
            (with(r#","likes":1,"likes":2"#), "field \"likes\" stands there twice"),
            (with(r#","likes":"secret""#), "likes is not a number"),
            (with(r#","likes":1.0"#), "likes is not a whole number from 0 to 2147483647"),
            (with(r#","author":5"#), "author is not a text"),
            (with(r#","author":"\ud800""#), "author holds a broken Unicode escape"),
            (with(r#","author":"\u0000""#), "author holds a NUL character, which PostgreSQL cannot store"),
            (with(r#","hashtags":[1]"#), "hashtags is not a list of texts"),
            (
                with(r#","sentiment_score":0.12345"#),
                "sentiment_score has more than three decimals; round it yourself if that is what you mean",
            ),
            (with(r#","likes":null"#), "likes must not be null; leave it out for 0"),
            ("[1]".into(), "is not a JSON object"),
            ("5".into(), "is not a JSON object"),
            ("{\"platform\":".into(), "is not JSON from column 12 on"),
            ("{} x".into(), "is not JSON from column 4 on"),
        ] {
            assert_eq!(why(&line), reason, "{line}");
        }
        assert_eq!(draft(b"{\"a\":\"\xff\"}", &plain()).expect_err("bytes").0, "is not UTF-8 from byte 7 on");
    }

    #[test]
    fn fields_of_other_names_are_mapped_and_the_rest_left_out_when_asked() {
        let line = br#"{"id":1234567890123456789,"text":"t","posted_at":"2024-05-01T12:00:00Z","sentiment_label":"mixed","x":{"y":[1]}}"#;
        let maps = ["post_id=id".to_owned(), "content=text".to_owned()];
        let strict = Mapping::new(&maps, &[], false).expect("valid");
        assert_eq!(draft(line, &strict).expect_err("x").0, "unknown field \"x\"");
        let loose = Mapping::new(&maps, &[], true).expect("valid");
        let draft = draft(line, &loose).expect("a draft");
        assert_eq!(draft.post_id, Given::Value("1234567890123456789".into()));
        assert_eq!((draft.content, draft.platform), (Given::Value("t".into()), Given::Absent));
    }
}
