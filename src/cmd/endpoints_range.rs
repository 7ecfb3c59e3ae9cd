//! `platform endpoints check`: whether the table has the column of a range.

use serde::Deserialize;

use super::endpoints_check::Finding;
use crate::catalog::endpoint::Endpoint;
use crate::catalog::is_time;
use crate::store::clickhouse::{ClickHouse, Error};

/// What is wrong with the column of the endpoint's range. A table that is not there is left to the plan.
///
/// # Errors
/// ClickHouse cannot be asked.
pub(super) async fn check(clickhouse: &ClickHouse, endpoint: &Endpoint) -> Result<Option<Finding>, Error> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        kind: String,
    }
    let Some((table, range)) = endpoint.ranged_table() else { return Ok(None) };
    let name = table.mirror_name();
    let sql = "select name, type as kind from system.columns where database = 'analytics' and table = {table:String}";
    let columns: Vec<Row> = clickhouse.fetch_all(sql, &[("table", &name)]).await?;
    let times = || {
        let names = columns.iter().filter(|column| is_time(&column.kind)).map(|column| column.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let problem = match columns.iter().find(|column| column.name == range.column) {
        _ if columns.is_empty() => return Ok(None),
        Some(column) if is_time(&column.kind) => return Ok(None),
        Some(column) => format!("analytics.{name} has {} as {}, which has no range of times", column.name, column.kind),
        None => format!("analytics.{name} has no column {}", range.column),
    };
    let remedy = format!("its columns of dates and times: {}", times());
    Ok(Some(Finding { file: format!("{}.sql", endpoint.name), line: range.line, problem, remedy }))
}
