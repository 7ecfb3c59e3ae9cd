//! The statements behind a batch: one INSERT for all posts, from one array a column.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient as Cached;
use futures_util::future::join_all;
use rust_decimal::Decimal;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row, Statement};

use super::post_input::{COLUMNS, Changes, Kind, Value};
use super::posts_sql;

type DriverResult<T> = Result<T, tokio_postgres::Error>;

/// What happens to a post whose platform and post_id are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// The statement fails, and nothing is written.
    Fails,
    /// It is left out.
    LeftOut,
}

/// A post that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Created {
    /// Its id.
    pub id: i64,
    /// Its version, for the ETag.
    pub version: i64,
}

/// The values of one column.
enum Array<'a> {
    Text(Vec<Option<&'a str>>),
    Written(Vec<Option<String>>),
    Decimal(Vec<Option<Decimal>>),
    Int(Vec<Option<i32>>),
    Moment(Vec<Option<DateTime<Utc>>>),
}

impl<'a> Array<'a> {
    /// The `at`th column of whole posts.
    fn of(kind: Kind, at: usize, posts: &[&'a Changes]) -> Self {
        let values = || posts.iter().map(move |post| post.0.get(at).map(|(_, value)| value));
        match kind {
            Kind::Text(_) | Kind::Label | Kind::Json => Self::Text(
                values()
                    .map(|value| if let Some(Value::Text(Some(text))) = value { Some(text.as_str()) } else { None })
                    .collect(),
            ),
            Kind::Texts => Self::Written(
                values()
                    .map(|value| if let Some(Value::Texts(texts)) = value { Some(array_text(texts)) } else { None })
                    .collect(),
            ),
            Kind::Decimal(..) => Self::Decimal(
                values().map(|value| if let Some(Value::Decimal(number)) = value { *number } else { None }).collect(),
            ),
            Kind::Count => Self::Int(
                values().map(|value| if let Some(Value::Int(number)) = value { Some(*number) } else { None }).collect(),
            ),
            Kind::Moment => Self::Moment(
                values()
                    .map(|value| if let Some(Value::Moment(moment)) = value { Some(*moment) } else { None })
                    .collect(),
            ),
        }
    }

    fn bound(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Text(values) => values,
            Self::Written(values) => values,
            Self::Decimal(values) => values,
            Self::Int(values) => values,
            Self::Moment(values) => values,
        }
    }
}

/// A list as PostgreSQL writes it: arrays of one length cannot hold lists of several.
fn array_text(texts: &[String]) -> String {
    let quoted = texts.iter().map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// What a shared insertion returns of each post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    /// Enough for an answer without a body.
    Identity,
    /// `posts_sql::COLUMNS`.
    Post,
}

/// How long a shared insertion waits for a row that another transaction holds, before its posts are tried one by one: those who
/// share it must not wait for the one that meets the lock.
const LOCK_WAIT_MS: u32 = 100;

fn sql(taken: Taken, returned: &str, beside: &str) -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let arrays = COLUMNS.iter().enumerate().map(|(at, column)| {
        let kind = match column.kind {
            Kind::Text(_) | Kind::Label | Kind::Json | Kind::Texts => "text",
            Kind::Decimal(..) => "numeric",
            Kind::Count => "int4",
            Kind::Moment => "timestamptz",
        };
        format!("${}::{kind}[]", at + 1)
    });
    // The column's defaults, which an INSERT from a SELECT cannot ask for.
    let values = COLUMNS.iter().map(|column| match column.kind {
        Kind::Texts => format!("coalesce({}::text[], '{{}}')", column.name),
        Kind::Json => format!("{}::jsonb", column.name),
        Kind::Count => format!("coalesce({}, 0)", column.name),
        _ => column.name.to_owned(),
    });
    let conflict = match taken {
        Taken::Fails => "",
        Taken::LeftOut => "on conflict (platform, post_id) do nothing ",
    };
    format!(
        "insert into public.sentiment_social ({names}) select {values} from unnest({arrays}) with ordinality \
         as item ({names}, ordinal){beside} order by ordinal {conflict}returning {returned}",
        names = names.join(", "),
        values = values.collect::<Vec<_>>().join(", "),
        arrays = arrays.collect::<Vec<_>>().join(", ")
    )
}

/// The statement that `insert` executes, prepared once a connection.
///
/// # Errors
/// The driver's.
pub(super) async fn prepare(client: &impl Cached, taken: Taken) -> DriverResult<Statement> {
    client.prepare_cached(&sql(taken, "platform, post_id, id, row_version", "")).await
}

thread_local! {
    /// The texts of `prepare_shared`, because writing them costs more than finding the statement.
    static SHARED: [Rc<str>; 2] = {
        let limit = format!(" cross join set_config('lock_timeout', '{LOCK_WAIT_MS}ms', true)");
        [posts_sql::COLUMNS, "id, platform, post_id, row_version"]
            .map(|returned| Rc::from(sql(Taken::LeftOut, returned, &limit)))
    };
}

