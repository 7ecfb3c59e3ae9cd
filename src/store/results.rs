//! Where readers find the result of an aggregate: `analytics.NAME`, a view of the table that its definition names. A changed file
//! names another table, which is filled beside the old one until it has every bucket; then the view is switched, in one step.

use serde::Deserialize;

use super::clickhouse::{ClickHouse, Error};
use crate::catalog::Aggregate;
use crate::domain::quote_clickhouse;

/// What `analytics.NAME` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// There is nothing of this name.
    Nothing,
    /// This definition's result.
    This,
    /// Another definition's, or a table that an earlier version made.
    Another,
}

/// Looks at it, and for the tables of other definitions of this aggregate.
///
/// # Errors
/// ClickHouse's.
pub async fn look(clickhouse: &ClickHouse, aggregate: &Aggregate) -> Result<(Shown, Vec<String>), Error> {
    #[derive(Deserialize)]
    struct Row {
        database: String,
        name: String,
        engine: String,
        comment: String,
    }
    let this = aggregate.result_name();
    // The length: another aggregate's name may begin with this one's.
    // The databases apart: of a condition inside `or` ClickHouse would look at the tables of all of them.
    let sql = "select database, name, engine, comment from system.tables where database in ('analytics', 'platform') \
               and (database = 'analytics' and name = {name:String} or database = 'platform' and startsWith(name, {prefix:String}) \
               and match(substring(name, length({prefix:String}) + 1), '^[0-9a-f]{12}$') and name != {this:String})";
    let parameters = [("name", aggregate.name.as_str()), ("prefix", prefix(&this, aggregate)), ("this", &this)];
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &parameters).await?;
    let (views, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.database == "analytics");
    let shown = match views.first() {
        None => Shown::Nothing,
        Some(row) if row.engine == "View" && row.comment == aggregate.definition => Shown::This,
        Some(_) => Shown::Another,
    };
    Ok((shown, others.into_iter().map(|row| row.name).collect()))
}

/// Shows this definition's result, in one step for every reader, unless an earlier version's table stands in the place: that is
/// dropped first.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn show(clickhouse: &ClickHouse, aggregate: &Aggregate) -> Result<(), Error> {
    let view = format!("analytics.{}", quote_clickhouse(&aggregate.name));
    let old_table =
        "select 1 as one from system.tables where database = 'analytics' and name = {name:String} and engine != 'View'";
    let found: Option<serde_json::Value> = clickhouse.fetch_optional(old_table, &[("name", &aggregate.name)]).await?;
    if found.is_some() {
        clickhouse.execute(&format!("drop table if exists {view} sync"), &[]).await?;
    }
    let rows = aggregate.newest_rows();
    let sql = format!("create or replace view {view} as {rows} comment '{}'", aggregate.definition);
    clickhouse.execute(&sql, &[]).await
}

/// Drops the tables of other definitions, and what is recorded of their builds.
///
/// # Errors
/// ClickHouse's; it can be repeated.
pub async fn drop_others(clickhouse: &ClickHouse, aggregate: &Aggregate, others: Vec<String>) -> Result<(), Error> {
    let this = aggregate.result_name();
    let prefix = prefix(&this, aggregate);
    for name in others {
        tracing::info!(table = name, aggregate = aggregate.name, "dropping the result of an older definition");
        clickhouse.execute(&format!("drop table if exists platform.{}", quote_clickhouse(&name)), &[]).await?;
        let definition = name.strip_prefix(prefix).unwrap_or_default();
        let key = format!("{}@{definition}", aggregate.name);
        clickhouse.execute("delete from platform.builds where aggregate = {key:String}", &[("key", &key)]).await?;
    }
    Ok(())
}

/// What the tables of all definitions of an aggregate begin with; `this` is one of them.
fn prefix<'a>(this: &'a str, aggregate: &Aggregate) -> &'a str {
    this.strip_suffix(&aggregate.definition).unwrap_or(this)
}
