//! What a table becomes in ClickHouse: a mirror table and the view that people query.

use super::Table;
use super::block::META_COLUMNS;
use super::evolution::column_comment;
use crate::domain::{TableName, quote_clickhouse};

/// Settings of every table whose rows must survive a power cut once they are acknowledged.
pub const CHECKPOINT_SETTINGS: &str = "fsync_after_insert = 1, fsync_part_directory = 1";

/// A range of times finds its parts of the mirror by their least and greatest value of every column of times, whatever becomes of
/// the columns. The sink leaves the indexes to merges (`src/cdc/adapters.rs`).
const INDEX_SETTING: &str = "add_minmax_index_for_temporal_columns = 1";

/// Names of the columns of the mirror table, in order.
pub fn mirror_columns(table: &Table) -> Vec<&str> {
    table.columns().iter().map(super::TableColumn::name).chain(META_COLUMNS.iter().map(|(name, _)| *name)).collect()
}

/// `CREATE TABLE` of the mirror: the newest version of each key survives merges. No `PARTITION BY`: a row may move between
/// any two partitions, and `FINAL` would show both versions.
pub fn create_mirror(table: &Table) -> String {
    let own = table.columns().iter().map(|column| {
        let comment = quote_text(&column_comment(column));
        format!("    {} {} comment {comment}", quote_clickhouse(column.name()), column.codec().clickhouse_type())
    });
    let meta = META_COLUMNS.iter().map(|(name, kind)| format!("    {} {kind}", quote_clickhouse(name)));
    let columns: Vec<String> = own.chain(meta).collect();
    let key: Vec<String> = table.key_columns().map(|column| quote_clickhouse(column.name())).collect();
    format!(
        "create table if not exists {} (\n{}\n) engine = ReplacingMergeTree(_version, _deleted) order by ({})\nsettings {CHECKPOINT_SETTINGS}, {INDEX_SETTING}\ncomment {}",
        table.name().quoted_clickhouse("mirror"),
        columns.join(",\n"),
        key.join(", "),
        quote_text(&table.relation().to_comment(&table.key_attnums())),
    )
}

/// `CREATE VIEW` of the current rows: the newest version of each key, unless it is a tombstone or below the table's floor.
/// The filter stands outside `FINAL`: a version below the floor must still hide the older ones of its key.
pub fn create_view(table: &Table) -> String {
    let columns: Vec<String> = table.columns().iter().map(|column| quote_clickhouse(column.name())).collect();
    format!(
        "create or replace view {} as select {} from {} final where _deleted = 0 and _version >= (select max(floor) from platform.floors where table = {})",
        table.name().quoted_clickhouse("analytics"),
        columns.join(", "),
        table.name().quoted_clickhouse("mirror"),
        quote_text(&table.name().mirror_name()),
    )
}

/// Name, in the database `platform`, of the view that `create_moments` makes.
pub fn moments_name(table: &TableName) -> String {
    format!("moments_{}", table.mirror_name())
}

/// `CREATE VIEW` of the keys and times of every version of every row: where to look for the rows of a range. A view, so that who may
/// not read the mirror can read ranges as cheaply. Its comment is the key: names of columns as JSON.
pub fn create_moments(table: &Table) -> String {
    let times = table.columns().iter().filter(|column| !column.is_key() && is_time(&column.codec().clickhouse_type()));
    let columns: Vec<String> = table.key_columns().chain(times).map(|column| quote_clickhouse(column.name())).collect();
    let key: Vec<&str> = table.key_columns().map(super::TableColumn::name).collect();
    format!(
        "create or replace view platform.{} as select {} from {} comment {}",
        quote_clickhouse(&moments_name(table.name())),
        columns.join(", "),
        table.name().quoted_clickhouse("mirror"),
        quote_text(&serde_json::json!(key).to_string()),
    )
}

/// Whether values of this type of ClickHouse are dates or moments.
pub fn is_time(kind: &str) -> bool {
    let bare = kind.strip_prefix("Nullable(").unwrap_or(kind);
    bare.starts_with("Date")
}

/// A text as a literal, for the statements that take no parameters.
pub(super) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::super::table::{ColumnRow, TableRow};
    use super::super::{Refusal, Relation, Rules, Table, TypeRow};
    use super::*;

    fn column(name: &str, kind: &str, not_null: bool, key_position: Option<usize>) -> ColumnRow {
        let type_row = TypeRow { name: kind.into(), kind: 'b', modifier: -1, element: None };
        ColumnRow {
            xmin: String::new(),
            attnum: 0,
            missing_value: None,
            generated: false,
            name: name.into(),
            not_null,
            key_position,
            type_text: kind.into(),
            type_row,
        }
    }

    fn row() -> TableRow {
        let mut columns = vec![
            column("b", "text", false, None),
            column("seq", "int4", true, Some(1)),
            column("tenant", "text", true, Some(0)),
            column("at", "timestamptz", false, None),
        ];
        for (column, attnum) in columns.iter_mut().zip(1..) {
            column.attnum = attnum;
        }
        let relation = Relation { oid: 1, ..Relation::default() };
        TableRow {
            name: TableName::new("public", "it's"),
            relation,
            kind: 'r',
            filtered: false,
            identity: 'd',
            columns,
        }
    }

    #[test]
    fn the_key_is_in_its_own_order_and_names_are_quoted() {
        let table = Table::from_row(row(), &Rules::default()).expect("mirrored");
        let mirror = create_mirror(&table);
        assert!(mirror.contains("order by (`tenant`, `seq`)") && mirror.contains("`b` Nullable(String)"), "{mirror}");
        assert!(create_view(&table).contains(r"where table = 'it\'s')"));
        assert_eq!(
            create_moments(&table),
            "create or replace view platform.`moments_it's` as select `tenant`, `seq`, `at` from `mirror`.`it's` comment '[\"tenant\",\"seq\"]'"
        );
    }

    #[test]
    fn refusals_name_the_reason() {
        let refused = |change: fn(&mut TableRow)| {
            let mut row = row();
            change(&mut row);
            Table::from_row(row, &Rules::default()).expect_err("refused")
        };
        assert_eq!(refused(|row| row.kind = 'p'), Refusal::Kind);
        assert!(matches!(refused(|row| row.identity = 'n'), Refusal::Identity(_)));
        assert_eq!(refused(|row| row.columns.truncate(1)), Refusal::PrimaryKey);
        assert!(refused(|row| row.columns[1].type_row.name = "point".into()).to_string().contains("column seq"));
    }
}
