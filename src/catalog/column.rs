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
    Scalar { layout: Layout, data: Vec<u8> },
    Array { ends: Vec<u64>, elements: Box<Column> },
}

/// An append-only column buffer.
#[derive(Debug, Clone)]
pub struct Column {
    rows: usize,
    nulls: Option<Vec<u8>>,
    values: Values,
    /// Length of `data` where the row in work began; arrays mark their elements instead.
    mark: usize,
}

impl Column {
    /// An empty column of scalars.
    pub fn scalar(layout: Layout, nullable: bool) -> Self {
        let values = Values::Scalar { layout, data: Vec::new() };
        Self { rows: 0, nulls: nullable.then(Vec::new), values, mark: 0 }
    }

    /// An empty column of arrays.
    pub fn array(elements: Self) -> Self {
        Self { rows: 0, nulls: None, values: Values::Array { ends: Vec::new(), elements: Box::new(elements) }, mark: 0 }
    }

    /// Rows appended so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Scalar { data, .. } => data.len(),
            Values::Array { ends, elements } => ends.len() * 8 + elements.bytes(),
        };
        values + self.nulls.as_ref().map_or(0, Vec::len)
    }

    /// Whether NULL can be stored.
    pub fn is_nullable(&self) -> bool {
        self.nulls.is_some()
    }

    /// Remembers where a row begins, for `rewind`.
    pub fn mark(&mut self) {
        match &mut self.values {
            Values::Scalar { data, .. } => self.mark = data.len(),
            Values::Array { elements, .. } => {
                self.mark = elements.rows;
                elements.mark();
            }
        }
    }

    /// Drops what was appended since `mark`, of a row number `rows`.
    pub fn rewind(&mut self, rows: usize) {
        self.rows = rows;
        if let Some(nulls) = &mut self.nulls {
            nulls.truncate(rows);
        }
        match &mut self.values {
            Values::Scalar { data, .. } => data.truncate(self.mark),
            Values::Array { ends, elements } => {
                ends.truncate(rows);
                elements.rewind(self.mark);
            }
        }
    }

    /// Appends a scalar of fixed size, or the bytes of a variable one.
    pub fn push(&mut self, value: &[u8]) {
        if let Values::Scalar { layout, data } = &mut self.values {
            if *layout == Layout::Variable {
                write_length(data, value.len());
            }
            data.extend_from_slice(value);
            self.finish(0);
        }
    }

    /// Appends NULL, or the type's default where NULL cannot be stored (tombstones only).
    pub fn push_default(&mut self) {
        match &mut self.values {
            Values::Scalar { layout: Layout::Fixed(size), data } => data.resize(data.len() + *size, 0),
            Values::Scalar { layout: Layout::Variable, data } => data.push(0),
            Values::Array { .. } => return self.end_array(),
        }
        self.finish(1);
    }

    /// The column that takes the elements of the array in work; `end_array` closes it.
    pub fn elements(&mut self) -> Option<&mut Self> {
        match &mut self.values {
            Values::Scalar { .. } => None,
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

    /// Appends row `row` of `other`, a column of the same type.
    pub fn push_from(&mut self, other: &Self, row: usize) -> Option<()> {
        if other.nulls.as_ref().is_some_and(|nulls| nulls.get(row) == Some(&1)) {
            self.push_default();
            return Some(());
        }
        match &other.values {
            Values::Scalar { layout: Layout::Fixed(size), data } => self.push(data.get(row * size..(row + 1) * size)?),
            Values::Scalar { layout: Layout::Variable, data } => {
                let mut rest = data.as_slice();
                for _ in 0..row {
                    take_string(&mut rest)?;
                }
                self.push(take_string(&mut rest)?);
            }
            Values::Array { ends, elements } => {
                let begin = if row == 0 { 0 } else { *ends.get(row - 1)? };
                for element in usize::try_from(begin).ok()?..usize::try_from(*ends.get(row)?).ok()? {
                    self.elements()?.push_from(elements, element)?;
                }
                self.end_array();
            }
        }
        Some(())
    }

    /// Writes the column as `Native` has it.
    pub fn write_native(&self, out: &mut Vec<u8>) {
        if let Some(nulls) = &self.nulls {
            out.extend_from_slice(nulls);
        }
        match &self.values {
            Values::Scalar { data, .. } => out.extend_from_slice(data),
            Values::Array { ends, elements } => {
                out.reserve(ends.len() * 8);
                for end in ends {
                    out.extend_from_slice(&end.to_le_bytes());
                }
                elements.write_native(out);
            }
        }
    }

    /// Appends `rows` rows from `Native` bytes of a column of the same type. `None` when they are cut short.
    pub fn read_native(&mut self, rows: usize, bytes: &mut &[u8]) -> Option<()> {
        if let Some(nulls) = &mut self.nulls {
            nulls.extend_from_slice(bytes.split_off(..rows)?);
        }
        match &mut self.values {
            Values::Scalar { layout: Layout::Fixed(size), data } => {
                data.extend_from_slice(bytes.split_off(..rows * *size)?);
            }
            Values::Scalar { layout: Layout::Variable, data } => {
                for _ in 0..rows {
                    let value = take_string(bytes)?;
                    write_length(data, value.len());
                    data.extend_from_slice(value);
                }
            }
            Values::Array { ends, elements } => {
                let base = to_u64(elements.rows);
                let read = bytes.split_off(..rows * 8)?.as_chunks::<8>().0;
                ends.extend(read.iter().map(|end| base + u64::from_le_bytes(*end)));
                let total = ends.last().map_or(0, |end| end - base);
                elements.read_native(usize::try_from(total).ok()?, bytes)?;
            }
        }
        self.rows += rows;
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
pub(super) fn take_length(bytes: &mut &[u8]) -> Option<usize> {
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

    fn strings(rows: &[Option<Vec<Option<String>>>]) -> Column {
        let mut column = Column::array(Column::scalar(Layout::Variable, true));
        for row in rows {
            for element in row.iter().flatten() {
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

    proptest! {
        #[test]
        fn native_bytes_round_trip(rows: Vec<Option<Vec<Option<String>>>>) {
            let column = strings(&rows);
            let mut bytes = Vec::new();
            column.write_native(&mut bytes);
            let mut again = strings(&[]);
            let mut rest = bytes.as_slice();
            again.read_native(rows.len(), &mut rest).expect("whole");
            prop_assert!(rest.is_empty());
            let mut copied = strings(&[]);
            for row in 0..rows.len() {
                copied.push_from(&again, row).expect("there");
            }
            let mut bytes_again = Vec::new();
            copied.write_native(&mut bytes_again);
            prop_assert_eq!(bytes, bytes_again);
        }
    }

    #[test]
    fn a_row_can_be_taken_back() {
        let mut column = strings(&[Some(vec![Some("a".into())])]);
        column.mark();
        column.elements().expect("an array").push(b"half a row");
        column.rewind(1);
        let mut bytes = Vec::new();
        column.write_native(&mut bytes);
        let mut expected = Vec::new();
        strings(&[Some(vec![Some("a".into())])]).write_native(&mut expected);
        assert_eq!(bytes, expected);
    }
}
