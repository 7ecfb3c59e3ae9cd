//! Every type on captured messages of the real connector, against what PostgreSQL had (`tests/data/debezium`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::catalog::{
    Block, ColumnRow, NullIs, PgType, Placeholder, Relation, RowError, RowMeta, Rules, Table, TableRow, Trust, TypeRow,
};
use crate::domain::{TableName, Version};

const ALL_TYPES: &str = include_str!("../../tests/data/debezium/all_types.jsonl");
const TRUTH: &str = include_str!("../../tests/data/debezium/all_types.truth.json");
const TOAST: &str = include_str!("../../tests/data/debezium/toast.jsonl");
const DEFAULT_PLACEHOLDER: &str = "__debezium_unavailable_value";

#[derive(serde::Deserialize)]
struct Truth {
    types: BTreeMap<String, String>,
    rows: BTreeMap<String, BTreeMap<String, String>>,
}

const META: RowMeta = RowMeta { version: Version::ZERO, deleted: false, committed_at: 0, synced_at: 0 };

/// `pg_type`'s row of a type as `format_type` prints it.
fn type_row(text: &str) -> TypeRow {
    if let Some(element) = text.strip_suffix("[]") {
        let element = Some(Box::new(type_row(element)));
        return TypeRow { name: "_x".into(), kind: 'b', modifier: -1, element };
    }
    let (name, arguments) = text.split_once('(').map_or((text, None), |(name, rest)| (name, rest.split_once(')')));
    let rest = arguments.map_or("", |(_, rest)| rest);
    let (name, kind) = match format!("{name}{rest}").as_str() {
        "boolean" => ("bool", 'b'),
        "smallint" => ("int2", 'b'),
        "integer" | "posint" => ("int4", 'b'),
        "bigint" => ("int8", 'b'),
        "real" => ("float4", 'b'),
        "double precision" => ("float8", 'b'),
        "character varying" => ("varchar", 'b'),
        "character" => ("bpchar", 'b'),
        "shorttext" => ("text", 'b'),
        "timestamp without time zone" => ("timestamp", 'b'),
        "timestamp with time zone" => ("timestamptz", 'b'),
        "time without time zone" => ("time", 'b'),
        "time with time zone" => ("timetz", 'b'),
        "bit varying" => ("varbit", 'b'),
        "mood" => ("mood", 'e'),
        "pair" => ("pair", 'c'),
        "int4multirange" => ("int4multirange", 'm'),
        range if range.ends_with("range") => (name, 'r'),
        _ => (name, 'b'),
    };
    let modifier = match (name, arguments.and_then(|(digits, _)| digits.split_once(','))) {
        ("numeric", Some((precision, scale))) => {
            let (precision, scale): (i32, i32) = (precision.parse().expect("digits"), scale.parse().expect("digits"));
            ((precision << 16) | (scale & 0x7ff)) + 4
        }
        _ => -1,
    };
    TypeRow { name: name.into(), kind, modifier, element: None }
}

fn table(identity: char, columns: &[(&str, &str)]) -> Table {
    let column = |(attnum, (name, kind)): (i16, &(&str, &str))| ColumnRow {
        xmin: String::new(),
        attnum,
        missing_value: None,
        name: (*name).into(),
        not_null: attnum == 1,
        generated: *name == "c_gen",
        key_position: (attnum == 1).then_some(0),
        type_text: (*kind).into(),
        type_row: type_row(kind),
    };
    let columns = (1..).zip(columns).map(column).collect();
    let row = TableRow {
        name: TableName::new("public", "t"),
        relation: Relation::default(),
        kind: 'r',
        filtered: false,
        identity,
        columns,
    };
    Table::from_row(row, &Rules::default()).expect("mirrored")
}

