//! A post as clients see it.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, SchemaType};
use utoipa::openapi::{KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type};

/// What raters or a model think of a post. More labels may come.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "describes the texts of `LABELS` in the OpenAPI document")]
pub(super) enum Label {
    Positive,
    Neutral,
    Negative,
    Mixed,
}

/// The labels as texts, in the order of the database's check.
pub(super) const LABELS: [&str; 4] = ["positive", "neutral", "negative", "mixed"];

/// A post.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the answer in the OpenAPI document; `post_json` writes it")]
pub(super) struct Post {
    /// Given by the database.
    #[schema(example = 4711)]
    pub id: i64,
    /// Where it was posted.
    #[schema(example = "twitter")]
    pub platform: String,
    /// Its name there; unique with `platform`.
    #[schema(example = "1234567890")]
    pub post_id: String,
    /// Who wrote it.
    #[schema(required = true)]
    pub author: Option<String>,
    /// Its text.
    #[schema(example = "Yay. Another good phone interview.")]
    pub content: String,
    /// Language, as the source spells it.
    #[schema(required = true, example = "en")]
    pub lang: Option<String>,
    /// Topic.
    #[schema(required = true)]
    pub topic: Option<String>,
    /// Hashtags without the sign.
    pub hashtags: Vec<Option<String>>,
    /// One of positive, neutral, negative, mixed.
    #[schema(value_type = Label)]
    pub sentiment_label: String,
    /// −1..1 with three decimals, as a string.
    #[schema(value_type = Option<String>, required = true, example = "0.361")]
    pub sentiment_score: Option<Decimal>,
    /// 0..1 with three decimals, as a string.
    #[schema(value_type = Option<String>, required = true, example = "0.900")]
    pub confidence: Option<Decimal>,
    /// Likes.
    pub likes: i32,
    /// Replies.
    pub replies: i32,
    /// Shares.
    pub shares: i32,
    /// Who judged the sentiment.
    #[schema(required = true)]
    pub model_name: Option<String>,
    /// What the source delivered, any JSON.
    #[schema(value_type = Value)]
    pub raw: Option<Box<RawValue>>,
    /// When it was posted.
    pub posted_at: DateTime<Utc>,
    /// When it came into the database.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// Rises with every change; the ETag.
    pub row_version: i64,
}

/// A page of posts.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the answer in the OpenAPI document; `posts_list` writes it")]
pub(super) struct PostPage {
    /// The posts, in the order that was asked for; with `fields`, only these members of them.
    #[schema(value_type = Vec<PostFields>)]
    items: Vec<PostFields>,
    /// Cursor of the next page; null on the last one.
    #[schema(required = true)]
    next: Option<String>,
    /// Cursor of the page before; null on the first one.
    #[schema(required = true)]
    prev: Option<String>,
    /// Posts that match; only with `Prefer: count=`.
    total: Option<i64>,
}

/// A post, or those members of it that `fields` names.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the answer in the OpenAPI document; `post_json` writes it")]
pub(super) struct PostFields {
    id: Option<i64>,
    platform: Option<String>,
    post_id: Option<String>,
    author: Option<String>,
    content: Option<String>,
    lang: Option<String>,
    topic: Option<String>,
    hashtags: Option<Vec<Option<String>>>,
    sentiment_label: Option<Label>,
    sentiment_score: Option<String>,
    confidence: Option<String>,
    likes: Option<i32>,
    replies: Option<i32>,
    shares: Option<i32>,
    model_name: Option<String>,
    #[schema(value_type = Value, required = false)]
    raw: Option<Box<RawValue>>,
    posted_at: Option<DateTime<Utc>>,
    created_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    row_version: Option<i64>,
}

