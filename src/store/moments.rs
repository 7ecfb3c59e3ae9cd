//! The rows of a range of times, as a table's view gives them: exactly, and at the cost of the range where it is narrow.

use serde::Deserialize;

use super::checkpoint::text;
use super::clickhouse::{ClickHouse, Error};
use crate::catalog::moments_name;
use crate::domain::{TableName, quote_clickhouse};

/// Most versions whose keys are looked up one by one. Above, and above a fifth of the table, the whole table is read: then that is
/// faster (the crossing was measured at a fifth to a half), and a set of keys takes about 100 bytes each.
const VERSIONS_MAX: u64 = 2_000_000;
/// Part of the table's versions above which the whole table is read: one in so many.
const PART: u64 = 5;
/// Versions of a table below which it is read whole without further ado: to plan the search takes 5 ms of CPU, about what merging
/// so many versions takes.
const SMALL: u64 = 100_000;

/// ClickHouse's code for a table that is not there.
const UNKNOWN_TABLE: u32 = 60;

/// The view of keys and times of every version of a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moments {
    view: String,
    key: String,
    columns: Vec<String>,
    /// Of all rows, when it was looked up.
    versions: u64,
}

impl Moments {
    /// Looks it up; `None` for what is no mirrored table, and for a mirror without it, which was made by an earlier version of the
    /// program and has not been loaded or changed since.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn find(clickhouse: &ClickHouse, table: &TableName) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Row {
            comment: String,
            columns: Vec<String>,
        }
        let name = moments_name(table);
        let sql = "select comment, (select groupArray(name) from system.columns where database = 'platform' and table = {name:String}) \
                   as columns from system.tables where database = 'platform' and name = {name:String}";
        let row: Option<Row> = clickhouse.fetch_optional(sql, &[("name", &name)]).await?;
        let found = row.and_then(|row| Self::new(&name, &row.comment, row.columns));
        let Some(moments) = found else { return Ok(None) };
        let versions = moments.count(clickhouse).await?;
        Ok(Some(Self { versions, ..moments }))
    }

    /// Out of what ClickHouse knows of its parts: it reads nothing.
    async fn count(&self, clickhouse: &ClickHouse) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(with = "text")]
            versions: u64,
        }
        let sql = format!("select count() as versions from {}", self.view);
        match clickhouse.fetch_optional(&sql, &[]).await {
            Ok(row) => Ok(row.map_or(0, |row: Row| row.versions)),
            // A load is making the mirror anew.
            Err(error) if error.code() == Some(UNKNOWN_TABLE) => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn new(name: &str, comment: &str, columns: Vec<String>) -> Option<Self> {
        let key: Vec<String> = serde_json::from_str(comment).ok()?;
        let key: Vec<String> = key.iter().map(|column| quote_clickhouse(column)).collect();
        let view = format!("platform.{}", quote_clickhouse(name));
        (!key.is_empty()).then(|| Self { view, key: key.join(", "), columns, versions: 0 })
    }

    /// The view, when it has this column.
    pub fn with(&self, column: &str) -> Option<&str> {
        self.columns.iter().any(|known| known == column).then_some(self.view.as_str())
    }
}

/// The rows of a table's view for which `condition` holds, which is of nothing but `column`: something to select from, in one line.
pub fn rows(table: &TableName, moments: Option<&Moments>, column: &str, condition: &str) -> String {
    let shown = table.quoted_clickhouse("analytics");
    let known = moments.filter(|moments| moments.versions >= SMALL);
    let Some((Moments { key, versions, .. }, view)) = known.and_then(|known| Some((known, known.with(column)?))) else {
        return format!("(select * from {shown} where {condition})");
    };
    // A row that is in the range now has a version in the range, so the view under this condition has all of them, whatever the
    // versions are at the moment; and ClickHouse may look for keys before it merges versions, as it does. The count is computed
    // before the SELECT is planned: of the two sides of `or` one is left.
    let limit = VERSIONS_MAX.min(versions / PART);
    format!(
        "(select * from {shown} where ((select count() from {view} where {condition}) > {limit} \
         or ({key}) in (select {key} from {view} where {condition})) and {condition})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_moments_of_the_column_and_of_a_small_table_the_view_is_read() {
        let table = TableName::from_argument("shop.orders");
        let moments = Moments::new("moments_shop.orders", r#"["tenant","n`r"]"#, vec!["tenant".into(), "at".into()]);
        let moments = Moments { versions: SMALL, ..moments.expect("a key") };
        let plain = "(select * from `analytics`.`shop.orders` where x)";
        assert_eq!(rows(&table, None, "at", "x"), plain);
        assert_eq!(rows(&table, Some(&moments), "other", "x"), plain);
        let flat = rows(&table, Some(&moments), "at", "x");
        let set = r"(`tenant`, `n\`r`) in (select `tenant`, `n\`r` from platform.`moments_shop.orders` where x)";
        assert!(flat.contains(set) && flat.ends_with("and x)") && !flat.contains('\n'), "{flat}");
        assert!(flat.contains(&format!(" > {} or ", SMALL / PART)), "{flat}");
        let small = Moments { versions: SMALL - 1, ..moments.clone() };
        assert_eq!(rows(&table, Some(&small), "at", "x"), plain);
        let vast = Moments { versions: u64::MAX, ..moments };
        assert!(rows(&table, Some(&vast), "at", "x").contains(&format!(" > {VERSIONS_MAX} or ")));
        assert_eq!(Moments::new("m", "somebody's view", Vec::new()), None);
    }
}
