//! PostgreSQL's types, as far as they are mirrored.

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

/// A type that is mirrored exactly.
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
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `bytea`
    Bytea,
    /// `inet`, `cidr`, `macaddr`, `macaddr8`, `citext`, `xml`, as PostgreSQL's text.
    TextForm,
    /// An array with one dimension.
    Array(Box<PgType>),
}

impl PgType {
    /// The type, or `None` when it is not mirrored yet.
    pub fn from_row(row: &TypeRow) -> Option<Self> {
        if let Some(element) = &row.element {
            let element = Self::from_row(element)?;
            return element.may_be_element().then(|| Self::Array(Box::new(element)));
        }
        Some(match (row.kind, row.name.as_str()) {
            ('e', _) => Self::Text { label: true },
            ('b', name) => Self::from_base(name, row.modifier)?,
            _ => return None,
        })
    }

    fn from_base(name: &str, modifier: i32) -> Option<Self> {
        Some(match name {
            "bool" => Self::Bool,
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "oid" => Self::Oid,
            "float4" => Self::Float4,
            "float8" => Self::Float8,
            "numeric" => numeric(modifier),
            "text" | "varchar" | "bpchar" | "name" => Self::Text { label: false },
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::Timestamptz,
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            "bytea" => Self::Bytea,
            "inet" | "cidr" | "macaddr" | "macaddr8" | "citext" | "xml" => Self::TextForm,
            _ => return None,
        })
    }

    /// Elements whose JSON form Debezium carries exactly.
    fn may_be_element(&self) -> bool {
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
        )
    }

    /// Whether PostgreSQL may store a value out of line, so that an update can leave it out of the log.
    pub fn may_be_toasted(&self) -> bool {
        matches!(
            self,
            Self::Text { label: false }
                | Self::TextForm
                | Self::Json
                | Self::Jsonb
                | Self::Bytea
                | Self::Array(_)
                | Self::Numeric { .. }
                | Self::NumericText
        )
    }

    /// Whether Debezium's stand-in for an unchanged out-of-line value can be told from a value. For the other arrays it is a
    /// made-up value or NULL.
    pub fn placeholder_is_recognised(&self) -> bool {
        match self {
            Self::Array(element) => matches!(**element, Self::Text { .. } | Self::Int4 | Self::Int8),
            _ => true,
        }
    }

    /// Whether PostgreSQL is asked for the value as `column::text`, not in its binary form.
    pub fn is_read_as_text(&self) -> bool {
        matches!(self, Self::TextForm | Self::Time | Self::NumericText | Self::Text { label: true })
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
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => PgType::Numeric { precision, scale },
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
        assert_eq!(PgType::from_row(&base("numeric", packed(4, 3))), Some(PgType::Numeric { precision: 4, scale: 3 }));
        for modifier in [-1, packed(39, 0), packed(5, -2), packed(2, 5)] {
            assert_eq!(PgType::from_row(&base("numeric", modifier)), Some(PgType::NumericText), "{modifier}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for name in ["money", "interval", "timetz", "bit", "point", "tsvector", "hstore"] {
            assert_eq!(PgType::from_row(&base(name, -1)), None, "{name}");
        }
        let array = |element| TypeRow { name: "_x".into(), kind: 'b', modifier: -1, element: Some(Box::new(element)) };
        assert_eq!(PgType::from_row(&array(base("numeric", -1))), None, "Debezium loses NaN in numeric[]");
        assert!(PgType::from_row(&array(base("text", -1))).is_some());
    }
}
