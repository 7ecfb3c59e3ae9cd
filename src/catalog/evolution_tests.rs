//! What a mirror does when its table changes.

use super::ddl::quote_text;
use super::evolution::*;
use super::evolution::{column_comment, widens};
use super::table::{ColumnRow, TableRow};
use super::{Relation, Rules, Table, TypeRow, create_mirror};
use crate::domain::TableName;

/// Columns as `(attnum, name, type, NOT NULL, missing value)`; the first is the key.
type Shape<'a> = &'a [(i16, &'a str, &'a str, bool, Option<&'a str>)];

fn table(shape: Shape<'_>, relation: Relation) -> Table {
    let columns = shape.iter().enumerate().map(|(at, (attnum, name, kind, not_null, missing))| {
        let (kind, modifier) = match *kind {
            "numeric(4,2)" => ("numeric", ((4 << 16) | 2) + 4),
            "numeric(6,3)" => ("numeric", ((6 << 16) | 3) + 4),
            other => (other, -1),
        };
        ColumnRow {
            xmin: String::new(),
            attnum: *attnum,
            generated: false,
            missing_value: missing.map(str::to_owned),
            name: (*name).to_owned(),
            not_null: *not_null,
            key_position: (at == 0).then_some(0),
            type_text: format!("{kind} {modifier}"),
            type_row: TypeRow { name: kind.to_owned(), kind: 'b', modifier, element: None },
        }
    });
    let row = TableRow {
        name: TableName::new("public", "t"),
        relation,
        kind: 'r',
        filtered: false,
        identity: 'f',
        columns: columns.collect(),
    };
    Table::from_row(row, &Rules::default()).expect("mirrored")
}

/// The mirror that a load would make of `table`.
fn mirror(table: &Table) -> Mirror {
    assert!(create_mirror(table).contains(&quote_text(&table.relation().to_comment(&table.key_attnums()))));
    let columns = table.columns().iter().map(|column| MirrorColumn {
        name: column.name().to_owned(),
        kind: column.codec().clickhouse_type(),
        comment: column_comment(column),
    });
    Mirror { comment: table.relation().to_comment(&table.key_attnums()), columns: columns.collect() }
}

fn relation(file_node: u32, attributes: &str) -> Relation {
    Relation { oid: 1, membership: 2, file_node, attributes: attributes.to_owned() }
}

const BEFORE: Shape<'_> = &[(1, "id", "int8", true, None), (2, "a", "int4", false, None), (3, "b", "text", true, None)];

fn evolved(shape: Shape<'_>) -> Evolution {
    let before = mirror(&table(BEFORE, relation(1, "x")));
    match compare(&before, &table(shape, relation(1, "y"))) {
        Comparison::Follows(evolution) => *evolution,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_to_do_is_nothing_done() {
    let evolution = evolved(BEFORE);
    assert_eq!((evolution.statements, evolution.reload), (Vec::new(), None));
}

#[test]
fn columns_are_added_with_what_older_rows_hold() {
    let evolution = evolved(&[
        BEFORE[0],
        BEFORE[1],
        BEFORE[2],
        (4, "c", "text", true, Some("it's")),
        (5, "d", "bool", false, None),
    ]);
    assert_eq!(
        evolution.statements,
        [
            r"alter table `mirror`.`t` add column `c` String default 'it\'s' comment 'column 4: text -1 not null' after `b`",
            "alter table `mirror`.`t` add column `d` Nullable(Bool) comment 'column 5: bool -1' after `c`",
        ]
    );
    assert_eq!(evolution.reload, None);
    let evolution = evolved(&[BEFORE[0], BEFORE[1], BEFORE[2], (4, "c", "float8", true, Some("0.1"))]);
    assert!(evolution.reload.is_some(), "its older rows are loaded");
}

#[test]
fn renames_follow_the_number_even_when_names_change_places() {
    let evolution = evolved(&[BEFORE[0], (2, "b", "int4", false, None), (3, "a", "text", true, None)]);
    let said: Vec<&str> =
        evolution.statements.iter().filter_map(|sql| sql.strip_prefix("alter table `mirror`.`t` ")).collect();
    assert_eq!(
        said,
        [
            "rename column `a` to `a_renamed_2`",
            "rename column `b` to `a`",
            "rename column `a_renamed_2` to `b`",
            // It has the name of one that was never NULL.
            "comment column `b` 'column 2: int4 -1 not null'",
        ]
    );
    assert!(evolution.reload.is_some(), "events of before look the same");
    assert_eq!(evolved(&[BEFORE[0], (2, "c", "int4", false, None), BEFORE[2]]).reload, None);
}

#[test]
fn a_name_that_is_used_again_leaves_the_history_and_loads_the_rows() {
    let evolution = evolved(&[BEFORE[0], BEFORE[2], (4, "a", "int4", false, None)]);
    assert!(evolution.statements[0].ends_with("rename column `a` to `a_dropped_2`"), "{evolution:?}");
    assert!(evolution.statements[1].contains("add column `a` Nullable(Int32)"), "{evolution:?}");
    assert!(evolution.reload.is_some_and(|why| why.contains("another one")));
}

#[test]
fn a_dropped_column_stays() {
    assert_eq!(evolved(&[BEFORE[0], BEFORE[2]]).statements, [""; 0]);
}

#[test]
fn wider_types_alter_and_others_do_not() {
    let evolution = evolved(&[BEFORE[0], (2, "a", "int8", false, None), (3, "b", "text", false, None)]);
    assert!(evolution.statements[0].contains("modify column `a` Nullable(Int64)"), "{evolution:?}");
    assert!(evolution.statements[1].contains("modify column `b` Nullable(String)"), "{evolution:?}");
    for (kind, name) in [("int2", "a"), ("text", "a"), ("uuid", "a")] {
        let narrower = table(&[BEFORE[0], (2, name, kind, false, None), BEFORE[2]], relation(1, "y"));
        let compared = compare(&mirror(&table(BEFORE, relation(1, "x"))), &narrower);
        assert!(matches!(compared, Comparison::Incompatible(_)), "{kind}: {compared:?}");
    }
    let key = table(&[(1, "key", "int8", true, None), BEFORE[1], BEFORE[2]], relation(1, "y"));
    assert!(matches!(compare(&mirror(&table(BEFORE, relation(1, "x"))), &key), Comparison::Incompatible(_)));
    assert!(widens("Decimal(4, 2)", "Nullable(Decimal(6, 3))") && !widens("Decimal(4, 2)", "Decimal(4, 3)"));
    assert!(!widens("Nullable(Int32)", "Int64") && widens("LowCardinality(String)", "String"));
}

#[test]
fn a_column_that_became_not_null_still_takes_null() {
    let evolution = evolved(&[BEFORE[0], (2, "a", "int4", true, None), BEFORE[2]]);
    let noted = "alter table `mirror`.`t` comment column `a` 'column 2: int4 -1 not null'";
    assert_eq!(evolution.statements, [noted]);
    assert_eq!(evolution.table.columns()[1].codec().clickhouse_type(), "Nullable(Int32)");
}

#[test]
fn a_column_that_may_be_null_now_is_remembered_until_a_load() {
    let before = mirror(&table(BEFORE, relation(1, "x")));
    let dropped = "alter table `mirror`.`t` modify column `b` Nullable(String) comment 'column 3: text -1";
    let now = table(&[BEFORE[0], BEFORE[1], (3, "b", "text", false, None)], relation(1, "y"));
    let Comparison::Follows(evolution) = compare(&before, &now) else { panic!("it follows") };
    assert_eq!(evolution.statements, [format!("{dropped} not null'")]);
    assert!(evolution.reload.is_some_and(|why| why.contains("column b may be NULL")));
    // The sink has done so, and stops before the load.
    let mut evolved = mirror(&now);
    evolved.columns[2].comment.push_str(" not null");
    let Comparison::Follows(again) = compare(&evolved, &now) else { panic!("it follows") };
    assert!(again.statements.is_empty() && again.reload.is_some(), "{again:?}");
    assert_eq!(loosened(&evolved, &now), ["b"]);
    let cleared = "alter table `mirror`.`t` comment column `b` 'column 3: text -1'";
    assert_eq!(follow(&evolved, &now).map(|evolution| evolution.statements), Ok(vec![cleared.to_owned()]));
    assert_eq!(follow(&before, &now).map(|evolution| evolution.statements), Ok(vec![format!("{dropped}'")]));
    assert!(loosened(&mirror(&now), &now).is_empty());
}

#[test]
fn a_name_that_was_never_null_is_remembered_for_the_column_that_has_it_now() {
    let before = mirror(&table(BEFORE, relation(1, "x")));
    for now in [
        &[BEFORE[0], (2, "b", "int4", false, None), (3, "a", "text", true, None)][..],
        &[BEFORE[0], BEFORE[1], (4, "b", "text", false, None)][..],
    ] {
        let now = table(now, relation(1, "y"));
        assert_eq!(loosened(&before, &now), ["b"]);
        let Comparison::Follows(evolution) = compare(&before, &now) else { panic!("it follows") };
        let remembers = |sql: &&String| sql.contains("`b`") && sql.contains("not null'");
        assert!(evolution.statements.iter().any(|sql| remembers(&sql)), "{evolution:?}");
    }
}

#[test]
fn another_incarnation_is_loaded_and_rewritten_rows_too() {
    let before = mirror(&table(BEFORE, relation(1, "x")));
    let other = |change: fn(&mut Relation)| {
        let mut now = relation(1, "x");
        change(&mut now);
        compare(&before, &table(BEFORE, now))
    };
    assert!(matches!(other(|now| now.oid = 9), Comparison::Replaced(_)));
    assert!(matches!(other(|now| now.membership = 9), Comparison::Replaced(_)));
    let reload = |comparison| match comparison {
        Comparison::Follows(evolution) => evolution.reload,
        other => panic!("{other:?}"),
    };
    assert_eq!(reload(other(|now| now.file_node = 9)), None, "VACUUM FULL");
    assert!(reload(other(|now| (now.file_node, now.attributes) = (9, "y".into()))).is_some());
    assert_eq!(compare(&Mirror::default(), &table(BEFORE, relation(1, "x"))), Comparison::Absent);
}
