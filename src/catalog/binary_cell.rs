//! PostgreSQL's binary format: the cells of `COPY … (FORMAT binary)` and of rows that are read again.
//!
//! Formats: `src/backend/utils/adt/*send` of PostgreSQL and its manual, chapter COPY, "Binary Format".

use bytes::{Buf as _, Bytes, BytesMut};

use super::array_json;
use super::codec::{CellError, Codec, MONEY, uuid_bytes};
use super::column::Column;
use super::{PgType, decimal};

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The same in days.
const EPOCH_DAYS: i32 = 10_957;

pub(super) const ARRAY: CellError = CellError::Malformed("an array in binary form");

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
                let value = f32::from_be_bytes(bytes.try_into().map_err(|_| fixed)?);
                // NaN has many bit patterns, and the log only one.
                column.push(&(if value.is_nan() { f32::NAN } else { value }).to_le_bytes());
                Ok(())
            }
            PgType::Float8 => {
                let value = f64::from_be_bytes(bytes.try_into().map_err(|_| fixed)?);
                self.push_float(column, if value.is_nan() { f64::NAN } else { value })
            }
            PgType::Numeric { precision, scale } => Self::push_binary_decimal(column, bytes, *precision, *scale),
            PgType::Money => Self::push_binary_decimal(column, bytes, MONEY.0, MONEY.1),
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
            | PgType::TextOnly(_)
            | PgType::AsText(_)
            | PgType::Inet
            | PgType::Xml
            | PgType::Tstzrange
            | PgType::Interval
            | PgType::Time
            | PgType::NumericText
            | PgType::Json
            | PgType::Bytea => {
                column.push(bytes);
                Ok(())
            }
            PgType::Array(_) if self.is_postgres_json() => {
                column.push(bytes);
                Ok(())
            }
            PgType::Array(_) => self.push_binary_array(column, bytes),
        }
    }

    fn push_binary_decimal(column: &mut Column, bytes: &[u8], precision: u8, scale: u8) -> Result<(), CellError> {
        let value = decimal::from_binary(bytes, precision, scale).ok_or_else(|| {
            CellError::NotRepresentable(match bytes.get(4..6) {
                Some([0xC0, 0]) => "NaN in a Decimal",
                Some([0xD0 | 0xF0, 0]) => "infinity in a Decimal",
                _ => "a numeric with other digits than the Decimal has",
            })
        })?;
        Self::push_decimal(column, value, precision);
        Ok(())
    }

    /// Lower bounds are left out, as the log leaves them out.
    fn push_binary_array(&self, column: &mut Column, mut bytes: &[u8]) -> Result<(), CellError> {
        let codec = self.element().ok_or(ARRAY)?;
        let (dimensions, _has_null, _oid) = (take_i32(&mut bytes)?, take_i32(&mut bytes)?, take_i32(&mut bytes)?);
        let mut counts = Vec::new();
        for _ in 0..dimensions {
            let (count, _lower_bound) = (take_i32(&mut bytes)?, take_i32(&mut bytes)?);
            counts.push(count);
        }
        if self.is_json_array() {
            let mut text = Vec::new();
            array_json::write_binary(&mut text, codec.pg(), &counts, &mut bytes)?;
            column.push(&text);
            return Ok(());
        }
        let count = match *counts.as_slice() {
            [] => 0,
            [count] => count,
            _ => return Err(CellError::NotRepresentable("an array with several dimensions")),
        };
        let inner = column.elements().ok_or(ARRAY)?;
        for _ in 0..count {
            codec.push_binary(inner, take_cell(&mut bytes)?)?;
        }
        column.end_array();
        Ok(())
    }
}

fn take_i32(bytes: &mut &[u8]) -> Result<i32, CellError> {
    let (value, rest) = bytes.split_first_chunk::<4>().ok_or(ARRAY)?;
    *bytes = rest;
    Ok(i32::from_be_bytes(*value))
}

/// A length and that many bytes; −1 is NULL.
pub(super) fn take_cell<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CellError> {
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
    pending: Bytes,
    /// Bytes at the front of `pending` that were handed out.
    taken: usize,
    header_seen: bool,
}

/// `PGCOPY\n\xff\r\n\0`, then flags and the length of an extension, four bytes each.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

impl CopyReader {
    /// Adds a chunk of the stream. PostgreSQL sends a tuple a chunk: then nothing is copied.
    pub fn feed(&mut self, chunk: Bytes) {
        self.pending.advance(std::mem::take(&mut self.taken));
        if self.pending.is_empty() {
            self.pending = chunk;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.pending.len() + chunk.len());
        joined.extend_from_slice(&self.pending);
        joined.extend_from_slice(&chunk);
        self.pending = joined.freeze();
    }

    /// The next whole tuple, as the bytes of its cells; `None` when more of the stream is needed or it has ended.
    ///
    /// # Errors
    /// The stream is no binary COPY.
    pub fn next_tuple(&mut self) -> Result<Option<&[u8]>, MalformedCopy> {
        self.pending.advance(std::mem::take(&mut self.taken));
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
        self.taken = length;
        Ok(self.pending.get(2..length))
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
                reader.feed(Bytes::copy_from_slice(chunk));
                while let Some(tuple) = reader.next_tuple().expect("well formed") {
                    tuples.push(CopyReader::cells(tuple).map(|cell| cell.map(<[u8]>::to_vec)).collect::<Vec<_>>());
                }
            }
            assert_eq!(tuples, [vec![Some(vec![0, 0, 0, 7]), None], vec![Some(vec![255; 4]), None]]);
        }
        let mut reader = CopyReader::default();
        reader.feed(Bytes::from_static(b"COPY is text here, and long enough"));
        assert_eq!(reader.next_tuple(), Err(MalformedCopy));
    }
}
