//! The table of 20 columns that every peer works on.

/// In PostgreSQL.
pub(crate) const POSTGRES: &str = "id bigint primary key, platform text not null, author text, content text not null, \
    sentiment text not null, score numeric(4,3), lang text, tags text[], metadata jsonb, likes int not null, shares int not null, \
    replies int, url text, external_id text, is_verified boolean not null, followers bigint, topic text, \
    posted_at timestamptz not null, created_at timestamptz not null, updated_at timestamptz not null";

/// In ClickHouse, as the peers have it.
pub(crate) const CLICKHOUSE: &str = "id Int64, platform LowCardinality(String), author Nullable(String), content String, \
    sentiment LowCardinality(String), score Nullable(Decimal(4,3)), lang LowCardinality(Nullable(String)), tags Array(String), \
    metadata Nullable(String), likes Int32, shares Int32, replies Nullable(Int32), url Nullable(String), \
    external_id Nullable(String), is_verified Bool, followers Nullable(Int64), topic LowCardinality(Nullable(String)), \
    posted_at DateTime64(6,'UTC'), created_at DateTime64(6,'UTC'), updated_at DateTime64(6,'UTC')";

/// Their names, in order.
pub(crate) const NAMES: [&str; 20] = [
    "id",
    "platform",
    "author",
    "content",
    "sentiment",
    "score",
    "lang",
    "tags",
    "metadata",
    "likes",
    "shares",
    "replies",
    "url",
    "external_id",
    "is_verified",
    "followers",
    "topic",
    "posted_at",
    "created_at",
    "updated_at",
];

/// What two tables must agree on: a hash over the columns that both sides store in the same form.
pub(crate) const FINGERPRINT: &str = "count(), sum(cityHash64(id, platform, author, content, score, lang, metadata, likes, replies, \
    url, is_verified, followers, topic, posted_at, updated_at))";
