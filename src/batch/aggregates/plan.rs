//! Whether both databases can make something of a file, without running it.

use tokio_postgres::Client;

use super::source_of_record;
use crate::catalog::Aggregate;
use crate::domain::RunDate;
use crate::store::clickhouse::{Class, ClickHouse};
use crate::store::mirror_day::MirrorDay;
use crate::store::mirror_day::MirrorTable;
use crate::store::postgres::chain;

/// What a database says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It can.
    Good,
    /// It cannot, and why.
    Wrong(String),
    /// It was not to be had, or has no such table yet.
    Unknown(String),
}

/// Lets ClickHouse plan the SELECT with its keys and `rows`, and the checks.
pub async fn plan_in_clickhouse(clickhouse: &ClickHouse, aggregate: &Aggregate) -> Plan {
    match MirrorTable::find(clickhouse, aggregate).await {
        Ok(Some(_)) => {}
        Ok(None) => return Plan::Unknown(format!("{} has no mirror yet: ClickHouse was not asked", aggregate.table)),
        Err(error) => return Plan::Unknown(format!("ClickHouse cannot be asked: {error}")),
    }
    let source = match MirrorDay::find(clickhouse, aggregate, RunDate::of(chrono::Utc::now())).await {
        Ok(source) => source,
        Err(error) => return Plan::Unknown(format!("ClickHouse cannot be asked: {error:#}")),
    };
    let parameters = source.parameters();
    for sql in [source.judging(aggregate), source.facts_sql(&aggregate.checks)] {
        match clickhouse.fetch_bytes(&format!("explain plan {sql}"), &parameters, "TSVRaw").await {
            Ok(_) => {}
            Err(error) if error.class() == Class::Permanent && error.code().is_some() => {
                let text = error.to_string();
                // Without the whole statement that ClickHouse repeats behind it.
                let end = ["In scope", "in scope SELECT", ": While processing", "(version "]
                    .iter()
                    .filter_map(|mark| text.find(mark))
                    .min();
                let text = end.and_then(|end| text.get(..end)).unwrap_or(&text);
                return Plan::Wrong(text.chars().take(300).collect());
            }
            Err(error) => return Plan::Unknown(format!("ClickHouse cannot be asked: {error}")),
        }
    }
    Plan::Good
}

/// Lets PostgreSQL prepare the checks.
pub async fn plan_in_postgres(client: &Client, aggregate: &Aggregate) -> Plan {
    match client.prepare(&source_of_record::statement(aggregate)).await {
        Ok(_) => Plan::Good,
        Err(error) => match error.code() {
            // Syntax, a column or table that does not exist, a right that is missing.
            Some(code) if code.code().starts_with("42") => Plan::Wrong(format!("PostgreSQL: {}", chain(&error))),
            _ => Plan::Unknown(format!("PostgreSQL cannot be asked: {}", chain(&error))),
        },
    }
}
