//! What clients may write into a post: one table of members, read strictly, all mistakes at once.
//!
//! PostgreSQL's own checks stay the last word; this table exists so that a client learns the member's name and what is
//! accepted, and so that nothing is stored in another form than it was sent in.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_postgres::types::{ToSql, Type};

use super::body::{Members, whole_number};
use super::post::LABELS;
use super::problem::{ApiError, ApiResult, Code, FieldError};
use crate::catalog::endpoint_parameter::{Refused, parse_moment};

/// What a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text of at most so many characters.
    Text(usize),
    /// One of the labels.
    Label,
    /// Decimal between these, at most three decimals.
    Decimal(i32, i32),
    /// Whole number from 0 to 2147483647.
    Count,
    /// List of texts.
    Texts,
    /// Any JSON.
    Json,
    /// A moment.
    Moment,
}

/// What happens to a member that is absent or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Refuse,
    Null,
    Default,
}

/// A column that clients may write.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name in the body and in the table.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    absent: Absent,
}

const fn column(name: &'static str, kind: Kind, absent: Absent) -> Column {
    Column { name, kind, absent }
}

/// All of them. The limits keep the unique index on (platform, post_id) below PostgreSQL's 2704 bytes an entry, four bytes a
/// character.
pub(super) const COLUMNS: &[Column] = &[
    column("platform", Kind::Text(64), Absent::Refuse),
    column("post_id", Kind::Text(512), Absent::Refuse),
    column("author", Kind::Text(512), Absent::Null),
    column("content", Kind::Text(usize::MAX), Absent::Refuse),
    column("lang", Kind::Text(64), Absent::Null),
    column("topic", Kind::Text(512), Absent::Null),
    column("hashtags", Kind::Texts, Absent::Default),
    column("sentiment_label", Kind::Label, Absent::Refuse),
    column("sentiment_score", Kind::Decimal(-1, 1), Absent::Null),
    column("confidence", Kind::Decimal(0, 1), Absent::Null),
    column("likes", Kind::Count, Absent::Default),
    column("replies", Kind::Count, Absent::Default),
    column("shares", Kind::Count, Absent::Default),
    column("model_name", Kind::Text(256), Absent::Null),
    column("raw", Kind::Json, Absent::Null),
    column("posted_at", Kind::Moment, Absent::Refuse),
];

const READ_ONLY: [&str; 4] = ["id", "created_at", "updated_at", "row_version"];
const HASHTAGS_MAX: usize = 256;
const HASHTAG_CHARS_MAX: usize = 512;

/// A value on its way into a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// The column's default.
    Default,
    /// `text`, or `jsonb` in text form.
    Text(Option<String>),
    /// `numeric`
    Decimal(Option<Decimal>),
    /// `int4`
    Int(i32),
    /// `text[]`
    Texts(Vec<String>),
    /// `timestamptz`
    Moment(DateTime<Utc>),
}

