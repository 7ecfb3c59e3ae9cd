//! Texts to values: every rule of the table, each with the reason that a person reads. Reasons never repeat the value.

use std::borrow::Cow;

use chrono::{DateTime, Timelike as _};

use super::{Label, Post, PostedAt, Thousandths};

/// Why a record is not a post. Names the column and the rule, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(pub String);

/// What a record says about a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Given<T> {
    /// Nothing: the column's default applies.
    #[default]
    Absent,
    /// That there is no value: only columns that may be NULL take it.
    Null,
    /// A value.
    Value(T),
}

/// A record as its format gave it: texts by column, not yet judged.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the columns of public.sentiment_social")]
pub struct Draft<'a> {
    pub platform: Given<Cow<'a, str>>,
    pub post_id: Given<Cow<'a, str>>,
    pub author: Given<Cow<'a, str>>,
    pub content: Given<Cow<'a, str>>,
    pub lang: Given<Cow<'a, str>>,
    pub topic: Given<Cow<'a, str>>,
    pub hashtags: Given<Vec<Option<Cow<'a, str>>>>,
    pub sentiment_label: Given<Cow<'a, str>>,
    pub sentiment_score: Given<Cow<'a, str>>,
    pub confidence: Given<Cow<'a, str>>,
    pub likes: Given<Cow<'a, str>>,
    pub replies: Given<Cow<'a, str>>,
    pub shares: Given<Cow<'a, str>>,
    pub model_name: Given<Cow<'a, str>>,
    pub raw: Given<Cow<'a, str>>,
    pub posted_at: Given<Cow<'a, str>>,
}

impl<'a> Draft<'a> {
    /// Judges every column.
    ///
    /// # Errors
    /// The first rule that is broken, in the order of the columns.
    pub fn check(self) -> Result<Post<'a>, Rejection> {
        Ok(Post {
            platform: filled("platform", self.platform)?,
            post_id: filled("post_id", self.post_id)?,
            author: optional("author", self.author)?,
            content: required("content", self.content)?,
            lang: optional("lang", self.lang)?,
            topic: optional("topic", self.topic)?,
            hashtags: hashtags(self.hashtags)?,
            label: label(&required("sentiment_label", self.sentiment_label)?)?,
            score: decimal("sentiment_score", self.sentiment_score, -1000)?,
            confidence: decimal("confidence", self.confidence, 0)?,
            likes: count("likes", self.likes)?,
            replies: count("replies", self.replies)?,
            shares: count("shares", self.shares)?,
            model_name: optional("model_name", self.model_name)?,
            raw: json("raw", self.raw)?,
            posted_at: time("posted_at", &required("posted_at", self.posted_at)?)?,
        })
    }
}

fn reject<T>(column: &str, rule: &str) -> Result<T, Rejection> {
    Err(Rejection(format!("{column} {rule}")))
}

fn plain<'a>(column: &str, text: Cow<'a, str>) -> Result<Cow<'a, str>, Rejection> {
    if text.contains('\0') { reject(column, "holds a NUL character, which PostgreSQL cannot store") } else { Ok(text) }
}

fn required<'a>(column: &str, given: Given<Cow<'a, str>>) -> Result<Cow<'a, str>, Rejection> {
    match given {
        Given::Value(text) => plain(column, text),
        Given::Null => reject(column, "must not be null"),
        Given::Absent => reject(column, "is missing"),
    }
}

fn filled<'a>(column: &str, given: Given<Cow<'a, str>>) -> Result<Cow<'a, str>, Rejection> {
    let text = required(column, given)?;
    if text.is_empty() { reject(column, "must not be empty") } else { Ok(text) }
}

fn optional<'a>(column: &str, given: Given<Cow<'a, str>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    match given {
        Given::Value(text) => plain(column, text).map(Some),
        Given::Null | Given::Absent => Ok(None),
    }
}

fn hashtags<'a>(given: Given<Vec<Option<Cow<'a, str>>>>) -> Result<Vec<Option<Cow<'a, str>>>, Rejection> {
    match given {
        Given::Absent => Ok(Vec::new()),
        Given::Null => reject("hashtags", "must not be null; leave it out for none"),
        Given::Value(tags) => {
            tags.into_iter().map(|tag| tag.map(|tag| plain("hashtags", tag)).transpose()).collect::<Result<_, _>>()
        }
    }
}

