//! The log's form and PostgreSQL's own form of a value end in the same bytes, or both are refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::column::Column;
use super::json_row::Placeholder;
use super::{Block, Codec, ColumnRow, PgType, Relation, RowMeta, Rules, Table, TableRow, TypeRow};
use crate::domain::{TableName, Version};

/// Microseconds and days from 1970 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// A value in both forms; `None` is NULL.
#[derive(Debug, Clone)]
struct Both {
    json: Value,
    binary: Option<Vec<u8>>,
}

impl Both {
    fn new(json: impl Into<Value>, binary: impl AsRef<[u8]>) -> Self {
        Self { json: json.into(), binary: Some(binary.as_ref().to_vec()) }
    }
}

fn native(block: &Block, table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    block.write_native(table, &mut out);
    out
}

fn table(kind: &str, modifier: i32, not_null: bool) -> Table {
    let base = |name: &str, modifier| TypeRow { name: name.into(), kind: 'b', modifier, element: None };
    let type_row = match kind.strip_suffix("[]") {
        Some(element) => TypeRow { element: Some(Box::new(base(element, modifier))), ..base("_x", -1) },
        None => base(kind, modifier),
    };
    let column = |attnum: i16, name: &str, type_row, not_null| ColumnRow {
        xmin: String::new(),
        attnum,
        missing_value: None,
        name: name.into(),
        not_null,
        generated: false,
        key_position: (attnum == 1).then_some(0),
        type_text: kind.into(),
        type_row,
    };
    let columns = vec![column(1, "id", base("int4", -1), true), column(2, "c", type_row, not_null)];
    let row = TableRow {
        name: TableName::new("public", "t"),
        relation: Relation::default(),
        kind: 'r',
        filtered: false,
        identity: 'f',
        columns,
    };
    Table::from_row(row, &Rules::default()).expect("mirrored")
}

/// Bytes of the block after each path; an error and a doubt are nothing.
fn both_paths(table: &Table, value: &Both) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let meta = RowMeta { version: Version::ZERO, deleted: false, committed_at: 0, synced_at: 0 };
    let row = json!({ "id": 1, "c": value.json }).to_string();
    let row = serde_json::value::RawValue::from_string(row).expect("JSON");
    let mut from_log = Block::new(table);
    let appended = from_log.push_json(table, &row, &Placeholder::new("P"), meta);
    let log = appended.is_ok_and(|appended| appended.inexact.is_empty()).then(|| native(&from_log, table));
    let mut from_copy = Block::new(table);
    let cells = [Some(&1i32.to_be_bytes()[..]), value.binary.as_deref()];
    let copied = from_copy.push_cells(table, cells.into_iter(), meta).is_ok();
    (log, copied.then(|| native(&from_copy, table)))
}

fn float4() -> impl Strategy<Value = Both> {
    any::<u32>().prop_map(|bits| {
        let value = f32::from_bits(bits);
        let text = serde_json::to_string(&value).expect("a number");
        Both::new(special(value.into()).unwrap_or_else(|| text.parse().expect("a number")), value.to_be_bytes())
    })
}

fn float8() -> impl Strategy<Value = Both> {
    any::<u64>().prop_map(|bits| {
        let value = f64::from_bits(bits);
        Both::new(special(value).unwrap_or_else(|| value.into()), value.to_be_bytes())
    })
}

fn special(value: f64) -> Option<Value> {
    let word = match value {
        value if value.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return None,
    };
    Some(word.into())
}

/// PostgreSQL's binary numeric of `value` in units of 10^−4.
fn numeric(value: i128) -> Both {
    let digits = value.unsigned_abs();
    let (whole, fraction) = (digits / 10_000, digits % 10_000);
    let mut groups: Vec<u16> = Vec::new();
    let mut rest = whole;
    while rest > 0 {
        groups.insert(0, u16::try_from(rest % 10_000).expect("a group"));
        rest /= 10_000;
    }
    let weight = i16::try_from(groups.len()).expect("few") - 1;
    groups.push(u16::try_from(fraction).expect("a group"));
    let mut bytes = u16::try_from(groups.len()).expect("few").to_be_bytes().to_vec();
    bytes.extend(weight.to_be_bytes());
    bytes.extend(if value < 0 { [0x40, 0] } else { [0, 0] });
    bytes.extend([0, 4]);
    bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
    let sign = if value < 0 { "-" } else { "" };
    Both::new(format!("{sign}{whole}.{fraction:04}"), bytes)
}

fn micros() -> impl Strategy<Value = i64> {
    prop_oneof![-3_000_000_000_000_000..11_000_000_000_000_000i64, i64::MIN / 2..i64::MAX / 2]
}

fn timestamptz(micros: i64) -> Option<Both> {
    let time = chrono::DateTime::from_timestamp_micros(micros)?;
    let text = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    Some(Both::new(text, (micros - EPOCH_MICROS).to_be_bytes()))
}

