//! The same day in PostgreSQL, as far as the checks ask.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::mirror_day::Facts;
use crate::catalog::Aggregate;
use crate::domain::{Failure, RunDate, quote_postgres};
use crate::store::postgres::chain;

/// Number of rows and values of the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceFacts {
    values: Vec<String>,
}

/// What is asked of a bucket, with its ends as parameters.
pub(super) fn statement(aggregate: &Aggregate) -> String {
    let column = quote_postgres(&aggregate.bucket_column);
    let checks: String = aggregate.checks.iter().map(|check| format!(", ({})::text", check.postgres)).collect();
    format!(
        "select count(*)::text{checks} from {} where {column} >= $1::timestamptz and {column} < $2::timestamptz",
        aggregate.table.quoted_postgres()
    )
}

impl SourceFacts {
    /// Reads them.
    ///
    /// # Errors
    /// PostgreSQL's; `Failure::Config` when a check's expression is wrong.
    pub(super) async fn read(client: &Client, aggregate: &Aggregate, day: RunDate) -> anyhow::Result<Self> {
        let sql = statement(aggregate);
        let (from, to): (DateTime<Utc>, DateTime<Utc>) = (day.start(), aggregate.unit.end(day));
        let row = client.query_one(&sql, &[&from, &to]).await.map_err(|error| {
            let text = format!("checking the day in PostgreSQL: {}", chain(&error));
            match error.code() {
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Failure::Config(format!(
                    "{text}; the role of postgres.url needs USAGE on the schema and SELECT on the table"
                )),
                // Syntax, a column that does not exist.
                Some(code) if code.code().starts_with("42") => {
                    Failure::Config(format!("{text} (sql/aggregates/{}.sql)", aggregate.name))
                }
                _ => Failure::Unavailable(text),
            }
        })?;
        let value = |at: usize| {
            let value: Option<String> = row.try_get(at).context("reading a check's value")?;
            Ok(value.unwrap_or_else(|| "null".into()))
        };
        Ok(Self { values: (0..=aggregate.checks.len()).map(value).collect::<anyhow::Result<_>>()? })
    }

    /// What differs in the mirror, by the names of the checks.
    pub(super) fn differences(&self, mirror: &Facts, aggregate: &Aggregate) -> Vec<String> {
        let names = std::iter::once("rows").chain(aggregate.checks.iter().map(|check| check.name.as_str()));
        let rows = mirror.rows.to_string();
        let theirs = std::iter::once(&rows).chain(&mirror.checks);
        names
            .zip(self.values.iter().zip(theirs))
            .filter(|(_, (ours, theirs))| ours != theirs)
            .map(|(name, (ours, theirs))| format!("{name}: PostgreSQL has {ours}, the mirror {theirs}"))
            .collect()
    }
}
