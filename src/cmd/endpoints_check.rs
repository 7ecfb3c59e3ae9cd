//! `platform endpoints check`: what is wrong with a file, on which line, and what to do about it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::endpoints_range;
use crate::catalog::endpoint::Endpoint;
use crate::store::clickhouse::{Class, ClickHouse, Error};
use crate::store::moments;

/// How long ClickHouse gets for one file.
const LIMIT: Duration = Duration::from_secs(10);

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The file.
    pub(super) file: String,
    /// Line of the file, counted from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) problem: String,
    /// What to do about it.
    pub(super) remedy: String,
}

/// Reads a file's header and its placeholders.
pub(super) fn parse(name: &str, text: &str) -> Result<Endpoint, Finding> {
    Endpoint::parse(name, text).map_err(|error| Finding {
        file: format!("{name}.sql"),
        line: error.line,
        problem: error.text,
        remedy: "docs/endpoints.md has the form of the header".to_owned(),
    })
}

/// Lets ClickHouse plan the SELECT with an example for every parameter, once with and once without the optional ones, and compares
/// the tables that it reads with those that the header names. Nothing is run.
///
/// # Errors
/// ClickHouse cannot be asked.
pub(super) async fn explain(clickhouse: &ClickHouse, endpoint: &Endpoint) -> Result<Vec<Finding>, Error> {
    let clickhouse = clickhouse.with_timeout(LIMIT);
    if let Some(wrong) = endpoints_range::check(&clickhouse, endpoint).await? {
        return Ok(vec![wrong]);
    }
    // As the view has them: what finds the rows of a range faster counts first, and nothing is run here.
    let sql = endpoint.statement(|table, range| moments::rows(table, None, &range.column, &range.condition()));
    for optional in [true, false] {
        let values: Vec<(&str, Option<String>)> = endpoint
            .parameters
            .iter()
            .map(|parameter| {
                let absent = !optional && parameter.clickhouse().starts_with("Nullable(");
                (parameter.name.as_str(), (!absent).then(|| example(endpoint, &parameter.name, parameter.example())))
            })
            .collect();
        let parameters: Vec<(&str, Option<&str>)> =
            values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        let ask = async |what: &str| clickhouse.select(&format!("{what}\n{sql}"), &parameters, "TSVRaw", &[]).await;
        match ask("explain plan").await {
            Ok(_) if optional => {
                let tree = ask("explain query tree run_passes = 0").await?;
                let wrong = tables(endpoint, &String::from_utf8_lossy(&tree));
                if !wrong.is_empty() {
                    return Ok(wrong);
                }
            }
            Ok(_) => {}
            Err(error) if error.class() == Class::Permanent && error.code().is_some() => {
                return Ok(vec![refused(endpoint, &error)]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// The end of a span must be later than its beginning.
fn example(endpoint: &Endpoint, name: &str, value: String) -> String {
    match &endpoint.span {
        Some((_, to)) if to == name => value.replacen("2024-01-31", "2024-02-01", 1),
        _ => value,
    }
}

fn refused(endpoint: &Endpoint, error: &Error) -> Finding {
    let text = error.to_string();
    // `explain …` is line 1 of what was sent.
    let line = position(&text).map_or(endpoint.first_line, |line| endpoint.first_line + line.saturating_sub(2));
    Finding {
        file: format!("{}.sql", endpoint.name),
        line,
        problem: shortened(&text),
        remedy: remedy(error.code().unwrap_or_default()).to_owned(),
    }
}

/// The line that ClickHouse names for a mistake of syntax: `(line 3, col 5)`.
fn position(text: &str) -> Option<usize> {
    text.split_once("(line ")?.1.split(',').next()?.parse().ok()
}

/// The message without the whole statement that ClickHouse repeats behind it.
fn shortened(text: &str) -> String {
    let text = text.split_once("DB::Exception: ").map_or(text, |(_, rest)| rest);
    let end = [". In scope", ": In scope", " in scope SELECT", ": While processing", ". Expected one of", " (version "]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let text = end.and_then(|end| text.get(..end)).unwrap_or(text);
    text.chars().take(300).collect()
}

fn remedy(code: u32) -> &'static str {
    match code {
        60 | 81 => "write the table as `analytics.NAME`, and load it (`platform load`) if it is not there yet",
        47 => "`describe table analytics.NAME` shows the columns; `platform tables` shows how they got there",
        62 => "mend the syntax",
        46 => "https://clickhouse.com/docs/sql-reference/functions has the functions",
        80 => "an endpoint is one SELECT",
        43 | 53 | 386 => "the types do not fit: cast one side, or change the parameter's type",
        215 => "every column outside an aggregate function belongs into GROUP BY",
        164 | 497 => "an endpoint reads tables of `analytics`, and nothing else",
        _ => "run the SELECT by hand (clickhouse-client, curl) with values for its parameters",
    }
}

/// What the header does not say of the tables that are read, or says too much.
fn tables(endpoint: &Endpoint, tree: &str) -> Vec<Finding> {
    let read: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_once("table_name: ").or_else(|| line.split_once("identifier: ")))
        .map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default())
        .filter_map(|name| name.strip_prefix("analytics."))
        .collect();
    let named: BTreeSet<&str> = endpoint.tables.iter().map(String::as_str).collect();
    let finding =
        |problem: String, remedy: String| Finding { file: format!("{}.sql", endpoint.name), line: 1, problem, remedy };
    let missing = read.difference(&named).map(|table| {
        let problem = format!("it reads analytics.{table}, and its header does not say so");
        finding(
            problem,
            format!("add `-- table: {table}`: it decides how fresh the answer is, and whether it may be given again"),
        )
    });
    let unused = named.difference(&read).map(|table| {
        finding(
            format!("its header names the table {table}, and it does not read analytics.{table}"),
            format!("remove `-- table: {table}`"),
        )
    });
    missing.chain(unused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        let text = "-- summary: x\n-- table: posts\n-- span: a b\n-- param a Date required: x\n-- param b Date required: x\n\n\
                    select {a:Date32},\n {b:Date32}, wrong\n";
        parse("x", text).expect("good")
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let error = Error::Server {
            code: 62,
            text: "ClickHouse: Code: 62. DB::Exception: Syntax error: failed at position 9 (wrong) (line 3, col 5): wrong. Expected one of: x".into(),
        };
        let found = refused(&endpoint(), &error);
        assert_eq!((found.line, found.remedy.as_str()), (8, "mend the syntax"));
        assert_eq!(found.problem, "Syntax error: failed at position 9 (wrong) (line 3, col 5): wrong");
        let header = parse("x", "-- summary: x\n-- tabel: x\nselect 1").expect_err("wrong");
        assert_eq!((header.file.as_str(), header.line), ("x.sql", 2));
    }

    #[test]
    fn spans_have_a_length() {
        let endpoint = endpoint();
        let values: Vec<String> = endpoint
            .parameters
            .iter()
            .map(|parameter| example(&endpoint, &parameter.name, parameter.example()))
            .collect();
        assert_eq!(values, ["2024-01-31", "2024-02-01"]);
    }

    #[test]
    fn the_header_must_name_what_is_read() {
        let tree = "QUERY id: 0\n  JOIN TREE\n    IDENTIFIER id: 3, identifier: analytics.posts\n    TABLE id: 4, table_name: analytics.other, x\n";
        let found = tables(&endpoint(), tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].remedy.contains("`-- table: other`"), "{found:?}");
        assert_eq!(tables(&endpoint(), "")[0].remedy, "remove `-- table: posts`");
    }
}
