//! Which incarnation of a table a mirror was made from: kept as the comment of the mirror table, so that it changes with it
//! in one step.

use std::fmt;

/// What PostgreSQL's catalog says of a table beside its columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Relation {
    /// `pg_class.oid`: another one under the same name is another table.
    pub oid: u32,
    /// OID of the row that makes it a member of the publication; 0 for a publication of all tables. Another one: the table
    /// was out of the publication in between, and its changes of that time are in no log.
    pub membership: u32,
    /// `pg_class.relfilenode`: another one means that the rows were written anew.
    pub file_node: u32,
    /// A hash of `pg_attribute.xmin` of all columns: another one means that a column was changed.
    pub attributes: String,
}

impl Relation {
    /// Whether rows may have changed without a word in the log since `before`: a change of a column that wrote the table
    /// anew (a volatile default, `ALTER … TYPE … USING`). Either alone does not: VACUUM FULL and TRUNCATE only write the
    /// file anew, and other changes of columns leave the rows alone.
    pub fn is_rewritten_since(&self, before: &Self) -> bool {
        self.file_node != before.file_node && self.attributes != before.attributes
    }

    /// Reads what `Display` wrote, with the attribute numbers of the key behind it.
    pub fn from_comment(comment: &str) -> Option<(Self, Vec<i16>)> {
        let mut words = comment.split(' ');
        let mut next = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
        let relation = Self {
            oid: next("oid")?.parse().ok()?,
            membership: next("membership")?.parse().ok()?,
            file_node: next("file_node")?.parse().ok()?,
            attributes: next("attributes")?.to_owned(),
        };
        let key = next("key")?.split(',').map(|attnum| attnum.parse().ok()).collect::<Option<_>>()?;
        Some((relation, key))
    }

    /// The comment of the mirror of a table with this key.
    pub fn to_comment(&self, key: &[i16]) -> String {
        let key: Vec<String> = key.iter().map(i16::to_string).collect();
        format!("{self} key={}", key.join(","))
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oid, membership, file_node, attributes } = self;
        write!(f, "oid={oid} membership={membership} file_node={file_node} attributes={attributes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_back() {
        let relation = Relation { oid: 16_400, membership: 16_450, file_node: 7, attributes: "a1b2".into() };
        assert_eq!(Relation::from_comment(&relation.to_comment(&[3, 1])), Some((relation, vec![3, 1])));
        for foreign in
            ["", "the team's table", "oid=1 membership=2", "oid=1 membership=2 file_node=3 attributes=x key="]
        {
            assert_eq!(Relation::from_comment(foreign), None, "{foreign}");
        }
    }
}
