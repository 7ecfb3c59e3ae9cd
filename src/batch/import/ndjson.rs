//! One JSON object a line. Numbers are taken as their text, so that no digit passes through a float.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::batch::post::{Draft, Given, Rejection};

type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    platform: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    post_id: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    author: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    content: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    lang: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    topic: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    hashtags: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    sentiment_label: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    sentiment_score: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    confidence: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    likes: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    replies: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    shares: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    model_name: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    raw: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "given")]
    posted_at: Raw<'a>,
}

/// A field that is there, `null` included: `Option` alone would take `null` for a missing field.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A post's draft out of one line.
///
/// # Errors
/// The line is not UTF-8, not a JSON object, has an unknown or a repeated field, or a value of the wrong JSON type.
pub(super) fn draft(line: &[u8]) -> Result<Draft<'_>, Rejection> {
    let text = std::str::from_utf8(line)
        .map_err(|error| Rejection(format!("is not UTF-8 from byte {} on", error.valid_up_to() + 1)))?;
    // serde would take a list for the fields in their order.
    if text.trim_ascii_start().starts_with('[') {
        return Err(Rejection("is not a JSON object".into()));
    }
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| reason(&error))?;
    Ok(Draft {
        platform: string("platform", line.platform)?,
        post_id: string("post_id", line.post_id)?,
        author: string("author", line.author)?,
        content: string("content", line.content)?,
        lang: string("lang", line.lang)?,
        topic: string("topic", line.topic)?,
        hashtags: tags("hashtags", line.hashtags)?,
        sentiment_label: string("sentiment_label", line.sentiment_label)?,
        sentiment_score: decimal("sentiment_score", line.sentiment_score)?,
        confidence: decimal("confidence", line.confidence)?,
        likes: number("likes", line.likes)?,
        replies: number("replies", line.replies)?,
        shares: number("shares", line.shares)?,
        model_name: string("model_name", line.model_name)?,
        raw: present(line.raw, |raw| Ok(Cow::Borrowed(raw)))?,
        posted_at: string("posted_at", line.posted_at)?,
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

    fn why(line: &str) -> String {
        match draft(line.as_bytes()).and_then(Draft::check) {
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
        let post = draft(line.as_bytes()).and_then(Draft::check).expect("a post");
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
        assert_eq!(draft(b"{\"a\":\"\xff\"}").expect_err("bytes").0, "is not UTF-8 from byte 7 on");
    }
}