fn label(text: &str) -> Result<Label, Rejection> {
    match text {
        "positive" => Ok(Label::Positive),
        "neutral" => Ok(Label::Neutral),
        "negative" => Ok(Label::Negative),
        "mixed" => Ok(Label::Mixed),
        _ => reject("sentiment_label", "is none of positive, neutral, negative, mixed"),
    }
}

fn count(column: &str, given: Given<Cow<'_, str>>) -> Result<i32, Rejection> {
    let text = match given {
        Given::Absent => return Ok(0),
        Given::Null => return reject(column, "must not be null; leave it out for 0"),
        Given::Value(text) => text,
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        _ => reject(column, "is not a whole number from 0 to 2147483647"),
    }
}

/// A decimal text, exactly: digits after the third must be zeros, so that nothing is rounded.
fn decimal(column: &str, given: Given<Cow<'_, str>>, least: i16) -> Result<Option<Thousandths>, Rejection> {
    let Given::Value(text) = given else { return Ok(None) };
    let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_ref()), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return reject(column, "is not a plain decimal number such as -0.125");
    }
    let (kept, beyond) = fraction.split_at_checked(3).unwrap_or((fraction, ""));
    if beyond.bytes().any(|byte| byte != b'0') {
        return reject(column, "has more than three decimals; round it yourself if that is what you mean");
    }
    let range = || format!("is outside {}..1", least / 1000);
    // One digit is enough for the range; longer texts may only have leading zeros.
    let units: i16 = match whole.trim_start_matches('0') {
        "" => 0,
        "1" => 1000,
        _ => return reject(column, &range()),
    };
    let fraction: i16 = format!("{kept:0<3}").parse().unwrap_or_default();
    let value = if negative { -(units + fraction) } else { units + fraction };
    match Thousandths::new(value) {
        Some(value) if value.get() >= least => Ok(Some(value)),
        _ => reject(column, &range()),
    }
}

fn json<'a>(column: &str, given: Given<Cow<'a, str>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Given::Value(text) = given else { return Ok(None) };
    if serde_json::from_str::<&serde_json::value::RawValue>(&text).is_err() {
        return reject(column, "is not JSON");
    }
    // jsonb holds decoded text, so PostgreSQL refuses escapes that are no text.
    if text.contains("\\u") {
        match escaped_units(&text).collect::<Result<Vec<char>, _>>() {
            Ok(characters) if characters.contains(&'\0') => {
                return reject(column, "holds a NUL character, which PostgreSQL cannot store");
            }
            Ok(_) => {}
            Err(_) => return reject(column, "holds a broken Unicode escape"),
        }
    }
    Ok(Some(text))
}

/// The characters that `\uXXXX` escapes stand for, with blanks for what stands between them; an error for each
/// surrogate without its other half.
fn escaped_units(json: &str) -> impl Iterator<Item = Result<char, std::char::DecodeUtf16Error>> {
    const BLANK: u16 = 0x20;
    let mut rest = json;
    let units = std::iter::from_fn(move || {
        let (before, after) = rest.split_once('\\')?;
        let hex = after.strip_prefix('u').and_then(|hex| hex.split_at_checked(4));
        let unit = hex.and_then(|(digits, _)| u16::from_str_radix(digits, 16).ok());
        // Of another escape only the next character belongs to it, a second backslash above all.
        let mut characters = after.chars();
        characters.next();
        rest = hex.map_or(characters.as_str(), |(_, behind)| behind);
        let between = (!before.is_empty()).then_some(BLANK);
        Some([between, Some(unit.unwrap_or(BLANK))])
    });
    char::decode_utf16(units.flatten().flatten())
}

