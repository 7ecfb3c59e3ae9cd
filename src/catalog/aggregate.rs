//! The header of an aggregate's SQL file: which table it summarises, by hour, day or month, and what must hold.
//! `docs/aggregates.md` describes it for people.

use sha2::{Digest as _, Sha256};

use super::BucketUnit;
use super::bucket_unit::hour_of;
use crate::domain::{TableName, quote_clickhouse};

/// Stands in the SELECT where the rows of one bucket belong.
pub const SOURCE: &str = "{source}";
/// Columns that every result table has besides those of its SELECT.
pub const OWN_COLUMNS: [&str; 3] = ["day", "month", "build_id"];
/// Stands in the SELECT for the first second of a row's hour.
const HOUR: &str = "{hour}";
/// Key that tells the hours of a day apart.
const HOUR_COLUMN: &str = "hour";

/// One SQL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// The file's name without `.sql`: the result is `analytics.NAME`.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// The table that it reads.
    pub table: TableName,
    /// How finely it divides time.
    pub unit: BucketUnit,
    /// The column whose time (UTC) decides where a row belongs.
    pub bucket_column: String,
    /// Columns of the result that tell its rows apart within a bucket.
    pub keys: Vec<String>,
    /// ClickHouse expression over a bucket's result that gives the number of source rows: none was lost or counted twice.
    pub rows: Option<String>,
    /// What must be equal in the mirror and in PostgreSQL, beside the number of rows.
    pub checks: Vec<Check>,
    /// The SELECT, with `{source}` in it.
    pub select: String,
    /// Names what the file makes: another SELECT, table, bucket or key means another result, and another table for it.
    pub definition: String,
}

/// An expression over the rows of a bucket, in both dialects; one that stands alone is the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is called in reports.
    pub name: String,
    /// In ClickHouse.
    pub clickhouse: String,
    /// In PostgreSQL.
    pub postgres: String,
}

/// Why a file is no aggregate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("aggregate {name}: {reason}")]
pub struct HeaderError {
    name: String,
    reason: String,
}

impl Aggregate {
    /// Reads a file.
    ///
    /// # Errors
    /// A header line is missing, unknown, repeated or malformed, or the SELECT does not read `{source}`.
    pub fn parse(name: &str, text: &str) -> Result<Self, HeaderError> {
        let error = |reason: String| HeaderError { name: name.to_owned(), reason };
        if !is_plain_name(name) {
            return Err(error("the file's name must be lower-case letters, digits and underscores, up to 48".into()));
        }
        let (entries, select) = split(text).map_err(error)?;
        let mut header = Header::default();
        for (key, value) in entries {
            header.take(&key, value).map_err(error)?;
        }
        let select = select.trim().trim_end_matches(';').trim_end().to_owned();
        if !select.contains(SOURCE) {
            return Err(error(format!("its SELECT does not read {SOURCE}")));
        }
        let needed =
            |value: Option<String>, key: &str| value.ok_or_else(|| error(format!("the line `-- {key}: …` is missing")));
        let bucket = needed(header.bucket, "bucket")?;
        let Some((unit, bucket_column)) = BucketUnit::parse(&bucket) else {
            return Err(error("the bucket must be hour(COLUMN), day(COLUMN) or month(COLUMN)".into()));
        };
        let keys: Vec<String> = needed(header.keys, "keys")?.split(',').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(|key| key.is_empty() || OWN_COLUMNS.contains(&key.as_str())) {
            return Err(error("keys must be columns of the SELECT, with commas between them".into()));
        }
        if unit == BucketUnit::Hour && !keys.iter().any(|key| key == HOUR_COLUMN) {
            return Err(error(format!(
                "an aggregate by hour has the key {HOUR_COLUMN}: select {HOUR} as {HOUR_COLUMN}"
            )));
        }
        let table = TableName::from_argument(&needed(header.table, "table")?);
        let select = select.replace(HOUR, &hour_of(bucket_column));
        let definition = definition(&table, &bucket, &keys, &select);
        Ok(Self {
            name: name.to_owned(),
            summary: needed(header.summary, "summary")?,
            table,
            unit,
            bucket_column: bucket_column.to_owned(),
            keys,
            rows: header.rows,
            checks: header.checks,
            select,
            definition,
        })
    }
}

impl Aggregate {
    /// Under which its builds are recorded.
    pub fn key(&self) -> String {
        format!("{}@{}", self.name, self.definition)
    }

    /// The table that holds its result, quoted. `analytics.NAME` is a view of it.
    pub fn result_table(&self) -> String {
        format!("platform.{}", quote_clickhouse(&self.result_name()))
    }

    /// The same without its database.
    pub fn result_name(&self) -> String {
        format!("{RESULT_PREFIX}{}_{}", self.name, self.definition)
    }

    /// A SELECT of what readers see of the result, in one consistent look. A day has the rows of one build. Only when the server was
    /// killed while it put a build in place may there be two: then the newer one counts, which is whole.
    pub fn newest_rows(&self) -> String {
        let (table, column) = (self.result_table(), self.unit.column());
        format!(
            "select * except (_newest) from (select *, max(build_id) over (partition by {column}) as _newest from {table}) \
             where build_id = _newest"
        )
    }
}

/// What the tables of results begin with.
const RESULT_PREFIX: &str = "result_";
/// Bytes of a definition's hash that its name shows.
const DEFINITION_BYTES: usize = 6;