/// The statement that `insert_shared` executes, prepared once a connection. Its lock timeout ends with it.
///
/// # Errors
/// The driver's.
pub(super) async fn prepare_shared(client: &impl Cached, returned: Returned) -> DriverResult<Statement> {
    let sql = SHARED.with(|[post, identity]| Rc::clone(if returned == Returned::Post { post } else { identity }));
    client.prepare_cached(&sql).await
}

/// Inserts whole posts of several requests in one statement, and returns the row of each that was not there yet; of posts with one
/// identity the first gets it. The statement is sent when the future is polled first.
///
/// # Errors
/// The driver's; then nothing is written.
pub(super) async fn insert_shared(
    client: &impl GenericClient,
    statement: &Statement,
    posts: &[&Changes],
) -> DriverResult<Vec<Option<Row>>> {
    let rows = query(client, statement, posts).await?;
    let mut places: HashMap<(&str, &str), usize> = HashMap::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        places.insert((row.try_get("platform")?, row.try_get("post_id")?), at);
    }
    let places: Vec<Option<usize>> = posts.iter().map(|post| places.remove(&post.identity())).collect();
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    Ok(places.into_iter().map(|at| rows.get_mut(at?).and_then(Option::take)).collect())
}

async fn query(client: &impl GenericClient, statement: &Statement, posts: &[&Changes]) -> DriverResult<Vec<Row>> {
    let arrays: Vec<Array<'_>> =
        COLUMNS.iter().enumerate().map(|(at, column)| Array::of(column.kind, at, posts)).collect();
    let bound: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(Array::bound).collect();
    client.query(statement, &bound).await
}

/// Inserts whole posts in their order, all of them in one statement, and returns what became of each. The statement is sent
/// when the future is polled first.
///
/// # Errors
/// The driver's; then nothing is written.
pub(super) async fn insert(
    client: &impl GenericClient,
    statement: &Statement,
    posts: &[&Changes],
) -> DriverResult<Vec<Option<Created>>> {
    let rows = query(client, statement, posts).await?;
    let created: HashMap<(&str, &str), Created> = rows.iter().map(created).collect::<DriverResult<_>>()?;
    Ok(posts.iter().map(|post| created.get(&post.identity()).copied()).collect())
}

fn created(row: &Row) -> DriverResult<((&str, &str), Created)> {
    Ok(((row.try_get(0)?, row.try_get(1)?), Created { id: row.try_get(2)?, version: row.try_get(3)? }))
}

/// Which of these posts exist already.
///
/// # Errors
/// The driver's.
pub(super) async fn existing(client: &impl Cached, posts: &[&Changes]) -> DriverResult<Vec<bool>> {
    let (platforms, ids): (Vec<&str>, Vec<&str>) = posts.iter().map(|post| post.identity()).unzip();
    let sql = "select platform, post_id from public.sentiment_social \
               join unnest($1::text[], $2::text[]) as item (platform, post_id) using (platform, post_id)";
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[&platforms, &ids]).await?;
    let found: HashSet<(&str, &str)> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<DriverResult<_>>()?;
    Ok(posts.iter().map(|post| found.contains(&post.identity())).collect())
}

/// Which of these posts PostgreSQL refuses. Everything but `raw` was checked before: `jsonb` takes less than JSON does. Asked
/// only after a statement has failed; the questions travel one behind the other.
///
/// # Errors
/// The driver's, other than a refusal.
pub(super) async fn refused(client: &tokio_postgres::Client, posts: &[&Changes]) -> DriverResult<Vec<bool>> {
    let checks = posts.iter().map(|post| async move {
        let raw = post.0.iter().find(|(column, _)| column.kind == Kind::Json).map(|(_, value)| value);
        let Some(Value::Text(Some(text))) = raw else { return Ok(false) };
        match client.query_typed("select $1::jsonb is null", &[(text, Type::TEXT)]).await {
            Ok(_) => Ok(false),
            Err(error) if refuses(&error) => Ok(true),
            Err(error) => Err(error),
        }
    });
    join_all(checks).await.into_iter().collect()
}

/// Whether PostgreSQL refuses a value: it is of another form (22), or too large or too deep (54).
pub(super) fn refuses(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| state.code().starts_with("22") || state.code().starts_with("54"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_has_every_column() {
        let sql = sql(Taken::LeftOut, "id", " cross join one");
        assert!(sql.contains("$16::timestamptz[]") && sql.contains("coalesce(likes, 0)"), "{sql}");
        assert!(sql.contains("on conflict (platform, post_id) do nothing returning id"), "{sql}");
        assert!(sql.contains("ordinal) cross join one order by ordinal on conflict"), "{sql}");
        assert_eq!(COLUMNS.len(), 16);
    }

    #[test]
    fn lists_are_quoted() {
        assert_eq!(array_text(&[]), "{}");
        assert_eq!(
            array_text(&["a,b".into(), r#"q"\"#.into(), "NULL".into(), String::new()]),
            r#"{"a,b","q\"\\","NULL",""}"#
        );
    }
}
