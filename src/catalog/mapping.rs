//! What the configuration changes about a table: other ClickHouse types, and what becomes of inexact values.

use std::collections::BTreeMap;

use super::clickhouse_type::array_type;
use super::{Codec, PgType};

/// What becomes of a row whose event does not carry every value exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inexact {
    /// It is read again from PostgreSQL.
    #[default]
    Reread,
    /// It is parked.
    Park,
}

/// What differs from the rule for one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What becomes of inexact values.
    pub inexact: Inexact,
    /// The ClickHouse type that a column is to have, by the column's name.
    pub types: BTreeMap<String, String>,
}

/// An override that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The type is none of those that the column may have.
    #[error("type = \"{wanted}\" is not possible for its PostgreSQL type {postgres}; allowed: {allowed}")]
    Type {
        /// What is configured.
        wanted: String,
        /// The column's type.
        postgres: String,
        /// The choice.
        allowed: String,
    },
    /// The table has no such column.
    #[error("the table has no such column; it has: {0}")]
    NoColumn(String),
}

/// The codec of a column whose ClickHouse type is to be `wanted`.
///
/// # Errors
/// `wanted` is none of the types that a column of this type may have.
pub(super) fn overridden(
    pg: PgType,
    nullable: bool,
    wanted: &str,
    type_text: &str,
) -> Result<(PgType, bool), MappingError> {
    let spaceless: String = wanted.chars().filter(|symbol| !symbol.is_whitespace()).collect();
    let own_array = match &pg {
        PgType::Array(element) => Some(array_type(element)),
        _ => None,
    };
    if spaceless == "String" {
        return Ok((as_text(pg), nullable));
    }
    if own_array.as_ref().is_some_and(|array| array.replace(' ', "") == spaceless) {
        // It holds no NULL; a row with one is parked.
        return Ok((pg, false));
    }
    if let (true, Some(decimal)) = (pg.is_numeric(), decimal(&spaceless)) {
        return Ok((decimal, nullable));
    }
    let mut allowed = vec!["\"String\"".to_owned()];
    allowed.extend(own_array.map(|array| format!("\"{array}\"")));
    if pg.is_numeric() {
        allowed.push("\"Decimal(P, S)\" with 1 ≤ P ≤ 38 and S ≤ P".to_owned());
    }
    Err(MappingError::Type { wanted: wanted.to_owned(), postgres: type_text.to_owned(), allowed: allowed.join(", ") })
}

/// As PostgreSQL's text; what is text already stays as it is.
fn as_text(pg: PgType) -> PgType {
    match pg {
        PgType::Text { .. } => PgType::Text { label: false },
        PgType::NumericText
        | PgType::TextForm
        | PgType::TextOnly(_)
        | PgType::AsText(_)
        | PgType::Inet
        | PgType::Xml
        | PgType::Tstzrange
        | PgType::Interval
        | PgType::Time
        | PgType::Json
        | PgType::Jsonb => pg,
        other => PgType::AsText(Box::new(other)),
    }
}

fn decimal(text: &str) -> Option<PgType> {
    let (precision, scale) = text.strip_prefix("Decimal(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale) = (precision.parse().ok()?, scale.parse().ok()?);
    ((1..=38).contains(&precision) && scale <= precision).then_some(PgType::Numeric { precision, scale })
}

/// How a column's values come into the mirror, for people.
pub(super) fn how_read(codec: &Codec) -> &'static str {
    use super::Trust;
    match (codec.trust(), codec.pg()) {
        (Trust::Never { .. }, _) => "read again",
        (Trust::NullIsSuspect, _) | (Trust::Exact, PgType::Array(_) | PgType::Tstzrange | PgType::Interval) => {
            "from the log; doubtful values are read again"
        }
        (Trust::Exact, PgType::AsText(_)) => "from the log; doubtful values are read again",
        (Trust::Exact, _) => "from the log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(pg: PgType, wanted: &str) -> Result<String, String> {
        overridden(pg, true, wanted, "its type")
            .map(|(pg, nullable)| Codec::new(pg, nullable).clickhouse_type())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_types_that_hold_every_value_or_park_it_are_allowed() {
        let array = || PgType::Array(Box::new(PgType::Int4));
        assert_eq!(to(PgType::Date, "String").as_deref(), Ok("Nullable(String)"));
        assert_eq!(to(array(), "Array(Nullable(Int32))").as_deref(), Ok("Array(Nullable(Int32))"));
        assert_eq!(to(PgType::NumericText, "Decimal(20,4)").as_deref(), Ok("Nullable(Decimal(20, 4))"));
        let refused = to(array(), "Array(Int32)").expect_err("refused");
        assert!(refused.contains("allowed: \"String\", \"Array(Nullable(Int32))\""), "{refused}");
        for wrong in ["Decimal(39, 2)", "Decimal(2, 3)", "Decimal(20)", "Float64", "string", ""] {
            assert!(to(PgType::NumericText, wrong).expect_err(wrong).contains("Decimal(P, S)"), "{wrong}");
        }
        assert!(to(PgType::Int4, "Decimal(9, 0)").is_err());
    }
}
