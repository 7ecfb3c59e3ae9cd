//! Which field of a record goes into which column.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::batch::post::COLUMNS;
use crate::domain::Failure;

/// Where each column gets its value from, in the order of `COLUMNS`.
#[derive(Debug, Clone)]
pub struct Mapping {
    columns: [Origin; COLUMNS.len()],
    /// Whether fields that no column takes are left out instead of being an error.
    pub(super) ignore_unknown: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Field(String),
    Constant(String),
    Nothing,
}

impl Mapping {
    /// `maps` are `COLUMN=FIELD`, `constants` are `COLUMN=VALUE`; all other columns take the field of their own name, unless
    /// it was given to another one.
    ///
    /// # Errors
    /// `Failure::Usage` for an unknown column, or a column or field that is named twice.
    pub fn new(maps: &[String], constants: &[String], ignore_unknown: bool) -> Result<Self, Failure> {
        let mut columns = COLUMNS.map(|name| Origin::Field(name.to_owned()));
        let mut named = Vec::new();
        let mut taken = Vec::new();
        for (flag, text) in maps.iter().map(|text| ("--map", text)).chain(constants.iter().map(|text| ("--set", text)))
        {
            let (name, value) =
                text.split_once('=').ok_or_else(|| Failure::Usage(format!("{flag} {text}: write COLUMN=…")))?;
            let slot = COLUMNS.iter().zip(&mut columns).find(|(column, _)| **column == name);
            let Some((column, slot)) = slot else {
                return Err(Failure::Usage(format!(
                    "{flag}: there is no column {name:?}; known are {}",
                    COLUMNS.join(", ")
                )));
            };
            if named.contains(column) {
                return Err(Failure::Usage(format!("column {column} is given twice")));
            }
            named.push(column);
            *slot = if flag == "--map" {
                if taken.contains(&value) {
                    return Err(Failure::Usage(format!("--map: field {value:?} is given to two columns")));
                }
                taken.push(value);
                Origin::Field(value.to_owned())
            } else {
                Origin::Constant(value.to_owned())
            };
        }
        for (column, slot) in COLUMNS.iter().zip(&mut columns) {
            if !named.contains(column) && taken.contains(column) {
                *slot = Origin::Nothing;
            }
        }
        Ok(Self { columns, ignore_unknown })
    }

    /// The place in `COLUMNS` of the column that takes `field`. `guess` is looked at first: records have their fields in one order.
    pub(super) fn column_of(&self, field: &str, guess: usize) -> Option<usize> {
        let takes = |origin: &Origin| matches!(origin, Origin::Field(name) if name == field);
        if self.columns.get(guess).is_some_and(takes) {
            return Some(guess);
        }
        self.columns.iter().position(takes)
    }

    /// Columns with the same value in all records.
    pub(super) fn constants(&self) -> impl Iterator<Item = (&'static str, &str)> {
        COLUMNS.iter().zip(&self.columns).filter_map(|(column, origin)| match origin {
            Origin::Constant(value) => Some((*column, value.as_str())),
            Origin::Field(_) | Origin::Nothing => None,
        })
    }

    /// The field that must be there for `column` to have a value; none when the value is constant.
    pub(super) fn field_for(&self, column: &str) -> Option<&str> {
        COLUMNS.iter().zip(&self.columns).find(|(name, _)| **name == column).and_then(|(name, origin)| match origin {
            Origin::Field(field) => Some(field.as_str()),
            Origin::Nothing => Some(*name),
            Origin::Constant(_) => None,
        })
    }

    /// Fields that are known, for messages.
    pub(super) fn fields(&self) -> String {
        let fields = self.columns.iter().filter_map(|origin| match origin {
            Origin::Field(name) => Some(name.as_str()),
            Origin::Constant(_) | Origin::Nothing => None,
        });
        fields.collect::<Vec<_>>().join(", ")
    }

    /// Differs between mappings that make different posts of the same record.
    pub(super) fn fingerprint(&self) -> String {
        let mut text = String::new();
        let _written = write!(text, "{:?} {}", self.columns, self.ignore_unknown);
        hex::encode(Sha256::digest(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(maps: &[&str], constants: &[&str]) -> Result<Mapping, Failure> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Mapping::new(&owned(maps), &owned(constants), false)
    }

    #[test]
    fn columns_take_what_they_are_given() {
        let mapping = mapping(&["content=author", "topic=my=topic"], &["platform=t=1"]).expect("valid");
        let column = |field: &str| mapping.column_of(field, 0).and_then(|at| COLUMNS.get(at).copied());
        assert_eq!(column("author"), Some("content"), "and the column author nothing");
        assert_eq!((column("my=topic"), column("post_id")), (Some("topic"), Some("post_id")));
        assert_eq!((column("content"), column("platform")), (None, None));
        assert_eq!(mapping.constants().collect::<Vec<_>>(), [("platform", "t=1")]);
        assert_eq!((mapping.field_for("platform"), mapping.field_for("content")), (None, Some("author")));
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        for (maps, constants) in [
            (&["content"][..], &[][..]),
            (&["secret=x"], &[]),
            (&["content=x", "content=y"], &[]),
            (&["content=x"], &["content=y"]),
            (&["content=x", "topic=x"], &[]),
        ] {
            assert!(mapping(maps, constants).is_err(), "{maps:?} {constants:?}");
        }
        let one = mapping(&["content=x"], &[]).expect("valid").fingerprint();
        assert_ne!(one, mapping(&["content=y"], &[]).expect("valid").fingerprint());
    }
}
