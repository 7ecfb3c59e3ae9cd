//! What a table becomes in ClickHouse: a mirror table and the view that people query.

use super::Table;
use super::block::META_COLUMNS;
use super::evolution::column_comment;
use crate::domain::quote_clickhouse;

/// Settings of every table whose rows must survive a power cut once they are acknowledged.
pub const CHECKPOINT_SETTINGS: &str = "fsync_after_insert = 1, fsync_part_directory = 1";

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
        "create table if not exists {} (\n{}\n) engine = ReplacingMergeTree(_version, _deleted) order by ({})\nsettings {CHECKPOINT_SETTINGS}\ncomment {}",
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

/// A text as a literal, for the statements that take no parameters.
pub(super) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::super::table::{ColumnRow, TableRow};
    use super::super::{Refusal, Relation, Rules, Table, TypeRow};
    use super::*;
    use crate::domain::TableName;

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
