//! One column of a block, in the layout of ClickHouse's `Native` format, to which cells are appended.
//!
//! Layout: `src/Formats/NativeWriter.cpp` of ClickHouse. Nullable: a byte a row (1 = NULL), then the values with a default
//! in place of NULL. Array: cumulative ends as UInt64, then the elements. String: length as LEB128, then the bytes.

/// How the values of a column are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// This many bytes each, little-endian.
    Fixed(usize),
    /// Length and bytes.
    Variable,
}

#[derive(Debug, Clone)]
enum Values {
    Fixed {
        size: usize,
        data: Vec<u8>,
    },
    /// `ends`: where each row's bytes end in `data`, so that a row can be found and taken back.
    Variable {
        data: Vec<u8>,
        ends: Vec<usize>,
    },
    Array {
        ends: Vec<u64>,
        elements: Box<Column>,
    },
}

/// An append-only column buffer.
#[derive(Debug, Clone)]
pub struct Column {
    rows: usize,
    nulls: Option<Vec<u8>>,
    values: Values,
}

impl Column {
    /// An empty column of scalars.
    pub fn scalar(layout: Layout, nullable: bool) -> Self {
        let values = match layout {
            Layout::Fixed(size) => Values::Fixed { size, data: Vec::new() },
            Layout::Variable => Values::Variable { data: Vec::new(), ends: Vec::new() },
        };
        Self { rows: 0, nulls: nullable.then(Vec::new), values }
    }

    /// An empty column of arrays.
    pub fn array(elements: Self) -> Self {
        Self { rows: 0, nulls: None, values: Values::Array { ends: Vec::new(), elements: Box::new(elements) } }
    }

    /// Rows appended so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Fixed { data, .. } | Values::Variable { data, .. } => data.len(),
            Values::Array { ends, elements } => ends.len() * 8 + elements.bytes(),
        };
        values + self.nulls.as_ref().map_or(0, Vec::len)
    }

    /// Keeps the first `rows` rows and drops what was appended after them, half an array included.
    pub fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        if let Some(nulls) = &mut self.nulls {
            nulls.truncate(rows);
        }
        match &mut self.values {
            Values::Fixed { size, data } => data.truncate(rows * *size),
            Values::Variable { data, ends } => {
                ends.truncate(rows);
                data.truncate(ends.last().copied().unwrap_or(0));
            }
            Values::Array { ends, elements } => {
                ends.truncate(rows);
                elements.truncate(ends.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0));
            }
        }
    }

    /// Appends a scalar of fixed size, or the bytes of a variable one.
    // Inlined, so that a value of known size is one store and no call.
    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        match &mut self.values {
            Values::Fixed { data, .. } => data.extend_from_slice(value),
            Values::Variable { data, ends } => {
                write_length(data, value.len());
                data.extend_from_slice(value);
                ends.push(data.len());
            }
            Values::Array { .. } => return,
        }
        self.finish(0);
    }

    /// Appends NULL, or the type's default where NULL cannot be stored (tombstones only).
    pub fn push_default(&mut self) {
        match &mut self.values {
            Values::Fixed { size, data } => data.resize(data.len() + *size, 0),
            Values::Variable { data, ends } => {
                data.push(0);
                ends.push(data.len());
            }
            Values::Array { .. } => return self.end_array(),
        }
        self.finish(1);
    }

    /// The column that takes the elements of the array in work; `end_array` closes it.
    pub fn elements(&mut self) -> Option<&mut Self> {
        match &mut self.values {
            Values::Fixed { .. } | Values::Variable { .. } => None,
            Values::Array { elements, .. } => Some(elements),
        }
    }

    /// Ends the array whose elements were appended.
    pub fn end_array(&mut self) {
        if let Values::Array { ends, elements } = &mut self.values {
            ends.push(to_u64(elements.rows));
            self.finish(0);
        }
    }

    /// The bytes of a scalar; `None` for NULL, for an array, and past the end.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.get(row) != Some(&0)) {
            return None;
        }
        match &self.values {
            Values::Fixed { size, data } => data.get(row * size..(row + 1) * size),
            Values::Variable { data, ends } => {
                let begin = row.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied())?;
                take_string(&mut data.get(begin..*ends.get(row)?)?)
            }
            Values::Array { .. } => None,
        }
    }

    /// Appends row `row` of `other`, a column of the same type.
    pub fn push_from(&mut self, other: &Self, row: usize) -> Option<()> {
        if row >= other.rows {
            return None;
        }
        if let Values::Array { ends, elements } = &other.values {
            let begin = row.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied())?;
            for element in usize::try_from(begin).ok()?..usize::try_from(*ends.get(row)?).ok()? {
                self.elements()?.push_from(elements, element)?;
            }
            self.end_array();
            return Some(());
        }
        match other.get(row) {
            Some(value) => self.push(value),
            None => self.push_default(),
        }
        Some(())
    }

    /// Writes the column as `Native` has it.
    pub fn write_native(&self, out: &mut Vec<u8>) {
        if let Some(nulls) = &self.nulls {
            out.extend_from_slice(nulls);
        }
        match &self.values {
            Values::Fixed { data, .. } | Values::Variable { data, .. } => out.extend_from_slice(data),
            Values::Array { ends, elements } => {
                out.reserve(ends.len() * 8);
                for end in ends {
                    out.extend_from_slice(&end.to_le_bytes());
                }
                elements.write_native(out);
            }
        }
    }

    /// Appends row `row` to `out` as ClickHouse's `RowBinary` has it: a byte that says NULL, and the value unless it is.
    pub(super) fn write_row_binary(&self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        if let Some(nulls) = &self.nulls {
            let null = *nulls.get(row)?;
            out.push(null);
            if null != 0 {
                return Some(());
            }
        }
        let begin = row.checked_sub(1);
        match &self.values {
            Values::Fixed { size, data } => out.extend_from_slice(data.get(row * size..(row + 1) * size)?),
            Values::Variable { data, ends } => {
                let begin = begin.map_or(Some(0), |before| ends.get(before).copied())?;
                out.extend_from_slice(data.get(begin..*ends.get(row)?)?);
            }
            Values::Array { ends, elements } => {
                let begin = usize::try_from(begin.map_or(Some(0), |before| ends.get(before).copied())?).ok()?;
                let end = usize::try_from(*ends.get(row)?).ok()?;
                write_length(out, end - begin);
                for element in begin..end {
                    elements.write_row_binary(element, out)?;
                }
            }
        }
        Some(())
    }

    /// Takes a scalar in the form of `write_row_binary` off the front and appends it.
    pub(super) fn push_row_binary(&mut self, bytes: &mut &[u8]) -> Option<()> {
        if self.nulls.is_some() && *bytes.split_off_first()? != 0 {
            self.push_default();
            return Some(());
        }
        let value = match &self.values {
            Values::Fixed { size, .. } => bytes.split_off(..*size)?,
            Values::Variable { .. } => take_string(bytes)?,
            Values::Array { .. } => return None,
        };
        self.push(value);
        Some(())
    }

    fn finish(&mut self, null: u8) {
        if let Some(nulls) = &mut self.nulls {
            nulls.push(null);
        }
        self.rows += 1;
    }
}

