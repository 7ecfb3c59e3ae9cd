//! Debezium's JSON rows, decoded straight into columns.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::array_json;
use super::codec::{CellError, Codec};
use super::column::Column;
use super::trust::Trust;
use super::{PgType, Table};

/// Text that stands for a TOAST value that an update did not touch, in the forms that it takes.
#[derive(Debug, Clone)]
pub struct Placeholder {
    text: String,
    base64: String,
    codes: Vec<i64>,
}

impl Placeholder {
    /// Of the connector's setting `unavailable.value.placeholder`.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), base64: BASE64.encode(text), codes: text.bytes().map(i64::from).collect() }
    }
}

/// What a row brought, column by column of the table.
#[derive(Debug, Default)]
pub(super) struct RowState {
    /// Columns that were in the row.
    pub(super) seen: Vec<bool>,
    /// Columns whose value the row does not know: unchanged TOAST. They hold a default meanwhile.
    pub(super) unavailable: Vec<usize>,
    /// Columns whose value came in a form that is not exact. They hold a default meanwhile.
    pub(super) inexact: Vec<usize>,
    /// Fields of the row that the table has not.
    pub(super) unknown: Vec<String>,
    /// The first value that cannot be stored, with the column's position.
    pub(super) error: Option<(usize, CellError)>,
}

/// A row that was read into the columns of a block, and is no row of it yet.
#[derive(Debug)]
pub struct ReadRow(pub(super) RowState);

/// Reads one JSON object into the columns of a block.
#[derive(Debug)]
pub struct RowReader<'a> {
    pub(super) table: &'a Table,
    pub(super) columns: &'a mut [Column],
    pub(super) placeholder: &'a Placeholder,
}

impl<'de> DeserializeSeed<'de> for RowReader<'_> {
    type Value = ReadRow;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ReadRow, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowReader<'_> {
    type Value = ReadRow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ReadRow, A::Error> {
        let mut state = RowState { seen: vec![false; self.columns.len()], ..RowState::default() };
        // Fields come in the table's order; a look-up by name is needed only after a change of the table.
        let mut hint = 0;
        while let Some(position) = map.next_key_seed(FieldSeed { table: self.table, hint })? {
            let position = match position {
                Field::Known(position) => position,
                Field::Unknown(name) => {
                    state.unknown.push(name);
                    map.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
            };
            hint = position + 1;
            let (Some(field), Some(column), Some(seen)) =
                (self.table.columns().get(position), self.columns.get_mut(position), state.seen.get_mut(position))
            else {
                return Err(A::Error::custom("a column outside the table"));
            };
            if std::mem::replace(seen, true) {
                return Err(A::Error::custom("a field twice in one row"));
            }
            let codec = field.codec();
            let outcome = match codec.trust() {
                Trust::Never { null_is_exact } => {
                    let value = map.next_value::<Option<serde::de::IgnoredAny>>()?;
                    if value.is_none() && null_is_exact { codec.push_null(column) } else { Err(CellError::Inexact) }
                        .into()
                }
                Trust::Exact | Trust::NullIsSuspect => {
                    map.next_value_seed(CellSeed { codec, column, placeholder: self.placeholder })?
                }
            };
            match outcome {
                Cell::Stored => {}
                Cell::Inexact => {
                    // Half an array may be in the column.
                    column.truncate(column.rows());
                    column.push_default();
                    state.inexact.push(position);
                }
                Cell::Unavailable => state.unavailable.push(position),
                Cell::Refused(error) => {
                    // The rest is read for its form only; the whole row is taken back.
                    state.error.get_or_insert((position, error));
                }
            }
        }
        Ok(ReadRow(state))
    }
}

enum Field {
    Known(usize),
    Unknown(String),
}

struct FieldSeed<'a> {
    table: &'a Table,
    hint: usize,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        if self.table.columns().get(self.hint).is_some_and(|column| column.name() == name) {
            return Ok(Field::Known(self.hint));
        }
        Ok(self.table.position(name).map_or_else(|| Field::Unknown(name.to_owned()), Field::Known))
    }
}

enum Cell {
    Stored,
    Unavailable,
    Inexact,
    Refused(CellError),
}

impl From<Result<(), CellError>> for Cell {
    fn from(result: Result<(), CellError>) -> Self {
        match result {
            Ok(()) => Self::Stored,
            Err(CellError::Inexact) => Self::Inexact,
            Err(error) => Self::Refused(error),
        }
    }
}

struct CellSeed<'a> {
    codec: &'a Codec,
    column: &'a mut Column,
    placeholder: &'a Placeholder,
}

impl CellSeed<'_> {
    fn unavailable(self) -> Cell {
        self.column.push_default();
        Cell::Unavailable
    }
}

impl<'de> DeserializeSeed<'de> for CellSeed<'_> {
    type Value = Cell;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cell, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CellSeed<'_> {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's value")
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        if self.codec.trust() == Trust::NullIsSuspect {
            return Ok(Cell::Inexact);
        }
        Ok(self.codec.push_null(self.column).into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell, E> {
        Ok(self.codec.push_bool(self.column, value).into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cell, E> {
        Ok(self.codec.push_int(self.column, value).into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cell, E> {
        match i64::try_from(value) {
            Ok(value) => Ok(self.codec.push_int(self.column, value).into()),
            Err(_) => Ok(Cell::Refused(CellError::OutOfRange("Int64"))),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<Cell, E> {
        Ok(self.codec.push_float(self.column, value).into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
        let stands_for_unchanged = match self.codec.pg() {
            PgType::Bytea => text == self.placeholder.base64,
            PgType::AsText(inner) if **inner == PgType::Bytea => text == self.placeholder.base64,
            pg => pg.may_be_toasted() && text == self.placeholder.text,
        };
        if stands_for_unchanged {
            return Ok(self.unavailable());
        }
        Ok(self.codec.push_text(self.column, text).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Cell, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element::<serde_json::Value>()? {
            elements.push(element);
        }
        if is_placeholder(&elements, self.placeholder) {
            return Ok(self.unavailable());
        }
        Ok(array_json::push(self.codec, self.column, &elements).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
        while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
        Ok(Cell::Refused(CellError::Malformed("a plain value, not an object")))
    }
}

fn is_placeholder(elements: &[serde_json::Value], placeholder: &Placeholder) -> bool {
    match elements {
        [serde_json::Value::String(text)] => *text == placeholder.text,
        _ => {
            elements.len() == placeholder.codes.len()
                && elements.iter().zip(&placeholder.codes).all(|(a, b)| a.as_i64() == Some(*b))
        }
    }
}
