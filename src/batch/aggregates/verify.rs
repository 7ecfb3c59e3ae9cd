//! Whether what readers see of a bucket is what PostgreSQL has.

use std::time::Duration;

use serde::Deserialize;

use super::failed_in;
use super::rebuild::{Comparison, Day, look};
use crate::domain::Failure;

/// Looks at a bucket that is written to, or that differs, before it is judged.
const ATTEMPTS: usize = 3;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Readers see a build of exactly the rows that PostgreSQL has.
    Equal,
    /// It was never built, or has changed since.
    Stale,
    /// The mirror differs from PostgreSQL, or the result is not what it was built from; in words.
    Differs(Vec<String>),
}

/// Compares at a fenced position, as a build does, and builds nothing.
///
/// # Errors
/// `Failure::Busy` when the mirror is behind, its table is being loaded, or the bucket is written to all the time;
/// `Failure::Signal`; `Failure::Unavailable`.
pub async fn verify(day: &Day<'_>, wait: Duration) -> anyhow::Result<Verdict> {
    for attempt in 1..=ATTEMPTS {
        let (inspection, comparison) = day.shutdown.guard(look(day, Some(wait))).await?;
        match comparison {
            Comparison::Differs(_) if attempt == 1 => {}
            Comparison::Differs(differences) => return Ok(Verdict::Differs(differences)),
            Comparison::Moving => {}
            _ if !inspection.is_current => return Ok(Verdict::Stale),
            _ => {
                let (counted, there) = (counted_rows(day).await?, inspection.facts.rows.to_string());
                return Ok(match counted {
                    Some(counted) if counted != there => {
                        Verdict::Differs(vec![format!("the result counts {counted} rows, and there are {there}")])
                    }
                    _ => Verdict::Equal,
                });
            }
        }
    }
    Err(Failure::Busy(format!("{} of {} is written to all the time; run it again", day.aggregate.name, day.date))
        .into())
}

/// The number of source rows that the result which readers see tells, if the header says how.
async fn counted_rows(day: &Day<'_>) -> anyhow::Result<Option<String>> {
    #[derive(Deserialize)]
    struct Row {
        counted: String,
    }
    let Some(expression) = &day.aggregate.rows else { return Ok(None) };
    let (rows, column) = (day.aggregate.newest_rows(), day.aggregate.unit.column());
    let sql = format!("select toString({expression}) as counted from ({rows}) where {column} = {{bucket:Date32}}");
    let bucket = day.date.to_string();
    let row: Result<Option<Row>, _> = day.clickhouse.fetch_optional(&sql, &[("bucket", &bucket)]).await;
    Ok(row.map_err(|error| failed_in(day.aggregate, "reading the result", error))?.map(|row| row.counted))
}