/// A `usize` is at most 64 bits wide on every platform that Rust supports.
fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Writes a length as LEB128.
pub(super) fn write_length(out: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap_or(0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap_or(0x7f));
}

/// Takes a LEB128 length off the front.
fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    let mut shift = 0u32;
    loop {
        let byte = *bytes.split_off_first()?;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

/// Takes a length and that many bytes off the front.
pub(super) fn take_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(bytes)?;
    bytes.split_off(..length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arrays(rows: &[Vec<Option<String>>]) -> Column {
        let mut column = Column::array(Column::scalar(Layout::Variable, true));
        for row in rows {
            for element in row {
                let elements = column.elements().expect("an array");
                match element {
                    Some(text) => elements.push(text.as_bytes()),
                    None => elements.push_default(),
                }
            }
            column.end_array();
        }
        column
    }

    fn native(column: &Column) -> Vec<u8> {
        let mut bytes = Vec::new();
        column.write_native(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn rows_can_be_copied_and_taken_back(rows: Vec<Vec<Option<String>>>, keep: prop::sample::Index) {
            let column = arrays(&rows);
            let mut copied = arrays(&[]);
            for row in 0..rows.len() {
                copied.push_from(&column, row).expect("there");
            }
            prop_assert_eq!(native(&copied), native(&column));
            let keep = keep.index(rows.len() + 1);
            copied.elements().expect("an array").push(b"half a row");
            copied.truncate(keep);
            prop_assert_eq!(native(&copied), native(&arrays(rows.get(..keep).expect("a part"))));
        }
    }

    /// As `select hex(formatRow('RowBinary', …))` prints it: NULL, 'ab', ['x', NULL].
    #[test]
    fn rows_are_written_as_clickhouse_writes_them() {
        let mut text = Column::scalar(Layout::Variable, true);
        text.push_default();
        text.push(b"ab");
        let array = arrays(&[vec![], vec![Some("x".into()), None]]);
        let mut row = Vec::new();
        assert_eq!(text.write_row_binary(0, &mut row), Some(()));
        assert_eq!(text.write_row_binary(1, &mut row), Some(()));
        assert_eq!(array.write_row_binary(1, &mut row), Some(()));
        assert_eq!(row, [1, 0, 2, b'a', b'b', 2, 0, 1, b'x', 1]);
        assert_eq!(text.write_row_binary(2, &mut Vec::new()), None);
        // And back, cell by cell.
        let (mut again, mut rest) = (Column::scalar(Layout::Variable, true), row.get(..5).expect("two texts"));
        assert_eq!((again.push_row_binary(&mut rest), again.push_row_binary(&mut rest)), (Some(()), Some(())));
        assert_eq!((native(&again), rest, again.push_row_binary(&mut rest)), (native(&text), &[][..], None));
    }

    #[test]
    fn scalars_are_found_again() {
        let mut column = Column::scalar(Layout::Variable, true);
        column.push(&[7; 300]);
        column.push_default();
        column.push(b"");
        assert_eq!(
            (column.get(0), column.get(1), column.get(2), column.get(3)),
            (Some(&[7; 300][..]), None, Some(&b""[..]), None)
        );
    }
}
