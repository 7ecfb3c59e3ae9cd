//! The SQL files of aggregates: the shipped ones, or those of a folder.

use anyhow::Context as _;

use super::clickhouse::{Class, Error};
use crate::catalog::Aggregate;
use crate::domain::Failure;

const SHIPPED: [(&str, &str); 2] = [
    ("sentiment_daily", include_str!("../../sql/aggregates/sentiment_daily.sql")),
    ("sentiment_hourly", include_str!("../../sql/aggregates/sentiment_hourly.sql")),
];

/// The aggregates of `dir`, sorted by name; the shipped ones when it is empty.
///
/// # Errors
/// `Failure::Config` for a folder that cannot be read or a file that is no aggregate.
pub fn all(dir: &str) -> anyhow::Result<Vec<Aggregate>> {
    files(dir)?.iter().map(|(name, text)| parse(name, text)).collect()
}

/// Names and texts of the files of `dir`, sorted by name; the shipped ones when it is empty.
///
/// # Errors
/// `Failure::Config` for a folder that cannot be read or has no such file.
pub fn files(dir: &str) -> anyhow::Result<Vec<(String, String)>> {
    if dir.is_empty() {
        return Ok(SHIPPED.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    }
    let unreadable = || Failure::Config(format!("etl.aggregates_dir {dir:?} cannot be read"));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let text = std::fs::read_to_string(&path).with_context(unreadable)?;
            files.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text));
        }
    }
    if files.is_empty() {
        return Err(Failure::Config(format!("etl.aggregates_dir {dir:?} has no file NAME.sql")).into());
    }
    files.sort();
    Ok(files)
}

fn parse(name: &str, text: &str) -> anyhow::Result<Aggregate> {
    Aggregate::parse(name, text).map_err(|error| Failure::Config(error.to_string()).into())
}

/// What a ClickHouse error means to a job: wait, or mend the set-up.
pub fn failed(doing: &str, error: Error) -> anyhow::Error {
    let text = format!("{doing}: {error}");
    match (error.class(), error.code()) {
        (Class::Retry, _) => Failure::Unavailable(text).into(),
        // 60 no table, 81 no database: the schema. 192, 193, 497, 516 users and rights.
        (Class::Permanent, Some(60 | 81)) => {
            Failure::Config(format!("{text}; run `platform migrate` and `platform load`")).into()
        }
        (Class::Permanent, Some(192 | 193 | 497 | 516)) => Failure::Config(text).into(),
        (Class::Permanent, _) => anyhow::Error::from(error).context(doing.to_owned()),
    }
}

/// As `failed`, for statements with the SQL of an aggregate's file in them: an error that stays is the file's.
pub fn failed_in(aggregate: &Aggregate, doing: &str, error: Error) -> anyhow::Error {
    let of_the_file = error.class() == Class::Permanent && error.code().is_some();
    if of_the_file {
        return Failure::Config(format!("{doing}: sql/aggregates/{}.sql: {error}", aggregate.name)).into();
    }
    failed(doing, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_ones_are_right() {
        let all = all("").expect("aggregates");
        let told: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.unit.word(), one.checks.len())).collect();
        assert_eq!(told, [("sentiment_daily", "day", 5), ("sentiment_hourly", "hour", 5)]);
    }
}
