//! The statements behind `/v1/sentiment-social`. Values are bound; column names come from our own tables only.
//!
//! Statements of one form are prepared once a connection. Those whose form depends on the request are sent with their types
//! in one round trip and never kept: a client cannot fill a connection's cache.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;

use deadpool_postgres::GenericClient as Cached;
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{GenericClient, Row, Statement};

use super::post_input::{Changes, Value};
use crate::domain::Lsn;

/// The columns of `Post`, in the order of `post_json::Fields::default`.
pub(super) const COLUMNS: &str = "id, platform, post_id, author, content, lang, topic, hashtags, sentiment_label, sentiment_score, \
    confidence, likes, replies, shares, model_name, raw, posted_at, created_at, updated_at, row_version";

/// Enough for an answer without a body.
pub(super) const IDENTITY: &str = "id, row_version";

/// Name of the constraint that makes (platform, post_id) unique.
pub(super) const UNIQUE: &str = "sentiment_social_platform_post_id_key";

type DriverResult<T> = Result<T, tokio_postgres::Error>;

/// One post.
pub(super) async fn find(client: &impl Cached, id: i64) -> DriverResult<Option<Row>> {
    let statement =
        client.prepare_cached(&format!("select {COLUMNS} from public.sentiment_social where id = $1")).await?;
    client.query_opt(&statement, &[&id]).await
}

/// An insertion as PostgreSQL prepares it.
struct Insert {
    /// Of `COLUMNS`, those that are left to their default: a bit each.
    defaults: u32,
    returned: &'static str,
    sql: String,
    types: Vec<Type>,
}

thread_local! {
    /// The insertions that this worker has made, because writing the text costs more than finding the statement.
    static INSERTS: RefCell<Vec<Rc<Insert>>> = const { RefCell::new(Vec::new()) };
}

/// Prepares the insertion of a whole post. Posts differ only in which of the four columns with a default they lack: a
/// connection keeps sixteen statements at most for each list of `returned` columns.
pub(super) async fn prepare_insert(
    client: &impl Cached,
    post: &Changes,
    returned: &'static str,
) -> DriverResult<Statement> {
    let insert = INSERTS.with_borrow_mut(|inserts| {
        let defaults = defaults(post);
        let known = inserts.iter().find(|known| known.defaults == defaults && known.returned == returned);
        known.cloned().unwrap_or_else(|| {
            let new = Rc::new(Insert::new(post, returned));
            inserts.push(Rc::clone(&new));
            new
        })
    });
    client.prepare_typed_cached(&insert.sql, &insert.types).await
}

fn defaults(post: &Changes) -> u32 {
    post.0.iter().fold(0, |bits, (_, value)| (bits << 1) | u32::from(*value == Value::Default))
}

impl Insert {
    fn new(post: &Changes, returned: &'static str) -> Self {
        let mut bound = Bound::default();
        let (mut names, mut values) = (String::new(), String::new());
        for (column, value) in &post.0 {
            let separator = if names.is_empty() { "" } else { ", " };
            let written = bound.add(value.bound(), |number| column.placeholder(number));
            // Writing to a String cannot fail.
            let _ = write!(names, "{separator}{}", column.name);
            let _ = write!(values, "{separator}{written}");
        }
        let sql = format!("insert into public.sentiment_social ({names}) values ({values}) returning {returned}");
        let types = bound.0.into_iter().map(|(_, kind)| kind).collect();
        Self { defaults: defaults(post), returned, sql, types }
    }
}

/// Inserts a whole post and returns what was prepared. The statement is sent when this is first polled.
pub(super) async fn insert(client: &impl GenericClient, statement: &Statement, post: &Changes) -> DriverResult<Row> {
    let bound = post.0.iter().filter_map(|(_, value)| value.bound().map(|(value, _)| value));
    client.query_one(statement, &bound.collect::<Vec<_>>()).await
}

/// Writes `changes` into a post and returns it. Without changes nothing is written.
pub(super) async fn update(client: &impl GenericClient, id: i64, changes: &Changes) -> DriverResult<Option<Row>> {
    if changes.0.is_empty() {
        let sql = format!("select {COLUMNS} from public.sentiment_social where id = $1");
        return client.query_typed_opt(&sql, &[(&id, Type::INT8)]).await;
    }
    let mut bound = Bound(vec![(&id, Type::INT8)]);
    let mut assignments = String::new();
    for (column, value) in &changes.0 {
        let separator = if assignments.is_empty() { "" } else { ", " };
        let written = bound.add(value.bound(), |number| column.placeholder(number));
        let _ = write!(assignments, "{separator}{} = {written}", column.name);
    }
    let sql = format!("update public.sentiment_social set {assignments} where id = $1 returning {COLUMNS}");
    client.query_typed_opt(&sql, &bound.0).await
}

/// Locks a post and returns its `row_version` and `raw`.
pub(super) async fn lock(client: &impl Cached, id: i64) -> DriverResult<Option<Row>> {
    let sql = "select row_version, raw::text as raw from public.sentiment_social where id = $1 for update";
    let statement = client.prepare_cached(sql).await?;
    client.query_opt(&statement, &[&id]).await
}

/// Deletes a post.
pub(super) async fn delete(client: &impl Cached, id: i64) -> DriverResult<()> {
    let statement = client.prepare_cached("delete from public.sentiment_social where id = $1").await?;
    client.execute(&statement, &[&id]).await.map(drop)
}

/// The position after everything that was committed on this connection: the token's. Ask after the commit.
pub(super) async fn position(client: &impl Cached) -> DriverResult<Option<Lsn>> {
    let statement = client.prepare_cached("select pg_current_wal_insert_lsn()").await?;
    let position: Option<PgLsn> = client.query_one(&statement, &[]).await?.try_get(0)?;
    Ok(position.map(|position| Lsn::new(position.into())))
}

/// Values in the order of their placeholders.
#[derive(Default)]
pub(super) struct Bound<'a>(pub Vec<(&'a (dyn ToSql + Sync), Type)>);

impl<'a> Bound<'a> {
    /// Binds `value` and returns its placeholder, or `default`.
    pub(super) fn add(
        &mut self,
        value: Option<(&'a (dyn ToSql + Sync), Type)>,
        placeholder: impl Fn(usize) -> String,
    ) -> String {
        match value {
            Some(value) => {
                self.0.push(value);
                placeholder(self.0.len())
            }
            None => "default".to_owned(),
        }
    }
}
