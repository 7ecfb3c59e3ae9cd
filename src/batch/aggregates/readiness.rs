//! Whether a mirror is whole, so that statistics of it are worth anything.

use super::{Position, failed};
use crate::domain::{Failure, TableName};
use crate::store::builds;
use crate::store::clickhouse::ClickHouse;

/// Refuses a table whose mirror is not whole at `position`.
///
/// # Errors
/// `Failure::Busy` then; ClickHouse's.
pub(in crate::batch) async fn refuse_unready(
    clickhouse: &ClickHouse,
    table: &TableName,
    position: Position,
) -> anyhow::Result<()> {
    let facts = builds::table_facts(clickhouse, table).await;
    let facts = facts.map_err(|error| failed("reading the table's state", error))?;
    let text = match facts.state.as_str() {
        "loading" | "wanted" => {
            format!("{table} is being loaded into the mirror; run it again when the load has ended")
        }
        "left" => format!("{table} has left the publication: {}", facts.reason),
        "halted" => format!("{table} is halted in the mirror: {}", facts.reason),
        _ if position.lsn < facts.snapshot => {
            format!("the mirror of {table} is complete at {}, and is at {}", facts.snapshot, position.lsn)
        }
        _ => return Ok(()),
    };
    Err(Failure::Busy(text).into())
}
