//! Arrays as JSON: how Debezium sends them, and how a nullable one is stored.

use serde_json::Value;

use super::PgType;
use super::binary_cell::{ARRAY, take_cell};
use super::codec::{CellError, Codec};
use super::column::Column;
use super::postgres_text::{float_special, numeric_text};
use super::trust::is_java_object;

/// Appends an array from an event.
///
/// # Errors
/// `CellError::Inexact` for everything that may be what Debezium makes of another array: the row is then read again, and the
/// truth is judged.
pub(super) fn push(codec: &Codec, column: &mut Column, elements: &[Value]) -> Result<(), CellError> {
    let element_codec = codec.element().ok_or(CellError::Malformed("a plain value, not an array"))?;
    if may_be_nested(elements) {
        return Err(CellError::Inexact);
    }
    if codec.is_json_array() {
        let mut scratch = element_codec.new_column();
        elements.iter().try_for_each(|element| push_element(&element_codec, &mut scratch, element))?;
        let text = match element_codec.pg() {
            pg if pg.is_numeric() => numbers(elements),
            PgType::Float4 => floats(elements),
            _ => serde_json::to_string(elements).map_err(|_| CellError::Inexact)?,
        };
        column.push(text.as_bytes());
        return Ok(());
    }
    let inner = column.elements().ok_or(CellError::Malformed("a plain value, not an array"))?;
    elements.iter().try_for_each(|element| push_element(&element_codec, inner, element))?;
    column.end_array();
    Ok(())
}

/// Of an array with several dimensions Debezium sends the outer one, with NULL or Java's name of an object in place of each
/// inner one.
fn may_be_nested(elements: &[Value]) -> bool {
    let all_null = !elements.is_empty() && elements.iter().all(Value::is_null);
    all_null || elements.iter().any(|element| element.as_str().is_some_and(is_java_object))
}

fn push_element(codec: &Codec, column: &mut Column, element: &Value) -> Result<(), CellError> {
    let pushed = match element {
        Value::Null => codec.push_null(column),
        Value::Bool(value) => codec.push_bool(column, *value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => codec.push_int(column, value),
            (None, Some(value)) => codec.push_float(column, value),
            (None, None) => Err(CellError::Inexact),
        },
        Value::String(text) => codec.push_text(column, text),
        Value::Array(_) | Value::Object(_) => Err(CellError::Inexact),
    };
    pushed.map_err(|_| CellError::Inexact)
}

/// Numerics come as strings, and are JSON numbers in what PostgreSQL's `array_to_json` prints.
fn numbers(elements: &[Value]) -> String {
    let number = |element: &Value| match element.as_str().map(numeric_text) {
        None => "null".to_owned(),
        Some(word) if matches!(&*word, "NaN" | "Infinity" | "-Infinity") => format!("\"{word}\""),
        Some(digits) => digits.into_owned(),
    };
    format!("[{}]", elements.iter().map(number).collect::<Vec<_>>().join(","))
}

/// `real` values, whose digits Java chooses otherwise for the smallest ones.
fn floats(elements: &[Value]) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "the text was one of a float4")]
    let float = |element: &Value| match element.as_f64() {
        Some(value) => float4(value as f32),
        None => element.to_string(),
    };
    format!("[{}]", elements.iter().map(float).collect::<Vec<_>>().join(","))
}

/// A `real` with its own shortest digits, not those of the double that is equal to it.
fn float4(value: f32) -> String {
    value.to_string().parse::<f64>().map_or_else(|_| value.to_string(), float8)
}

fn float8(value: f64) -> String {
    match (float_special(value), serde_json::Number::from_f64(value)) {
        (None, Some(number)) => number.to_string(),
        (word, _) => format!("\"{}\"", word.unwrap_or("NaN")),
    }
}

/// Writes an array in PostgreSQL's binary form as JSON, nested as `counts` says; elements look as Debezium's JSON has them.
pub(super) fn write_binary(
    text: &mut Vec<u8>,
    pg: &PgType,
    counts: &[i32],
    bytes: &mut &[u8],
) -> Result<(), CellError> {
    text.push(b'[');
    if let Some((count, inner)) = counts.split_first() {
        for index in 0..*count {
            if index > 0 {
                text.push(b',');
            }
            if inner.is_empty() {
                write_element(text, pg, take_cell(bytes)?)?;
            } else {
                write_binary(text, pg, inner, bytes)?;
            }
        }
    }
    text.push(b']');
    Ok(())
}

fn write_element(text: &mut Vec<u8>, pg: &PgType, bytes: Option<&[u8]>) -> Result<(), CellError> {
    let Some(bytes) = bytes else {
        text.extend_from_slice(b"null");
        return Ok(());
    };
    let plain = match pg {
        PgType::Bool => (bytes == [1]).to_string(),
        PgType::Int2 => i16::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?).to_string(),
        PgType::Int4 => i32::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?).to_string(),
        PgType::Int8 => i64::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?).to_string(),
        PgType::Float4 => float4(f32::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?)),
        PgType::Float8 => float8(f64::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?)),
        PgType::Uuid => format!("\"{}\"", uuid::Uuid::from_slice(bytes).map_err(|_| ARRAY)?),
        _ => {
            let element = std::str::from_utf8(bytes).map_err(|_| CellError::Malformed("UTF-8"))?;
            return serde_json::to_writer(text, element).map_err(|_| ARRAY);
        }
    };
    text.extend_from_slice(plain.as_bytes());
    Ok(())
}