/// What a client may write; `PUT` and `POST` need platform, post_id, content, sentiment_label and posted_at. No text may contain
/// U+0000.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document; `post_input` reads it")]
pub(super) struct PostInput {
    /// Where it was posted.
    #[schema(example = "twitter", max_length = 64, min_length = 1, pattern = "^[^\\u0000]*$")]
    platform: String,
    /// Its name there; unique with `platform`.
    #[schema(example = "1234567890", max_length = 512, min_length = 1, pattern = "^[^\\u0000]*$")]
    post_id: String,
    /// Who wrote it.
    #[schema(max_length = 512, pattern = "^[^\\u0000]*$")]
    author: Option<String>,
    /// Its text.
    #[schema(example = "Yay. Another good phone interview.", pattern = "^[^\\u0000]*$")]
    content: String,
    /// Language, as the source spells it.
    #[schema(example = "en", max_length = 64, pattern = "^[^\\u0000]*$")]
    lang: Option<String>,
    /// Topic.
    #[schema(max_length = 512, pattern = "^[^\\u0000]*$")]
    topic: Option<String>,
    /// Hashtags without the sign, each of at most 512 characters.
    #[schema(schema_with = hashtags_input, required = false)]
    hashtags: Option<Vec<String>>,
    /// What raters or a model think of it.
    sentiment_label: Label,
    /// −1..1, at most three decimals; a string or a number.
    #[schema(schema_with = score_input, required = false)]
    sentiment_score: Option<Decimal>,
    /// 0..1, at most three decimals; a string or a number.
    #[schema(schema_with = confidence_input, required = false)]
    confidence: Option<Decimal>,
    /// Likes; 0 without.
    #[schema(minimum = 0, maximum = 2147483647)]
    likes: Option<i32>,
    /// Replies; 0 without.
    #[schema(minimum = 0, maximum = 2147483647)]
    replies: Option<i32>,
    /// Shares; 0 without.
    #[schema(minimum = 0, maximum = 2147483647)]
    shares: Option<i32>,
    /// Who judged the sentiment.
    #[schema(max_length = 256, pattern = "^[^\\u0000]*$")]
    model_name: Option<String>,
    /// What the source delivered: any JSON that PostgreSQL's jsonb can hold.
    #[schema(value_type = Value, required = false)]
    raw: Option<Box<RawValue>>,
    /// When it was posted: RFC 3339 with at most microseconds, from 1900 to 2299; a date is its midnight in UTC.
    #[schema(schema_with = moment_input)]
    posted_at: DateTime<Utc>,
}

/// A change of a post (RFC 7396): what is absent stays; null takes a value away.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document; `post_input` reads it")]
pub(super) struct PostPatch {
    #[schema(schema_with = platform_input, required = false)]
    platform: Option<String>,
    #[schema(schema_with = post_id_input, required = false)]
    post_id: Option<String>,
    #[schema(max_length = 512, pattern = "^[^\\u0000]*$")]
    author: Option<String>,
    #[schema(schema_with = content_input, required = false)]
    content: Option<String>,
    #[schema(max_length = 64, pattern = "^[^\\u0000]*$")]
    lang: Option<String>,
    #[schema(max_length = 512, pattern = "^[^\\u0000]*$")]
    topic: Option<String>,
    #[schema(schema_with = hashtags_input, required = false)]
    hashtags: Option<Vec<String>>,
    #[schema(schema_with = label_input, required = false)]
    sentiment_label: Option<Label>,
    #[schema(schema_with = score_input, required = false)]
    sentiment_score: Option<Decimal>,
    #[schema(schema_with = confidence_input, required = false)]
    confidence: Option<Decimal>,
    #[schema(minimum = 0, maximum = 2147483647, example = 12)]
    likes: Option<i32>,
    #[schema(minimum = 0, maximum = 2147483647)]
    replies: Option<i32>,
    #[schema(minimum = 0, maximum = 2147483647)]
    shares: Option<i32>,
    #[schema(max_length = 256, pattern = "^[^\\u0000]*$")]
    model_name: Option<String>,
    #[schema(value_type = Value, required = false)]
    raw: Option<Box<RawValue>>,
    #[schema(schema_with = moment_input, required = false)]
    posted_at: Option<DateTime<Utc>>,
}

/// What no text may contain.
const NO_NUL: &str = "^[^\\u0000]*$";

/// A text that must not be null.
fn text_input(length_min: Option<usize>, length_max: Option<usize>) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(NO_NUL));
    text.min_length(length_min).max_length(length_max).build()
}

fn platform_input() -> Object {
    text_input(Some(1), Some(64))
}

fn post_id_input() -> Object {
    text_input(Some(1), Some(512))
}

fn content_input() -> Object {
    text_input(None, None)
}

fn label_input() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(LABELS)).build()
}

fn moment_input() -> Object {
    let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(format))
        .examples([serde_json::json!("2014-01-31T09:30:00Z")])
        .build()
}

fn hashtags_input() -> Schema {
    let kinds = SchemaType::Array(vec![Type::Array, Type::Null]);
    let texts = ArrayBuilder::new().schema_type(kinds).max_items(Some(256)).items(text_input(None, Some(512)));
    Schema::Array(texts.build())
}

/// A decimal that a client writes: a string, a number, or null.
fn decimal_input(pattern: &str, min: i32) -> Schema {
    let text =
        ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).examples([serde_json::json!("0.361")]);
    let number =
        ObjectBuilder::new().schema_type(Type::Number).minimum(Some(min)).maximum(Some(1)).multiple_of(Some(0.001));
    let null = ObjectBuilder::new().schema_type(Type::Null);
    Schema::AnyOf(AnyOfBuilder::new().item(text.build()).item(number.build()).item(null.build()).build())
}

fn score_input() -> Schema {
    decimal_input(r"^-?(0(\.[0-9]{1,3})?|1(\.0{1,3})?)$", -1)
}

fn confidence_input() -> Schema {
    decimal_input(r"^(0(\.[0-9]{1,3})?|1(\.0{1,3})?)$", 0)
}