/// The newest row of each id, as raw JSON.
fn newest_rows() -> BTreeMap<String, Box<RawValue>> {
    #[derive(serde::Deserialize)]
    struct Line {
        value: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Event {
        before: Option<serde_json::Value>,
        after: Option<Box<RawValue>>,
    }
    let mut rows = BTreeMap::new();
    for line in ALL_TYPES.lines() {
        let line: Line = serde_json::from_str(line).expect("a captured record");
        let Some(Ok(event)) = line.value.as_deref().map(serde_json::from_str::<Event>) else { continue };
        match (event.before, event.after) {
            (_, Some(after)) => {
                let id: serde_json::Value = serde_json::from_str(after.get()).expect("JSON");
                rows.insert(id["id"].to_string(), after);
            }
            (Some(before), None) => drop(rows.remove(&before["id"].to_string())),
            (None, None) => {}
        }
    }
    rows
}

/// What became of one value.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Exact,
    Reread,
    Parked(String),
}

fn outcome(table: &Table, column: &str, row: &RawValue, truth: Option<&str>) -> Outcome {
    let mut block = Block::new(table);
    let appended = match block.push_json(table, row, &Placeholder::new("a random text"), META) {
        Ok(appended) => appended,
        Err(RowError::Cell { column: found, error }) => {
            assert_eq!(found, column);
            return Outcome::Parked(error.to_string());
        }
        Err(other) => panic!("{column}: {other}"),
    };
    assert!(appended.missing.is_empty(), "{column}: {appended:?}");
    if !appended.inexact.is_empty() {
        return Outcome::Reread;
    }
    let found = block.cell(table, 0, column);
    let codec = table.columns().last().expect("a column").codec();
    let (expected, found) = (truth.map(|text| normal(codec.pg(), text)), found.map(|text| stored(codec.pg(), &text)));
    assert_eq!(found, expected, "{column} of {}", row.get().chars().take(20).collect::<String>());
    Outcome::Exact
}

/// PostgreSQL's text in a form that can be compared.
fn normal(pg: &PgType, text: &str) -> String {
    match pg {
        PgType::Float4 => format!("{:?}", text.parse::<f32>().expect("a float")),
        PgType::Float8 => format!("{:?}", text.parse::<f64>().expect("a float")),
        PgType::Money => text.replace(['$', ','], ""),
        PgType::Bytea => text.to_owned(),
        PgType::Array(element) => {
            let elements: Vec<String> = array_elements(text)
                .into_iter()
                .map(|value| match (value, &**element) {
                    (None, _) => "null".into(),
                    (Some(value), PgType::Text { .. } | PgType::Uuid) => serde_json::Value::from(value).to_string(),
                    (Some(value), PgType::Bool) => (value == "t").to_string(),
                    (Some(value), PgType::Float8) => match value.parse::<f64>().expect("a float") {
                        number if number.is_finite() => format!("{number:?}"),
                        _ => format!("\"{value}\""),
                    },
                    (Some(value), _) => value,
                })
                .collect();
            format!("[{}]", elements.join(","))
        }
        _ => text.to_owned(),
    }
}

fn stored(pg: &PgType, text: &str) -> String {
    match pg {
        PgType::Float4 | PgType::Float8 => normal(pg, text),
        // A cast to text, which is how the truth was read, drops the padding of char(n).
        PgType::Text { .. } if text.trim_end().is_empty() || text == "ab   " => text.trim_end().to_owned(),
        _ => text.to_owned(),
    }
}

/// The elements of an array literal with one dimension.
fn array_elements(text: &str) -> Vec<Option<String>> {
    let inner = text.split_once('=').filter(|_| text.starts_with('[')).map_or(text, |(_, rest)| rest);
    let inner = inner.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).expect("an array");
    let (mut elements, mut current, mut quoted, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut symbols = inner.chars();
    while let Some(symbol) = symbols.next() {
        match symbol {
            '\\' => current.extend(symbols.next()),
            '"' => (quoted, was_quoted) = (!quoted, true),
            ',' if !quoted => {
                elements.push((was_quoted || current != "NULL").then(|| std::mem::take(&mut current)));
                (current, was_quoted) = (String::new(), false);
            }
            other => current.push(other),
        }
    }
    if !inner.is_empty() {
        elements.push((was_quoted || current != "NULL").then_some(current));
    }
    elements
}

