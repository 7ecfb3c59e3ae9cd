//! How far an event is believed about a column.

use super::pg_type::NullIs;
use super::{Identity, PgType};

/// How far an event is believed about a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Values in a form that damage leaves are read again, all others are exact.
    Exact,
    /// As `Exact`, but NULL may stand for a value.
    NullIsSuspect,
    /// No value is believed: the row is read again.
    Never {
        /// Whether NULL is.
        null_is_exact: bool,
    },
}

impl Trust {
    /// Of a column of type `pg`.
    pub(super) fn of(pg: &PgType, identity: Identity) -> Self {
        let full = identity == Identity::Full;
        match pg {
            PgType::TextOnly(null) => Self::Never {
                null_is_exact: match null {
                    NullIs::Null => true,
                    NullIs::NullUnderFull => full,
                    NullIs::Unknown => false,
                },
            },
            // Debezium turns an array of numerics with NaN into NULL, and one that did not change too; and an array of an
            // enum's labels with a NULL in it.
            PgType::Array(element) if element.is_numeric() || **element == PgType::Text { label: true } => {
                Self::NullIsSuspect
            }
            // Under DEFAULT only these have a stand-in for unchanged arrays that is known.
            PgType::Array(element)
                if full && element.is_plain_element()
                    || matches!(**element, PgType::Text { .. } | PgType::Int4 | PgType::Int8) =>
            {
                Self::Exact
            }
            PgType::Array(_) => Self::Never { null_is_exact: false },
            PgType::AsText(inner) => match &**inner {
                PgType::Float4 | PgType::Float8 | PgType::Money => Self::Never { null_is_exact: true },
                PgType::Array(_) => Self::Never { null_is_exact: false },
                inner => Self::of(inner, identity),
            },
            _ => Self::Exact,
        }
    }
}

/// Whether both bounds of a `tstzrange` are printed in UTC: Debezium's session may have another time zone.
pub(super) fn is_utc_range(text: &str) -> bool {
    let quoted = text.split('"').skip(1).step_by(2);
    quoted.into_iter().all(|bound| bound.ends_with("+00") || bound.ends_with("+00 BC"))
}

/// Whether a text is what Java prints of an array object: Debezium's form of an inner array.
pub(super) fn is_java_object(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('[') else { return false };
    let rest = rest.trim_start_matches('[');
    let Some((kind, hash)) = rest.split_once('@') else { return false };
    let kind_known =
        matches!(kind, "Z" | "B" | "C" | "D" | "F" | "I" | "J" | "S") || (kind.starts_with('L') && kind.ends_with(';'));
    kind_known && !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_other_time_zones_are_seen() {
        for utc in ["empty", "(,)", r#"["2024-01-01 00:00:00+00",)"#, r#"["0044-03-15 01:02:03+00 BC",infinity)"#] {
            assert!(is_utc_range(utc), "{utc}");
        }
        for other in [r#"["2024-01-01 00:00:00+01",)"#, r#"["2024-01-01 00:00:00+00","2024-07-01 00:00:00+01")"#] {
            assert!(!is_utc_range(other), "{other}");
        }
    }

    #[test]
    fn java_objects_are_seen() {
        for object in ["[Ljava.lang.String;@4b94de8c", "[I@7c6e9b2b", "[[Ljava.lang.Integer;@1"] {
            assert!(is_java_object(object), "{object}");
        }
        for text in ["", "[", "[x@1", "a[I@1", "[I@", "[I@xyz", "[Ljava.lang.String@1"] {
            assert!(!is_java_object(text), "{text}");
        }
    }

    #[test]
    fn arrays_are_believed_as_far_as_their_elements_and_the_identity_allow() {
        let array = |element: PgType, identity| Trust::of(&PgType::Array(Box::new(element)), identity);
        assert_eq!(array(PgType::Bool, Identity::Full), Trust::Exact);
        assert_eq!(array(PgType::Bool, Identity::Default), Trust::Never { null_is_exact: false });
        assert_eq!(array(PgType::Int8, Identity::Default), Trust::Exact);
        assert_eq!(array(PgType::NumericText, Identity::Default), Trust::NullIsSuspect);
        assert_eq!(array(PgType::Text { label: true }, Identity::Full), Trust::NullIsSuspect);
        assert_eq!(array(PgType::Date, Identity::Full), Trust::Never { null_is_exact: false });
    }
}
