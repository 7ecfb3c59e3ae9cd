//! The posts: the peers' table `social`, and the same texts and numbers as posts of the platform.

use platform::store::postgres;

use crate::columns;
use crate::figures::knob;
use crate::rows;
use crate::support::Stack;

/// How many there are.
pub(crate) fn count() -> u64 {
    knob("PLATFORM_BENCH_POSTS", 1_000_000)
}

/// As in `social`: a row has about 400 bytes of content. Its id is the same.
const POSTS: &str = "insert into sentiment_social (id, platform, post_id, author, content, lang, topic, hashtags, sentiment_label, \
        sentiment_score, likes, replies, shares, raw, posted_at) \
    select id, platform, external_id, author, content, lang, topic, coalesce(tags, '{}'), sentiment, score, likes, \
        coalesce(replies, 0), shares, metadata, posted_at from social";

/// Where the peers insert.
const POSTS_NEW: &str = "create table posts_new(id bigint generated always as identity primary key, platform text not null, \
    author text, content text not null, sentiment text not null, score numeric(4,3), lang text, tags text[], metadata jsonb, \
    likes int not null default 0, shares int not null default 0, posted_at timestamptz not null, \
    created_at timestamptz not null default now(), updated_at timestamptz not null default now())";

/// Fills PostgreSQL, and the mirror.
pub(crate) async fn fill(stack: &Stack) {
    rows::generate(stack, count()).await;
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    client.batch_execute("set statement_timeout = 0").await.expect("set");
    // The columns are those of the peers' table, so that answers are as large.
    assert_eq!(columns::NAMES.len(), 20);
    for sql in [
        POSTS,
        "select setval(pg_get_serial_sequence('sentiment_social', 'id'), max(id)) from sentiment_social",
        POSTS_NEW,
        "vacuum analyze sentiment_social",
        "checkpoint",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    println!("loading the mirror");
    let loaded = tokio::task::block_in_place(|| stack.platform(&["load", "sentiment_social"]));
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
}
