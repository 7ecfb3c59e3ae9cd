//! What a column becomes in ClickHouse, and what PostgreSQL is asked for to fill it.

use super::PgType;
use super::codec::{Codec, MONEY};
use super::column::{Column, Layout};

impl Codec {
    /// ClickHouse's type, as in DDL. An array that may be NULL is a String with its JSON: ClickHouse's Array cannot be NULL,
    /// and NULL is not the empty array.
    pub fn clickhouse_type(&self) -> String {
        match self.pg() {
            PgType::Text { label: true } if self.is_nullable() => "LowCardinality(Nullable(String))".into(),
            PgType::Text { label: true } => "LowCardinality(String)".into(),
            _ => self.native_type(),
        }
    }

    /// ClickHouse's type as blocks carry it; the server converts String to LowCardinality.
    pub fn native_type(&self) -> String {
        if let (PgType::Array(element), false) = (self.pg(), self.is_nullable()) {
            return array_type(element);
        }
        let name = scalar_type(self.pg());
        if self.is_nullable() { format!("Nullable({name})") } else { name }
    }

    /// Whether the value is an array that is stored as its JSON text.
    pub(super) fn is_json_array(&self) -> bool {
        self.is_nullable() && matches!(self.pg(), PgType::Array(_))
    }

    /// Whether that JSON is PostgreSQL's own, because the elements have no form of their own here.
    pub(super) fn is_postgres_json(&self) -> bool {
        match self.pg() {
            PgType::Array(element) => self.is_nullable() && (element.is_numeric() || !element.is_plain_element()),
            _ => false,
        }
    }

    /// What PostgreSQL is asked for to fill the column `name`: its binary form, or a text.
    pub fn select(&self, name: &str) -> String {
        match self.pg() {
            PgType::Array(_) if self.is_postgres_json() => format!("array_to_json({name})::text"),
            PgType::Array(element) if matches!(**element, PgType::NumericText | PgType::TextOnly(_)) => {
                format!("{name}::text[]")
            }
            // A cast to text would keep what no output, and so no log, has.
            PgType::Xml => format!("pg_catalog.xml_out({name})::text"),
            PgType::Money => format!("{name}::numeric"),
            PgType::TextForm
            | PgType::TextOnly(_)
            | PgType::AsText(_)
            | PgType::Inet
            | PgType::Interval
            | PgType::Tstzrange
            | PgType::Time
            | PgType::NumericText
            | PgType::Text { label: true } => format!("{name}::text"),
            _ => name.to_owned(),
        }
    }

    /// An empty column of this type.
    pub fn new_column(&self) -> Column {
        match (self.pg(), self.is_nullable()) {
            (PgType::Array(element), false) => Column::array(Column::scalar(layout(element), true)),
            (pg, nullable) => Column::scalar(layout(pg), nullable),
        }
    }
}

/// The Array of elements of type `element`.
pub(super) fn array_type(element: &PgType) -> String {
    format!("Array(Nullable({}))", scalar_type(element))
}

fn scalar_type(pg: &PgType) -> String {
    match pg {
        PgType::Bool => "Bool".into(),
        PgType::Int2 => "Int16".into(),
        PgType::Int4 => "Int32".into(),
        PgType::Int8 => "Int64".into(),
        PgType::Oid => "UInt32".into(),
        PgType::Float4 => "Float32".into(),
        PgType::Float8 => "Float64".into(),
        PgType::Numeric { precision, scale } => format!("Decimal({precision}, {scale})"),
        PgType::Money => format!("Decimal({}, {})", MONEY.0, MONEY.1),
        PgType::Uuid => "UUID".into(),
        PgType::Date => "Date32".into(),
        PgType::Timestamp | PgType::Timestamptz => "DateTime64(6, 'UTC')".into(),
        PgType::NumericText
        | PgType::Text { .. }
        | PgType::TextForm
        | PgType::TextOnly(_)
        | PgType::AsText(_)
        | PgType::Inet
        | PgType::Interval
        | PgType::Xml
        | PgType::Tstzrange
        | PgType::Time
        | PgType::Json
        | PgType::Jsonb
        | PgType::Bytea
        | PgType::Array(_) => "String".into(),
    }
}

fn layout(pg: &PgType) -> Layout {
    match pg {
        PgType::Bool => Layout::Fixed(1),
        PgType::Int2 => Layout::Fixed(2),
        PgType::Int4 | PgType::Oid | PgType::Float4 | PgType::Date => Layout::Fixed(4),
        PgType::Int8 | PgType::Float8 | PgType::Timestamp | PgType::Timestamptz => Layout::Fixed(8),
        // Decimal32 up to 9 digits, Decimal64 up to 18, Decimal128 up to 38.
        PgType::Numeric { precision: 0..=9, .. } => Layout::Fixed(4),
        PgType::Numeric { precision: 10..=18, .. } => Layout::Fixed(8),
        PgType::Numeric { .. } | PgType::Money | PgType::Uuid => Layout::Fixed(16),
        PgType::NumericText
        | PgType::Text { .. }
        | PgType::TextForm
        | PgType::TextOnly(_)
        | PgType::AsText(_)
        | PgType::Inet
        | PgType::Interval
        | PgType::Xml
        | PgType::Tstzrange
        | PgType::Time
        | PgType::Json
        | PgType::Jsonb
        | PgType::Bytea
        | PgType::Array(_) => Layout::Variable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_that_may_be_null_is_json_text() {
        let array = PgType::Array(Box::new(PgType::Int4));
        assert_eq!(Codec::new(array.clone(), false).clickhouse_type(), "Array(Nullable(Int32))");
        assert_eq!(Codec::new(array, true).clickhouse_type(), "Nullable(String)");
        assert_eq!(
            Codec::new(PgType::Text { label: true }, true).clickhouse_type(),
            "LowCardinality(Nullable(String))"
        );
    }

    #[test]
    fn what_is_stored_as_text_is_asked_for_as_text() {
        let select = |pg, nullable| Codec::new(pg, nullable).select("c");
        let dates = PgType::Array(Box::new(PgType::Date));
        assert_eq!((select(dates.clone(), false), select(dates, true)), ("c".into(), "array_to_json(c)::text".into()));
        assert_eq!(select(PgType::Array(Box::new(PgType::NumericText)), false), "c::text[]");
        assert_eq!((select(PgType::Inet, true), select(PgType::Int4, true)), ("c::text".into(), "c".into()));
    }
}