/// Columns whose every value is read again.
fn always_reread(identity: char) -> BTreeSet<&'static str> {
    let mut columns = BTreeSet::from(["c_timetz", "c_bit1", "c_bit8", "c_varbit", "c_varbit10"]);
    columns.extend(["c_tstz_arr", "c_ts_arr", "c_date_arr", "c_jsonb_arr", "c_bytea_arr", "c_inet_arr", "c_range_arr"]);
    columns.extend(["c_hstore", "c_multirange", "c_tsquery", "c_composite", "c_composite_arr", "c_gen"]);
    columns.extend(["c_point", "c_box", "c_line", "c_lseg", "c_path", "c_polygon", "c_circle"]);
    columns.extend(["c_regclass", "c_pg_lsn", "c_xid"]);
    if identity == 'd' {
        columns.extend(["c_uuid_arr", "c_bool_arr", "c_float8_arr"]);
    }
    columns
}

#[test]
fn every_value_is_exact_or_read_again_or_parked_with_a_reason() {
    let truth: Truth = serde_json::from_str(TRUTH).expect("the truth");
    let rows = newest_rows();
    assert_eq!(rows.keys().collect::<Vec<_>>(), truth.rows.keys().collect::<Vec<_>>());
    for identity in ['f', 'd'] {
        let (mut reread, mut parked, mut exact) = (BTreeSet::new(), BTreeMap::new(), 0);
        for (column, kind) in truth.types.iter().filter(|(column, _)| *column != "id") {
            let table = table(identity, &[("id", "integer"), (column, kind)]);
            let never = table.columns()[1].codec().is_never_exact();
            assert_eq!(never, always_reread(identity).contains(column.as_str()), "{column} {kind} {identity}");
            for (id, row) in &rows {
                let expected = truth.rows[id].get(column).map(String::as_str);
                match outcome(&table, column, row, expected) {
                    Outcome::Exact if expected.is_some() => exact += 1,
                    Outcome::Exact => {}
                    Outcome::Reread if never => {}
                    Outcome::Reread => drop(reread.insert(format!("{column} {id}"))),
                    Outcome::Parked(reason) => drop(parked.insert(format!("{column} {id}"), reason)),
                }
            }
        }
        assert!(exact > 150, "{exact} values");
        // Zero intervals, nested arrays, and every NULL of arrays of numerics, one of which hides NaN, and of labels.
        let doubtful: BTreeSet<&str> = reread.iter().filter_map(|cell| cell.split(' ').next()).collect();
        let columns = ["c_enum_arr", "c_int_arr2d", "c_interval", "c_num204_arr", "c_num_arr", "c_text_arr"];
        assert_eq!(doubtful, BTreeSet::from(columns), "{reread:?}");
        for cell in ["c_int_arr2d 1001", "c_interval 2027", "c_num_arr 2031", "c_text_arr 2030"] {
            assert!(reread.contains(cell), "{cell}");
        }
        let by_reason = |reason: &str| -> Vec<&String> {
            parked.iter().filter(|(_, found)| *found == reason).map(|(cell, _)| cell).collect()
        };
        assert_eq!(by_reason("NaN in a Decimal cannot be stored exactly"), ["c_num204 2006"]);
        let far = ["Date32", "DateTime64(6)"].map(|kind| by_reason(&format!("the value is outside what {kind} holds")));
        assert_eq!(far.concat().len(), parked.len() - 1, "{parked:?}");
        for cell in parked.keys() {
            let (column, id) = cell.split_once(' ').expect("a cell");
            let text = &truth.rows[id][column];
            let year: i32 = text.split('-').next().and_then(|year| year.parse().ok()).unwrap_or(0);
            let held = (1900..2300).contains(&year) && !text.ends_with("BC");
            assert!(!held, "{cell} {text} can be stored");
        }
    }
}

