//! A number a table that tells whether what it shows may have changed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};

/// Versions by `(database, table)`. Two equal ones mean that the table shows the same rows; two different ones that it may
/// not: a merge gives another one too.
pub type TableVersions = BTreeMap<(String, String), u64>;

/// The versions of all tables of `mirror` and `analytics`, and of what `platform` knows of builds.
///
/// # Errors
/// ClickHouse's, among them code 60 before the migration that makes the view.
pub async fn read(clickhouse: &ClickHouse) -> Result<TableVersions, Error> {
    #[derive(Deserialize)]
    struct Row {
        database: String,
        table: String,
        #[serde(with = "text")]
        version: u64,
    }
    let rows: Vec<Row> =
        clickhouse.fetch_all("select database, table, version from platform.table_versions", &[]).await?;
    Ok(rows.into_iter().map(|row| ((row.database, row.table), row.version)).collect())
}