fn time(column: &str, text: &str) -> Result<PostedAt, Rejection> {
    // PostgreSQL prints `2014-01-01 00:00:00+00`: an offset without minutes.
    let hours_only = text.len() > 19
        && text.get(text.len() - 3..).is_some_and(|tail| tail.starts_with(['+', '-']))
        && !text.ends_with(':');
    let completed = if hours_only { Cow::Owned(format!("{text}:00")) } else { Cow::Borrowed(text) };
    let Ok(time) = DateTime::parse_from_rfc3339(&completed) else {
        return reject(column, "is not a time with an offset such as 2024-05-01T12:00:00Z");
    };
    if time.nanosecond() % 1000 != 0 {
        return reject(column, "is finer than a microsecond");
    }
    if time.nanosecond() >= 1_000_000_000 {
        return reject(column, "is a leap second, which PostgreSQL cannot store");
    }
    match PostedAt::from_micros(time.timestamp_micros()) {
        Some(time) => Ok(time),
        None => reject(column, "is outside 1900-01-01..2299-12-31, which the mirror can hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draft() -> Draft<'static> {
        let text = |text| Given::Value(Cow::Borrowed(text));
        Draft {
            platform: text("twitter"),
            post_id: text("1"),
            content: text("c"),
            sentiment_label: text("mixed"),
            posted_at: text("2024-05-01T12:00:00Z"),
            ..Draft::default()
        }
    }

    fn score(text: &str) -> Result<Option<i16>, String> {
        let value = decimal("s", Given::Value(text.into()), -1000);
        value.map(|value| value.map(Thousandths::get)).map_err(|rejection| rejection.0)
    }

    proptest! {
        #[test]
        fn decimals_arrive_exactly(value in -1000i16..=1000) {
            let text = rust_decimal::Decimal::new(value.into(), 3).to_string();
            prop_assert_eq!(score(&text), Ok(Some(value)));
        }
    }

    #[test]
    fn decimals_are_never_rounded_or_guessed() {
        for (text, value) in [("1", 1000), ("-1.000", -1000), ("0.5", 500), ("-0", 0), ("00.1230", 123), ("01", 1000)] {
            assert_eq!(score(text), Ok(Some(value)), "{text}");
        }
        for text in ["1.001", "-1.1", "2", "0.1234", "1e-1", ".5", "5.", "+0.5", "", "NaN", "0,5", " 0.5", "١"] {
            assert!(score(text).is_err(), "{text}");
        }
        assert!(decimal("c", Given::Value("-0.001".into()), 0).is_err(), "confidence is not negative");
    }

    #[test]
    fn a_post_needs_only_what_the_table_needs() {
        let post = draft().check().expect("a post");
        assert_eq!((post.likes, post.hashtags.len(), post.author), (0, 0, None));
        assert_eq!(post.posted_at.micros(), 1_714_564_800_000_000);
    }

    #[test]
    fn broken_rules_are_named_without_the_value() {
        let cases: [(Draft<'_>, &str); 8] = [
            (Draft { platform: Given::Absent, ..draft() }, "platform is missing"),
            (Draft { post_id: Given::Value("".into()), ..draft() }, "post_id must not be empty"),
            (Draft { content: Given::Null, ..draft() }, "content must not be null"),
            (Draft { author: Given::Value("a\0b".into()), ..draft() }, "author holds a NUL character"),
            (Draft { sentiment_label: Given::Value("good".into()), ..draft() }, "sentiment_label is none of"),
            (Draft { likes: Given::Value("-1".into()), ..draft() }, "likes is not a whole number"),
            (Draft { likes: Given::Value("2147483648".into()), ..draft() }, "likes is not a whole number"),
            (Draft { raw: Given::Value(r#"{"a":"\u0000"}"#.into()), ..draft() }, "raw holds a NUL character"),
        ];
        for (draft, reason) in cases {
            let rejection = draft.check().expect_err(reason);
            assert!(rejection.0.starts_with(reason), "{rejection}");
        }
        let json = |text: &'static str| Draft { raw: Given::Value(text.into()), ..draft() }.check();
        for text in [r#""\\u0000""#, r#""\n\ud83d\ude00\u00e9""#, r#""\\\\ud800""#, r#"{"\u0041":"u0000"}"#] {
            assert!(json(text).is_ok(), "{text}");
        }
        for text in [r#""\ud800""#, r#""\ude00""#, r#""\ud83d \ude00""#, r#""\ud83d\n\ude00""#, r#""\\\u0000""#] {
            assert!(json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_one_meaning() {
        let micros = |text| time("t", text).map(PostedAt::micros).map_err(|rejection| rejection.0);
        assert_eq!(micros("2024-05-01T14:00:00.000001+02:00"), Ok(1_714_564_800_000_001));
        assert_eq!(micros("2024-05-01 12:00:00+00"), Ok(1_714_564_800_000_000));
        for text in [
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00:00.0000001Z",
            "2016-12-31T23:59:60Z",
            "1899-12-31T23:59:59Z",
            "2299-12-31T00:00:00Z",
            "yesterday",
            "",
        ] {
            assert!(micros(text).is_err(), "{text}");
        }
    }
}