fn definition(table: &TableName, bucket: &str, keys: &[String], select: &str) -> String {
    let mut hash = Sha256::new();
    for part in [table.mirror_name().as_str(), bucket, &keys.join(","), select] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(DEFINITION_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Header {
    summary: Option<String>,
    table: Option<String>,
    bucket: Option<String>,
    keys: Option<String>,
    rows: Option<String>,
    checks: Vec<Check>,
}

impl Header {
    fn take(&mut self, key: &str, value: String) -> Result<(), String> {
        if let Some(name) = key.strip_prefix("check ") {
            let (clickhouse, postgres) = value.split_once(" postgres: ").unwrap_or((&value, &value));
            if clickhouse.is_empty() || postgres.is_empty() {
                return Err(format!("check {name} needs an expression"));
            }
            if !is_plain_name(name) || name == "rows" || self.checks.iter().any(|check| check.name == name) {
                return Err(format!("{name:?} cannot be the name of a check, or is there twice"));
            }
            let (clickhouse, postgres) = (clickhouse.trim().to_owned(), postgres.trim().to_owned());
            self.checks.push(Check { name: name.to_owned(), clickhouse, postgres });
            return Ok(());
        }
        let slot = match key {
            "summary" => &mut self.summary,
            "table" => &mut self.table,
            "bucket" => &mut self.bucket,
            "keys" => &mut self.keys,
            "rows" => &mut self.rows,
            _ => {
                return Err(format!(
                    "unknown header line {key:?}; known are summary, table, bucket, keys, rows, check NAME"
                ));
            }
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(format!("the header line {key:?} is there twice")),
        }
    }
}

type Entries = Vec<(String, String)>;

/// The header's entries and what follows them. An indented comment line goes on with the entry before it.
fn split(text: &str) -> Result<(Entries, String), String> {
    let mut entries: Entries = Vec::new();
    let mut lines = text.lines();
    let mut rest = String::new();
    for line in lines.by_ref() {
        let Some(comment) = line.strip_prefix("--") else {
            rest.push_str(line);
            rest.push('\n');
            break;
        };
        if comment.starts_with("   ") {
            let Some((_, value)) = entries.last_mut() else {
                return Err("the header begins with a continuation".into());
            };
            value.push(' ');
            value.push_str(comment.trim());
        } else if let Some((key, value)) = comment.split_once(':') {
            entries.push((key.trim().to_owned(), value.trim().to_owned()));
        } else {
            return Err(format!("{line:?} is no header line `-- key: value`; a blank line ends the header"));
        }
    }
    for line in lines {
        rest.push_str(line);
        rest.push('\n');
    }
    Ok((entries, rest))
}

fn is_plain_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    letters && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= 48
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "-- summary: Orders.\n-- table: shop.orders\n-- bucket: day(placed_at)\n-- keys: country, kind\n\
                        -- rows: sum(n)\n-- check money: sum(a = 1)\n--     postgres: sum(b)\n\n-- why\nselect 1 from {source};\n";

    #[test]
    fn a_header_is_read() {
        let aggregate = Aggregate::parse("orders_daily", GOOD).expect("an aggregate");
        assert_eq!(aggregate.table, TableName::new("shop", "orders"));
        assert_eq!((aggregate.bucket_column.as_str(), aggregate.keys.join("+")), ("placed_at", "country+kind".into()));
        assert_eq!(aggregate.select, "-- why\nselect 1 from {source}");
        let check = &aggregate.checks[0];
        assert_eq!((check.clickhouse.as_str(), check.postgres.as_str()), ("sum(a = 1)", "sum(b)"));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, reason) in [
            ("-- table: shop.orders\n", "", "the line `-- table: …` is missing"),
            ("day(placed_at)", "week(placed_at)", "the bucket must be hour(COLUMN), day(COLUMN)"),
            ("day(placed_at)", "hour(placed_at)", "has the key hour"),
            ("-- keys: country, kind", "-- keys: country,", "keys must be columns"),
            ("-- rows: sum(n)", "-- row: sum(n)", "unknown header line \"row\""),
            ("-- rows: sum(n)", "-- table: x", "the header line \"table\" is there twice"),
            ("-- rows: sum(n)", "-- rows", "is no header line"),
            ("check money", "check rows", "is there twice"),
            ("-- check money: sum(a = 1)\n--     postgres: sum(b)", "-- check money:", "needs an expression"),
            ("{source}", "orders", "does not read {source}"),
            ("-- summary", "--     x\n-- summary", "begins with a continuation"),
        ] {
            let error = Aggregate::parse("orders_daily", &GOOD.replace(from, to)).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Aggregate::parse("Orders", GOOD).is_err() && Aggregate::parse("", GOOD).is_err());
    }

    #[test]
    fn what_does_not_change_the_result_does_not_change_its_table() {
        let aggregate = |text: &str| Aggregate::parse("orders_daily", text).expect("an aggregate");
        let good = aggregate(GOOD);
        assert_eq!(aggregate(&GOOD.replace("Orders.", "Other.").replace("sum(n)", "count()")).key(), good.key());
        for (from, to) in [("select 1", "select 2"), ("day(", "month("), (", kind", ""), ("shop.", "s.")] {
            assert_ne!(aggregate(&GOOD.replace(from, to)).key(), good.key(), "{from}");
        }
        assert_eq!(good.result_name(), good.key().replace('@', "_").replace("orders", "result_orders"));
    }

    #[test]
    fn an_hour_is_an_expression_over_the_column() {
        let text = GOOD.replace("day(placed_at)", "hour(placed_at)").replace("keys: ", "keys: hour, ");
        let aggregate = Aggregate::parse("orders", &text.replace("select 1", "select {hour} as hour")).expect("right");
        assert!(aggregate.select.contains("toIntervalHour(toHour(`placed_at`))"), "{}", aggregate.select);
    }
}