/// The columns to write, in the table's order.
#[derive(Debug)]
pub(super) struct Changes(pub Vec<(&'static Column, Value)>);

impl Column {
    /// How a statement names the value that is its `number`th parameter.
    pub(super) fn placeholder(&self, number: usize) -> String {
        if self.kind == Kind::Json { format!("${number}::jsonb") } else { format!("${number}") }
    }

    fn read(&self, raw: &RawValue) -> Result<Value, Refused> {
        let text = raw.get();
        if text == "null" {
            return self.without();
        }
        match self.kind {
            Kind::Text(chars_max) => read_text(text, chars_max).and_then(|text| self.not_empty(text)),
            Kind::Label => match json::<String>(text).filter(|word| LABELS.contains(&word.as_str())) {
                Some(word) => Ok(Value::Text(Some(word))),
                None => Err(Refused(format!("must be one of {}", LABELS.join(", ")))),
            },
            Kind::Decimal(min, max) => read_decimal(text, min, max),
            Kind::Count => match whole_number(text).filter(|number| *number >= 0) {
                Some(number) => Ok(Value::Int(number)),
                None => Err(Refused("must be a whole number from 0 to 2147483647".to_owned())),
            },
            Kind::Texts => read_texts(text),
            Kind::Json => Ok(Value::Text(Some(text.to_owned()))),
            Kind::Moment => {
                let text = json::<String>(text).ok_or_else(|| Refused("must be a string with a time".to_owned()))?;
                parse_moment(&text).map(Value::Moment)
            }
        }
    }

    /// The value when the member is absent from a whole post, or null.
    fn without(&self) -> Result<Value, Refused> {
        match (self.absent, self.kind) {
            (Absent::Refuse, _) => Err(Refused("must be given and must not be null".to_owned())),
            (Absent::Default, _) => Ok(Value::Default),
            (Absent::Null, Kind::Decimal(..)) => Ok(Value::Decimal(None)),
            (Absent::Null, _) => Ok(Value::Text(None)),
        }
    }

    fn not_empty(&self, text: String) -> Result<Value, Refused> {
        if text.is_empty() && matches!(self.name, "platform" | "post_id") {
            return Err(Refused("must not be empty".to_owned()));
        }
        Ok(Value::Text(Some(text)))
    }
}

impl Value {
    /// The value and the type it is sent as.
    pub(super) fn bound(&self) -> Option<(&(dyn ToSql + Sync), Type)> {
        Some(match self {
            Self::Default => return None,
            Self::Text(text) => (text, Type::TEXT),
            Self::Decimal(number) => (number, Type::NUMERIC),
            Self::Int(number) => (number, Type::INT4),
            Self::Texts(texts) => (texts, Type::TEXT_ARRAY),
            Self::Moment(moment) => (moment, Type::TIMESTAMPTZ),
        })
    }
}

impl Changes {
    /// A whole post: every column, absent members as null or default.
    ///
    /// # Errors
    /// 422 that names every member that is wrong, unknown, read-only or missing.
    pub(super) fn whole(members: Members) -> ApiResult<Self> {
        Self::read(members, true)
    }

    /// A merge patch: only the members that are there.
    ///
    /// # Errors
    /// As `whole`, but nothing is missing.
    pub(super) fn patch(members: Members) -> ApiResult<Self> {
        Self::read(members, false)
    }

    fn read(members: Members, whole: bool) -> ApiResult<Self> {
        let mut errors = Vec::new();
        let mut given = members.0;
        let mut changes = Vec::new();
        for column in COLUMNS {
            let member = given.iter().position(|(name, _)| name == column.name).map(|at| given.swap_remove(at));
            let value = match &member {
                Some((_, raw)) => column.read(raw),
                None if whole => column.without(),
                None => continue,
            };
            match value {
                Ok(value) => changes.push((column, value)),
                Err(refused) => {
                    let code = if member.is_some() { "invalid" } else { "required" };
                    errors.push(FieldError::member(column.name, code, refused.0));
                }
            }
        }
        given.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, _) in &given {
            let shown: String = name.chars().take(64).collect();
            errors.push(if READ_ONLY.contains(&name.as_ref()) {
                FieldError::member(&shown, "read_only", "is given by the database")
            } else {
                FieldError::member(&shown, "unknown", "is not a member of a post")
            });
        }
        if errors.is_empty() { Ok(Self(changes)) } else { Err(ApiError::fields(Code::InvalidBody, errors)) }
    }

    /// What makes the post unique: its platform and its name there; empty texts when they are not among the changes.
    pub(super) fn identity(&self) -> (&str, &str) {
        let text = |name: &str| {
            self.0.iter().find(|(column, _)| column.name == name).map_or("", |(_, value)| match value {
                Value::Text(Some(text)) => text,
                _ => "",
            })
        };
        (text("platform"), text("post_id"))
    }

    /// The new text of `raw`, if it is among the changes.
    pub(super) fn raw_mut(&mut self) -> Option<&mut String> {
        self.0.iter_mut().find_map(|(column, value)| match (column.kind, value) {
            (Kind::Json, Value::Text(Some(text))) => Some(text),
            _ => None,
        })
    }
}

fn json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn read_text(text: &str, chars_max: usize) -> Result<String, Refused> {
    let text: String = json(text).ok_or_else(|| Refused("must be a string".to_owned()))?;
    if text.contains('\0') {
        return Err(Refused("must not contain the character U+0000".to_owned()));
    }
    if longer(&text, chars_max) {
        return Err(Refused(format!("must have at most {chars_max} characters")));
    }
    Ok(text)
}

/// Whether a text has more characters; one that is short in bytes need not be counted.
fn longer(text: &str, chars_max: usize) -> bool {
    text.len() > chars_max && text.chars().count() > chars_max
}

fn read_texts(text: &str) -> Result<Value, Refused> {
    let bad = || {
        Refused(format!(
            "must be a list of at most {HASHTAGS_MAX} strings of at most {HASHTAG_CHARS_MAX} characters, without U+0000"
        ))
    };
    let texts: Vec<String> = json(text).ok_or_else(bad)?;
    let fits = texts.len() <= HASHTAGS_MAX
        && texts.iter().all(|text| !longer(text, HASHTAG_CHARS_MAX) && !text.contains('\0'));
    if fits { Ok(Value::Texts(texts)) } else { Err(bad()) }
}

/// A string or a number. More than three decimals are refused rather than rounded.
fn read_decimal(text: &str, min: i32, max: i32) -> Result<Value, Refused> {
    let written = json::<String>(text).unwrap_or_else(|| text.to_owned());
    let number = match written.contains(['e', 'E']) {
        true => Decimal::from_scientific(&written).ok(),
        false => Decimal::from_str(&written).ok().filter(|_| !written.contains('_')),
    };
    number
        .map(|number| number.normalize())
        .filter(|number| number.scale() <= 3 && (Decimal::from(min)..=Decimal::from(max)).contains(number))
        .map(|number| Value::Decimal(Some(number)))
        .ok_or_else(|| {
            Refused(format!("must be a number from {min} to {max} with at most three decimals, or a string with one"))
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::post::{PostInput, PostPatch};
    use super::*;

    const WHOLE: &str = r#"{"platform":"twitter","post_id":"1","content":"Hi","sentiment_label":"positive","posted_at":"2014-01-01T00:00:00Z"}"#;

    fn whole(body: &str) -> Result<Changes, Vec<FieldError>> {
        match Changes::whole(Members::parse(body.as_bytes()).expect("an object")) {
            Ok(changes) => Ok(changes),
            Err(error) => {
                let response = error.respond("", "");
                let bytes = actix_web::body::MessageBody::try_into_bytes(response.into_body()).expect("bytes");
                let problem: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
                let errors = problem["errors"].as_array().expect("errors").iter();
                Err(errors
                    .map(|error| {
                        FieldError::member(
                            error["pointer"].as_str().expect("pointer").trim_start_matches('/'),
                            "",
                            error["code"].as_str().expect("code"),
                        )
                    })
                    .collect())
            }
        }
    }

    #[test]
    fn a_small_post_gets_nulls_and_defaults() {
        let changes = whole(WHOLE).expect("valid").0;
        assert_eq!(changes.len(), COLUMNS.len());
        let of = |name: &str| changes.iter().find(|(column, _)| column.name == name).map(|(_, value)| value.clone());
        assert_eq!(of("likes"), Some(Value::Default));
        assert_eq!(of("sentiment_score"), Some(Value::Decimal(None)));
        assert_eq!(of("raw"), Some(Value::Text(None)));
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let errors = whole(r#"{"id":1,"platform":"","post_id":7,"content":null,"lang":"a\u0000","sentiment_label":"good","likes":-1,"colour":"red","hashtags":["a",null]}"#)
            .expect_err("wrong");
        let named: Vec<_> =
            errors.iter().map(|error| format!("{} {}", error.pointer.as_deref().unwrap_or(""), error.detail)).collect();
        assert_eq!(
            named,
            [
                "/platform invalid",
                "/post_id invalid",
                "/content invalid",
                "/lang invalid",
                "/hashtags invalid",
                "/sentiment_label invalid",
                "/likes invalid",
                "/posted_at required",
                "/colour unknown",
                "/id read_only",
            ]
        );
    }

    /// The OpenAPI document describes the bodies that this table reads.
    #[test]
    fn the_described_bodies_are_the_ones_that_are_read() {
        use utoipa::PartialSchema as _;
        let read: BTreeSet<&str> = COLUMNS.iter().map(|column| column.name).collect();
        let needed: BTreeSet<&str> =
            COLUMNS.iter().filter(|column| column.absent == Absent::Refuse).map(|column| column.name).collect();
        for (schema, required) in [(PostInput::schema(), needed), (PostPatch::schema(), BTreeSet::new())] {
            let schema = serde_json::to_value(schema).expect("JSON");
            let described: BTreeSet<&str> =
                schema["properties"].as_object().expect("members").keys().map(String::as_str).collect();
            assert_eq!(described, read);
            let listed = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
            assert_eq!(listed.iter().map(|name| name.as_str().expect("a name")).collect::<BTreeSet<_>>(), required);
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, expected) in
            [("0.682", "0.682"), ("\"-1\"", "-1"), ("1.000", "1"), ("\"0.5000\"", "0.5"), ("1e-3", "0.001"), ("0", "0")]
        {
            let Ok(Value::Decimal(Some(number))) = read_decimal(text, -1, 1) else { panic!("{text}") };
            assert_eq!(number.to_string(), expected, "{text}");
        }
        for text in ["0.6825", "1.001", "-2", "\"NaN\"", "\"\"", "\"1_0\"", "true", "[1]", "\" 1\"", "1e-30", "1e300"] {
            assert!(read_decimal(text, -1, 1).is_err(), "{text}");
        }
    }
}
