//! PostgreSQL's binary format: the cells of `COPY … (FORMAT binary)` and of rows that are read again.
//!
//! Formats: `src/backend/utils/adt/*send` of PostgreSQL and its manual, chapter COPY, "Binary Format".

use bytes::{Buf as _, Bytes, BytesMut};

use super::codec::{CellError, Codec, uuid_bytes};
use super::column::Column;
use super::{PgType, decimal};

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The same in days.
const EPOCH_DAYS: i32 = 10_957;

const ARRAY: CellError = CellError::Malformed("an array in binary form");

impl Codec {
    /// Appends a cell in binary form; `None` is NULL.
    pub(super) fn push_binary(&self, column: &mut Column, bytes: Option<&[u8]>) -> Result<(), CellError> {
        let Some(bytes) = bytes else {
            return self.push_null(column);
        };
        let fixed = CellError::Malformed("a value of the type's size");
        match self.pg() {
            PgType::Bool => self.push_bool(column, bytes == [1]),
            PgType::Int2 => self.push_int(column, i16::from_be_bytes(bytes.try_into().map_err(|_| fixed)?).into()),
            PgType::Int4 => self.push_int(column, i32::from_be_bytes(bytes.try_into().map_err(|_| fixed)?).into()),
            PgType::Int8 => self.push_int(column, i64::from_be_bytes(bytes.try_into().map_err(|_| fixed)?)),
            PgType::Oid => self.push_int(column, u32::from_be_bytes(bytes.try_into().map_err(|_| fixed)?).into()),
            PgType::Float4 => {
                column.push(&f32::from_be_bytes(bytes.try_into().map_err(|_| fixed)?).to_le_bytes());
                Ok(())
            }
            PgType::Float8 => self.push_float(column, f64::from_be_bytes(bytes.try_into().map_err(|_| fixed)?)),
            PgType::Numeric { precision, scale } => {
                let value = decimal::from_binary(bytes, *precision, *scale)
                    .ok_or(CellError::NotRepresentable("this numeric"))?;
                Self::push_decimal(column, value, *precision);
                Ok(())
            }
            PgType::Uuid => {
                column.push(&uuid_bytes(u128::from_be_bytes(bytes.try_into().map_err(|_| fixed)?)));
                Ok(())
            }
            PgType::Date => {
                let days = i32::from_be_bytes(bytes.try_into().map_err(|_| fixed)?);
                Self::push_days(column, days.checked_add(EPOCH_DAYS).ok_or(CellError::OutOfRange("Date32"))?)
            }
            PgType::Timestamp | PgType::Timestamptz => {
                let micros = i64::from_be_bytes(bytes.try_into().map_err(|_| fixed)?);
                Self::push_micros(
                    column,
                    micros.checked_add(EPOCH_MICROS).ok_or(CellError::OutOfRange("DateTime64(6)"))?,
                )
            }
            PgType::Jsonb => match bytes.split_first() {
                Some((1, text)) => {
                    column.push(text);
                    Ok(())
                }
                _ => Err(CellError::Malformed("jsonb, version 1")),
            },
            PgType::Text { .. }
            | PgType::TextForm
            | PgType::Time
            | PgType::NumericText
            | PgType::Json
            | PgType::Bytea => {
                column.push(bytes);
                Ok(())
            }
            PgType::Array(_) => self.push_binary_array(column, bytes),
        }
    }

    fn push_binary_array(&self, column: &mut Column, mut bytes: &[u8]) -> Result<(), CellError> {
        let codec = self.element().ok_or(ARRAY)?;
        let (dimensions, _has_null, _oid) = (take_i32(&mut bytes)?, take_i32(&mut bytes)?, take_i32(&mut bytes)?);
        let count = match dimensions {
            0 => 0,
            1 => {
                let (count, lower_bound) = (take_i32(&mut bytes)?, take_i32(&mut bytes)?);
                if lower_bound != 1 {
                    return Err(CellError::NotRepresentable("an array whose first index is not 1"));
                }
                count
            }
            _ => return Err(CellError::NotRepresentable("an array with several dimensions")),
        };
        if self.is_json_array() {
            let mut text = String::from("[");
            for index in 0..count {
                text.push_str(if index == 0 { "" } else { "," });
                text.push_str(&json_element(codec.pg(), take_cell(&mut bytes)?)?);
            }
            text.push(']');
            column.push(text.as_bytes());
            return Ok(());
        }
        let inner = column.elements().ok_or(ARRAY)?;
        for _ in 0..count {
            codec.push_binary(inner, take_cell(&mut bytes)?)?;
        }
        column.end_array();
        Ok(())
    }
}