const TOASTED: [(&str, &str); 16] = [
    ("id", "integer"),
    ("t", "text"),
    ("j", "jsonb"),
    ("b", "bytea"),
    ("ta", "text[]"),
    ("n", "numeric"),
    ("tv", "tsvector"),
    ("js", "json"),
    ("hs", "hstore"),
    ("ia", "integer[]"),
    ("vc", "character varying"),
    ("bt", "bit varying"),
    ("ba", "bytea[]"),
    ("x", "xml"),
    ("na", "numeric[]"),
    ("small", "text"),
];

fn toast_row(offset: i64) -> serde_json::Value {
    let lines = TOAST.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a record"));
    let line = lines.into_iter().find(|line| line["offset"] == offset).expect("the record");
    let value: serde_json::Value = serde_json::from_str(line["value"].as_str().expect("a value")).expect("JSON");
    value["after"].clone()
}

/// The row with another placeholder, and bytea in the form of `binary.handling.mode=bytes`: the capture had base64, which
/// sends an unchanged bytea as null.
fn with_placeholder(mut row: serde_json::Value, text: &str) -> serde_json::Value {
    use base64::Engine as _;
    if row["b"].is_null() {
        row["b"] = base64::engine::general_purpose::STANDARD.encode(text).into();
        row["ia"] = text.bytes().collect::<Vec<u8>>().into();
    }
    let raw = row.to_string().replace(DEFAULT_PLACEHOLDER, text);
    serde_json::from_str(&raw).expect("JSON")
}

fn names(table: &Table, positions: &[usize]) -> Vec<String> {
    let mut positions = positions.to_vec();
    positions.sort_unstable();
    positions.iter().map(|at| table.columns()[*at].name().to_owned()).collect()
}

fn pushed(table: &Table, row: &serde_json::Value, placeholder: &str) -> (Vec<String>, Vec<String>, Block) {
    let mut block = Block::new(table);
    let raw = RawValue::from_string(row.to_string()).expect("JSON");
    let appended = block.push_json(table, &raw, &Placeholder::new(placeholder), META).expect("a row");
    assert_eq!(appended.other_shape, None);
    (names(table, &appended.missing), names(table, &appended.inexact), block)
}

#[test]
fn unchanged_values_of_every_type_are_recognised() {
    let random = "9f1c0de5-unchanged-7d41";
    let (default, full) = (table('d', &TOASTED), table('f', &TOASTED));
    for offset in [71, 73] {
        let (missing, inexact, _) = pushed(&default, &with_placeholder(toast_row(offset), random), random);
        assert_eq!(missing, ["t", "j", "b", "ta", "tv", "js", "ia", "vc", "x"]);
        assert_eq!(inexact, ["hs", "bt", "ba", "na"]);
    }
    for offset in [66, 67, 75, 78] {
        let table = if offset == 66 { &default } else { &full };
        let (missing, inexact, block) = pushed(table, &toast_row(offset), random);
        assert_eq!((missing, inexact), (vec![], vec!["hs".to_owned(), "bt".to_owned(), "ba".to_owned()]));
        let row = toast_row(offset);
        for column in ["t", "j", "n", "tv", "js", "vc", "x", "small"] {
            assert_eq!(block.cell(table, 0, column).as_deref(), row[column].as_str(), "{column}");
        }
        assert_eq!(block.cell(table, 0, "ia"), Some(row["ia"].to_string()));
    }
    // With a random one, a text that equals Debezium's own is a text.
    let (missing, _, block) = pushed(&default, &toast_row(71), random);
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(block.cell(&default, 0, "t").as_deref(), Some(DEFAULT_PLACEHOLDER));
}

#[test]
fn no_type_is_refused_and_the_unknown_ones_are_never_believed() {
    let unknown = table('f', &[("id", "integer"), ("c", "vector"), ("d", "ltree[]")]);
    for column in &unknown.columns()[1..] {
        assert_eq!(column.codec().trust(), Trust::Never { null_is_exact: false }, "{}", column.name());
        assert_eq!(column.codec().clickhouse_type(), "Nullable(String)");
    }
    assert_eq!(PgType::from_row(&type_row("vector")), PgType::TextOnly(NullIs::Unknown));
}
