//! Rows of PostgreSQL by their keys, in the form that the codecs read.

use anyhow::Context as _;
use postgres_types::{FromSql, Type};
use tokio_postgres::{Client, Row};

use crate::catalog::Table;
use crate::domain::quote_postgres;

/// A cell as the wire has it, of any type.
struct RawCell<'a>(&'a [u8]);

impl<'a> FromSql<'a> for RawCell<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The rows of `table` that have one of `keys`, each a text a key column; keys without a row bring none.
///
/// # Errors
/// PostgreSQL's.
pub async fn read(client: &Client, table: &Table, keys: &[Vec<String>]) -> anyhow::Result<Vec<Row>> {
    let columns: Vec<_> = table.key_columns().map(|column| (quote_postgres(column.name()), column)).collect();
    let arrays: Vec<Vec<&str>> =
        (0..columns.len()).map(|at| keys.iter().filter_map(|key| key.get(at).map(String::as_str)).collect()).collect();
    let names = |prefix: &'static str| (1..=columns.len()).map(move |at| format!("{prefix}{at}")).collect::<Vec<_>>();
    let unnest = names("$").iter().map(|name| format!("{name}::text[]")).collect::<Vec<_>>().join(", ");
    let matches = columns
        .iter()
        .zip(names("k"))
        .map(|((name, column), key)| format!("t.{name} = {}", column.from_text(&format!("key.{key}"))));
    let sql = format!(
        "select {} from {} t join unnest({unnest}) as key({}) on {}",
        table.select_list("t"),
        table.name().quoted_postgres(),
        names("k").join(", "),
        matches.collect::<Vec<_>>().join(" and "),
    );
    let parameters: Vec<&(dyn postgres_types::ToSql + Sync)> = arrays.iter().map(|array| array as _).collect();
    client.query(&sql, &parameters).await.with_context(|| format!("reading rows of {} by their keys", table.name()))
}

/// The cells of a row of `read`; `None` is NULL.
///
/// # Errors
/// The driver's.
pub fn cells(row: &Row) -> anyhow::Result<Vec<Option<&[u8]>>> {
    let cell = |at| Ok(row.try_get::<_, Option<RawCell<'_>>>(at)?.map(|cell| cell.0));
    (0..row.len()).map(cell).collect()
}