fn scalar() -> impl Strategy<Value = (&'static str, Both)> {
    prop_oneof![
        any::<bool>().prop_map(|value| ("bool", Both::new(value, [u8::from(value)]))),
        any::<i16>().prop_map(|value| ("int2", Both::new(value, value.to_be_bytes()))),
        any::<i32>().prop_map(|value| ("int4", Both::new(value, value.to_be_bytes()))),
        any::<i64>().prop_map(|value| ("int8", Both::new(value, value.to_be_bytes()))),
        any::<u32>().prop_map(|value| ("oid", Both::new(value, value.to_be_bytes()))),
        float4().prop_map(|value| ("float4", value)),
        float8().prop_map(|value| ("float8", value)),
        (-20_000_000_000_000_000_000_000i128..20_000_000_000_000_000_000_000)
            .prop_map(|value| ("numeric", numeric(value))),
        any::<u128>()
            .prop_map(|value| { ("uuid", Both::new(uuid::Uuid::from_u128(value).to_string(), value.to_be_bytes())) }),
        prop_oneof![-30_000..130_000i32, i32::MIN / 2..i32::MAX / 2]
            .prop_map(|days| ("date", Both::new(days, (days - EPOCH_DAYS).to_be_bytes()))),
        micros().prop_map(|value| ("timestamp", Both::new(value, (value - EPOCH_MICROS).to_be_bytes()))),
        micros().prop_filter_map("a time", timestamptz).prop_map(|value| ("timestamptz", value)),
        any::<String>().prop_map(|value| ("text", Both::new(value.as_str(), value.as_bytes()))),
        any::<String>().prop_map(|value| ("jsonb", Both::new(value.as_str(), [b"\x01", value.as_bytes()].concat()))),
        any::<Vec<u8>>().prop_map(|value| {
            use base64::Engine as _;
            ("bytea", Both::new(base64::engine::general_purpose::STANDARD.encode(&value), value))
        }),
        "[0-9a-f.:]{1,9}(/[0-9]{1,2})?".prop_map(|text| {
            let cast = match (text.contains('/'), text.contains(':')) {
                (true, _) => text.clone(),
                (false, true) => format!("{text}/128"),
                (false, false) => format!("{text}/32"),
            };
            ("inet", Both::new(text, cast))
        }),
    ]
}

/// `numeric(22, 4)`.
const NUMERIC: i32 = ((22 << 16) | 4) + 4;

fn modifier(kind: &str) -> i32 {
    if kind.starts_with("numeric") { NUMERIC } else { -1 }
}

/// An array in PostgreSQL's binary form.
fn array(elements: &[Option<Both>], lower_bound: i32) -> Both {
    let mut bytes = i32::from(!elements.is_empty()).to_be_bytes().to_vec();
    bytes.extend([0; 8]);
    if !elements.is_empty() {
        bytes.extend(i32::try_from(elements.len()).expect("few").to_be_bytes());
        bytes.extend(lower_bound.to_be_bytes());
    }
    for element in elements {
        match element.as_ref().and_then(|element| element.binary.as_ref()) {
            None => bytes.extend((-1i32).to_be_bytes()),
            Some(binary) => {
                bytes.extend(i32::try_from(binary.len()).expect("short").to_be_bytes());
                bytes.extend(binary);
            }
        }
    }
    let json: Vec<Value> =
        elements.iter().map(|element| element.as_ref().map_or(Value::Null, |element| element.json.clone())).collect();
    Both::new(json, bytes)
}

proptest! {
    #[test]
    fn both_forms_of_a_value_end_in_the_same_bytes((kind, value) in scalar(), not_null: bool) {
        let (log, copy) = both_paths(&table(kind, modifier(kind), not_null), &value);
        prop_assert_eq!(log, copy);
    }

    #[test]
    fn both_forms_of_an_array_end_in_the_same_bytes(
        elements in prop_oneof![
            prop::collection::vec(prop::option::of(float4()), 0..5).prop_map(|elements| ("float4[]", elements)),
            prop::collection::vec(prop::option::of(float8()), 0..5).prop_map(|elements| ("float8[]", elements)),
            prop::collection::vec(prop::option::of(any::<i64>().prop_map(|value| Both::new(value, value.to_be_bytes()))), 0..5)
                .prop_map(|elements| ("int8[]", elements)),
            prop::collection::vec(prop::option::of(any::<bool>().prop_map(|value| Both::new(value, [u8::from(value)]))), 0..5)
                .prop_map(|elements| ("bool[]", elements)),
            prop::collection::vec(prop::option::of(any::<String>().prop_map(|value| Both::new(value.as_str(), value.as_bytes()))), 0..5)
                .prop_map(|elements| ("text[]", elements)),
            prop::collection::vec(prop::option::of((-9_999_999_999i128..9_999_999_999).prop_map(numeric)), 0..5)
                .prop_map(|elements| ("numeric[]", elements)),
        ],
        lower_bound in 0..3i32,
        not_null: bool,
    ) {
        let (kind, elements) = elements;
        // All NULL may be an array of arrays: it is read again, and so are the numerics whose JSON PostgreSQL writes itself.
        let doubtful = !elements.is_empty() && elements.iter().all(Option::is_none);
        let value = array(&elements, lower_bound);
        let (log, copy) = both_paths(&table(kind, modifier(kind), not_null), &value);
        if doubtful {
            prop_assert_eq!(log, None);
        } else if kind == "numeric[]" && !not_null {
            prop_assert!(log.is_some());
        } else {
            prop_assert!(copy.is_some());
            prop_assert_eq!(log, copy);
        }
    }
}

#[test]
fn an_array_of_arrays_is_stored_nested_or_refused() {
    let mut bytes = Vec::new();
    for word in [2, 0, 25, 2, 1, 1, 5] {
        bytes.extend(i32::to_be_bytes(word));
    }
    for text in ["a", "\"b\""] {
        bytes.extend(i32::try_from(text.len()).expect("short").to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    let texts = || PgType::Array(Box::new(PgType::Text { label: false }));
    let nullable = Codec::new(texts(), true);
    let mut column: Column = nullable.new_column();
    nullable.push_binary(&mut column, Some(&bytes)).expect("stored");
    assert_eq!(column.get(0), Some(&br#"[["a"],["\"b\""]]"#[..]));
    let plain = Codec::new(texts(), false);
    let refused = plain.push_binary(&mut plain.new_column(), Some(&bytes)).expect_err("refused");
    assert_eq!(refused.to_string(), "an array with several dimensions cannot be stored exactly");
}
