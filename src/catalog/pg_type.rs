//! PostgreSQL's types.

/// A type as `pg_type` describes it, with domains already followed to their base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeRow {
    /// `typname`.
    pub name: String,
    /// `typtype`: `b` base, `e` enum, `c` composite, `r` range, `m` multirange.
    pub kind: char,
    /// `atttypmod`, or the domain's; −1 when there is none.
    pub modifier: i32,
    /// The element of an array, else `None`.
    pub element: Option<Box<TypeRow>>,
}

/// A type, by how its values are read and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PgType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `oid`
    Oid,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(precision, scale)` that a Decimal128 holds: precision ≤ 38, 0 ≤ scale ≤ precision.
    Numeric {
        /// Digits.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// Every other `numeric`, as PostgreSQL's text.
    NumericText,
    /// `money`, as a number with two digits after the point.
    Money,
    /// `text`, `varchar`, `char(n)`, `name`, and enums (`label` set).
    Text {
        /// An enum's label: few different values.
        label: bool,
    },
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    Timestamptz,
    /// `interval`, as PostgreSQL's text.
    Interval,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `bytea`
    Bytea,
    /// `inet`, as PostgreSQL's text.
    Inet,
    /// `xml`, as PostgreSQL prints it: without the declaration's encoding.
    Xml,
    /// `tstzrange`, as PostgreSQL's text in UTC.
    Tstzrange,
    /// `cidr`, `macaddr`, `macaddr8`, `citext`, `tsvector` and the other built-in ranges: PostgreSQL's text, which is also
    /// what Debezium sends.
    TextForm,
    /// Every other type, as PostgreSQL's text, which Debezium does not send.
    TextOnly(NullIs),
    /// A type that the configuration stores as PostgreSQL's text instead.
    AsText(Box<PgType>),
    /// An array.
    Array(Box<PgType>),
}

/// When a NULL in the log is a NULL, and not a stand-in for a value that the log leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NullIs {
    /// Always: values have a fixed size and are never out of line.
    Null,
    /// Under REPLICA IDENTITY FULL.
    NullUnderFull,
    /// Never known.
    Unknown,
}

impl PgType {
    /// The type. What has no form of its own here is mirrored as PostgreSQL's text.
    pub fn from_row(row: &TypeRow) -> Self {
        match (&row.element, row.kind, row.name.as_str()) {
            // No arrays to PostgreSQL's array functions, although they have elements.
            (Some(_), _, "int2vector" | "oidvector") => Self::TextOnly(NullIs::Null),
            (Some(element), ..) => {
                let element = Self::from_row(element);
                Self::Array(Box::new(if element.may_be_element() { element } else { Self::TextOnly(NullIs::Unknown) }))
            }
            (None, 'e', _) => Self::Text { label: true },
            (None, 'b' | 'r', name) => Self::from_base(name, row.modifier),
            (None, 'c' | 'm', _) => Self::TextOnly(NullIs::NullUnderFull),
            _ => Self::TextOnly(NullIs::Unknown),
        }
    }

    fn from_base(name: &str, modifier: i32) -> Self {
        match name {
            "bool" => Self::Bool,
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "oid" => Self::Oid,
            "float4" => Self::Float4,
            "float8" => Self::Float8,
            "numeric" => numeric(modifier),
            "money" => Self::Money,
            "text" | "varchar" | "bpchar" | "name" => Self::Text { label: false },
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::Timestamptz,
            "interval" => Self::Interval,
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            "bytea" => Self::Bytea,
            "inet" => Self::Inet,
            "xml" => Self::Xml,
            "tstzrange" => Self::Tstzrange,
            "cidr" | "macaddr" | "macaddr8" | "citext" | "tsvector" | "int4range" | "int8range" | "numrange"
            | "tsrange" | "daterange" => Self::TextForm,
            "timetz" | "point" | "line" | "lseg" | "box" | "circle" | "pg_lsn" | "xid" | "xid8" | "regclass"
            | "regtype" | "regproc" | "regprocedure" => Self::TextOnly(NullIs::Null),
            "bit" | "varbit" | "hstore" | "path" | "polygon" | "tsquery" => Self::TextOnly(NullIs::NullUnderFull),
            _ => Self::TextOnly(NullIs::Unknown),
        }
    }

    /// Elements that are stored as their type; of other types an array holds the text.
    fn may_be_element(&self) -> bool {
        self.is_plain_element()
            || matches!(self, Self::Oid | Self::Date | Self::Timestamp | Self::Timestamptz | Self::Bytea)
    }

    /// Elements whose JSON form Debezium carries exactly, in an array of one dimension.
    pub(super) fn is_plain_element(&self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::Int2
                | Self::Int4
                | Self::Int8
                | Self::Float4
                | Self::Float8
                | Self::Text { .. }
                | Self::Uuid
                | Self::Numeric { .. }
                | Self::NumericText
        )
    }

    /// Whether it is a `numeric`.
    pub(super) fn is_numeric(&self) -> bool {
        matches!(self, Self::Numeric { .. } | Self::NumericText)
    }

    /// Whether PostgreSQL may store a value out of line, so that an update can leave it out of the log.
    pub fn may_be_toasted(&self) -> bool {
        match self {
            Self::Text { label } => !label,
            Self::AsText(inner) => inner.may_be_toasted(),
            Self::TextForm
            | Self::TextOnly(_)
            | Self::Inet
            | Self::Xml
            | Self::Tstzrange
            | Self::Json
            | Self::Jsonb
            | Self::Bytea
            | Self::Array(_)
            | Self::Numeric { .. }
            | Self::NumericText => true,
            Self::Bool
            | Self::Int2
            | Self::Int4
            | Self::Int8
            | Self::Oid
            | Self::Float4
            | Self::Float8
            | Self::Money
            | Self::Uuid
            | Self::Date
            | Self::Time
            | Self::Timestamp
            | Self::Timestamptz
            | Self::Interval => false,
        }
    }
}

/// The modifier holds `((precision << 16) | scale) + 4`, the scale in 11 bits with a sign (PostgreSQL's `numeric.c`).
fn numeric(modifier: i32) -> PgType {
    if modifier < 4 {
        return PgType::NumericText;
    }
    let packed = modifier - 4;
    let precision = packed >> 16;
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    // A negative scale rounds to tens or hundreds; one above the precision leaves zeros behind the point.
    let digits = if scale < 0 { precision - scale } else { precision.max(scale) };
    match (u8::try_from(digits), u8::try_from(scale.max(0))) {
        (Ok(precision @ 1..=38), Ok(scale)) => PgType::Numeric { precision, scale },
        // Debezium writes a long tail of zeros for it.
        _ if scale < 0 => PgType::TextOnly(NullIs::NullUnderFull),
        _ => PgType::NumericText,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(name: &str, modifier: i32) -> TypeRow {
        TypeRow { name: name.into(), kind: 'b', modifier, element: None }
    }

    #[test]
    fn modifiers_of_numeric() {
        let packed = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        let decimal = |precision, scale| PgType::Numeric { precision, scale };
        let of = |precision, scale| PgType::from_row(&base("numeric", packed(precision, scale)));
        assert_eq!((of(4, 3), of(5, -2), of(2, 5)), (decimal(4, 3), decimal(7, 0), decimal(5, 5)));
        assert_eq!((of(38, 38), of(39, 0)), (decimal(38, 38), PgType::NumericText));
        assert_eq!(of(30, -10), PgType::TextOnly(NullIs::NullUnderFull));
        assert_eq!(PgType::from_row(&base("numeric", -1)), PgType::NumericText);
    }

    #[test]
    fn elements_keep_their_type_or_become_text() {
        let array = |element: &str| {
            let element = Some(Box::new(base(element, -1)));
            PgType::from_row(&TypeRow { name: "_x".into(), kind: 'b', modifier: -1, element })
        };
        assert_eq!(array("text"), PgType::Array(Box::new(PgType::Text { label: false })));
        assert_eq!(array("date"), PgType::Array(Box::new(PgType::Date)));
        assert_eq!(array("jsonb"), PgType::Array(Box::new(PgType::TextOnly(NullIs::Unknown))));
    }
}
