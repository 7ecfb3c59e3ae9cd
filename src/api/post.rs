//! A post as clients see it.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{Object, ObjectBuilder, Type};

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

/// What a client may write; `PUT` and `POST` need platform, post_id, content, sentiment_label and posted_at.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document; `post_input` reads it")]
pub(super) struct PostInput {
    /// Where it was posted; at most 64 bytes.
    #[schema(example = "twitter", max_length = 64, min_length = 1)]
    platform: String,
    /// Its name there; unique with `platform`; at most 512 bytes.
    #[schema(example = "1234567890", max_length = 512, min_length = 1)]
    post_id: String,
    /// Who wrote it.
    #[schema(max_length = 512)]
    author: Option<String>,
    /// Its text.
    #[schema(example = "Yay. Another good phone interview.")]
    content: String,
    /// Language, as the source spells it.
    #[schema(example = "en", max_length = 64)]
    lang: Option<String>,
    /// Topic.
    #[schema(max_length = 512)]
    topic: Option<String>,
    /// Hashtags without the sign; at most 256.
    #[schema(max_items = 256)]
    hashtags: Option<Vec<String>>,
    /// What raters or a model think of it.
    sentiment_label: Label,
    /// −1..1, at most three decimals; a string or a number.
    #[schema(schema_with = decimal_input, required = false)]
    sentiment_score: Option<Decimal>,
    /// 0..1, at most three decimals; a string or a number.
    #[schema(schema_with = decimal_input, required = false)]
    confidence: Option<Decimal>,
    /// Likes; 0 without.
    #[schema(minimum = 0)]
    likes: Option<i32>,
    /// Replies; 0 without.
    #[schema(minimum = 0)]
    replies: Option<i32>,
    /// Shares; 0 without.
    #[schema(minimum = 0)]
    shares: Option<i32>,
    /// Who judged the sentiment.
    #[schema(max_length = 256)]
    model_name: Option<String>,
    /// What the source delivered, any JSON.
    #[schema(value_type = Value, required = false)]
    raw: Option<Box<RawValue>>,
    /// When it was posted: RFC 3339, at most microseconds.
    posted_at: DateTime<Utc>,
}

/// A change of a post (RFC 7396): what is absent stays; null takes a value away.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document; `post_input` reads it")]
pub(super) struct PostPatch {
    platform: Option<String>,
    post_id: Option<String>,
    author: Option<String>,
    content: Option<String>,
    lang: Option<String>,
    topic: Option<String>,
    hashtags: Option<Vec<String>>,
    sentiment_label: Option<Label>,
    #[schema(schema_with = decimal_input, required = false)]
    sentiment_score: Option<Decimal>,
    #[schema(schema_with = decimal_input, required = false)]
    confidence: Option<Decimal>,
    #[schema(minimum = 0, example = 12)]
    likes: Option<i32>,
    #[schema(minimum = 0)]
    replies: Option<i32>,
    #[schema(minimum = 0)]
    shares: Option<i32>,
    model_name: Option<String>,
    #[schema(value_type = Value, required = false)]
    raw: Option<Box<RawValue>>,
    posted_at: Option<DateTime<Utc>>,
}

/// A decimal that a client writes: a string or a number.
fn decimal_input() -> Object {
    let kinds = SchemaType::Array(vec![Type::String, Type::Number, Type::Null]);
    ObjectBuilder::new().schema_type(kinds).examples([serde_json::json!("0.361")]).build()
}