/// An element as Debezium's JSON has it, so that both paths store the same text.
fn json_element(pg: &PgType, bytes: Option<&[u8]>) -> Result<String, CellError> {
    let Some(bytes) = bytes else {
        return Ok("null".into());
    };
    let float = |text: String, finite: bool| if finite { text } else { format!("\"{text}\"") };
    Ok(match pg {
        PgType::Bool => (bytes == [1]).to_string(),
        PgType::Int2 => i16::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?).to_string(),
        PgType::Int4 => i32::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?).to_string(),
        PgType::Int8 => i64::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?).to_string(),
        PgType::Float4 => {
            let value = f32::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?);
            // The JSON path reads the shortest text into a double and prints that.
            let printed = value.to_string().parse::<f64>().map_err(|_| ARRAY)?;
            float(
                serde_json::Number::from_f64(printed).map_or_else(|| special(f64::from(value)), |n| n.to_string()),
                value.is_finite(),
            )
        }
        PgType::Float8 => {
            let value = f64::from_be_bytes(bytes.try_into().map_err(|_| ARRAY)?);
            float(
                serde_json::Number::from_f64(value).map_or_else(|| special(value), |n| n.to_string()),
                value.is_finite(),
            )
        }
        PgType::Uuid => format!("\"{}\"", uuid::Uuid::from_slice(bytes).map_err(|_| ARRAY)?),
        _ => {
            serde_json::Value::from(std::str::from_utf8(bytes).map_err(|_| CellError::Malformed("UTF-8"))?).to_string()
        }
    })
}

fn special(value: f64) -> String {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
    .to_owned()
}

fn take_i32(bytes: &mut &[u8]) -> Result<i32, CellError> {
    let (value, rest) = bytes.split_first_chunk::<4>().ok_or(ARRAY)?;
    *bytes = rest;
    Ok(i32::from_be_bytes(*value))
}

/// A length and that many bytes; −1 is NULL.
fn take_cell<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CellError> {
    let length = take_i32(bytes)?;
    match usize::try_from(length) {
        Ok(length) => Ok(Some(bytes.split_off(..length).ok_or(ARRAY)?)),
        Err(_) => Ok(None),
    }
}

/// The stream is not a binary COPY, or is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL's binary COPY stream is malformed")]
pub struct MalformedCopy;

/// Splits the chunks of a binary COPY into tuples.
#[derive(Debug, Default)]
pub struct CopyReader {
    pending: BytesMut,
    header_seen: bool,
}

/// `PGCOPY\n\xff\r\n\0`, then flags and the length of an extension, four bytes each.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

impl CopyReader {
    /// Adds a chunk of the stream.
    pub fn feed(&mut self, chunk: &Bytes) {
        self.pending.extend_from_slice(chunk);
    }

    /// The next whole tuple, as the bytes of its cells; `None` when more of the stream is needed or it has ended.
    ///
    /// # Errors
    /// The stream is no binary COPY.
    pub fn next_tuple(&mut self) -> Result<Option<Bytes>, MalformedCopy> {
        if !self.header_seen {
            let Some(header) = self.pending.get(..SIGNATURE.len() + 8) else { return Ok(None) };
            if !header.starts_with(SIGNATURE) {
                return Err(MalformedCopy);
            }
            self.pending.advance(SIGNATURE.len() + 8);
            self.header_seen = true;
        }
        let Some((count, mut rest)) = self.pending.split_first_chunk::<2>() else { return Ok(None) };
        let Ok(count) = u16::try_from(i16::from_be_bytes(*count)) else {
            return Ok(None); // −1: the trailer
        };
        let mut length = 2usize;
        for _ in 0..count {
            let Some((size, after)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            let size = usize::try_from(i32::from_be_bytes(*size)).unwrap_or(0);
            let Some(after) = after.get(size..) else { return Ok(None) };
            rest = after;
            length += 4 + size;
        }
        let mut tuple = self.pending.split_to(length);
        tuple.advance(2);
        Ok(Some(tuple.freeze()))
    }

    /// The cells of a tuple.
    pub fn cells(tuple: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = tuple;
        std::iter::from_fn(move || if rest.is_empty() { None } else { take_cell(&mut rest).ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_come_out_of_any_chunks() {
        let mut stream = SIGNATURE.to_vec();
        stream.extend([0; 8]);
        for value in [7i32, -1] {
            stream.extend([0, 2, 0, 0, 0, 4]);
            stream.extend(value.to_be_bytes());
            stream.extend((-1i32).to_be_bytes());
        }
        stream.extend((-1i16).to_be_bytes());
        for size in [1, 3, stream.len()] {
            let mut reader = CopyReader::default();
            let mut tuples = Vec::new();
            for chunk in stream.chunks(size) {
                reader.feed(&Bytes::copy_from_slice(chunk));
                while let Some(tuple) = reader.next_tuple().expect("well formed") {
                    tuples.push(CopyReader::cells(&tuple).map(|cell| cell.map(<[u8]>::to_vec)).collect::<Vec<_>>());
                }
            }
            assert_eq!(tuples, [vec![Some(vec![0, 0, 0, 7]), None], vec![Some(vec![255; 4]), None]]);
        }
        let mut reader = CopyReader::default();
        reader.feed(&Bytes::from_static(b"COPY is text here, and long enough"));
        assert_eq!(reader.next_tuple(), Err(MalformedCopy));
    }
}
