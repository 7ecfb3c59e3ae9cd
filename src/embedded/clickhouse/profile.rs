//! The session that a request needs. Two requests share a connection only if their profiles are equal.

use std::collections::BTreeMap;

use super::exception::Exception;
use crate::domain::quote_clickhouse;

/// Everything that a request changes about its session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// The engine refuses every change, and `readonly` itself cannot be changed any more.
    pub(super) read_only: bool,
    pub(super) database: Option<String>,
    pub(super) settings: BTreeMap<String, String>,
}

impl Profile {
    /// Arguments of the connection, which no statement can take back.
    pub(super) fn arguments(&self) -> Vec<String> {
        // 2: reads only, and settings other than `readonly` may be changed.
        if self.read_only { vec!["--readonly=2".into()] } else { Vec::new() }
    }

    /// Statements that bring a new connection, whose tag is `tag`, to this profile.
    ///
    /// # Errors
    /// 115 for a name that is no name of a setting.
    pub(super) fn statements(&self, tag: &str) -> Result<Vec<String>, Exception> {
        let mut statements = Vec::new();
        if !self.settings.is_empty() {
            let pairs: Result<Vec<String>, Exception> = self
                .settings
                .iter()
                .map(|(name, value)| Ok(format!("{} = {}", checked(name)?, self.value(name, value, tag))))
                .collect();
            statements.push(format!("SET {}", pairs?.join(", ")));
        }
        if let Some(database) = &self.database {
            statements.push(format!("USE {}", quote_clickhouse(database)));
        }
        Ok(statements)
    }

    fn value(&self, name: &str, value: &str, tag: &str) -> String {
        // The tag stays in front, since cancelling looks for it.
        if name == "log_comment" { literal(&format!("{tag}{value}")) } else { literal(value) }
    }
}

/// The name of a setting: a word, with dots for custom ones.
fn checked(name: &str) -> Result<&str, Exception> {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if name.split('.').all(word) {
        return Ok(name);
    }
    Err(Exception::from_engine(format!(
        "Code: 115. DB::Exception: Setting {} is neither a builtin setting nor a parameter of this interface. (UNKNOWN_SETTING)",
        name.escape_debug()
    )))
}

/// A string literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_database_cannot_leave_their_quotes() {
        let profile = Profile {
            read_only: true,
            database: Some("d`; DROP".into()),
            settings: BTreeMap::from([("a".into(), r"x\', readonly = '0".into()), ("log_comment".into(), "me".into())]),
        };
        assert_eq!(
            profile.statements("platform-1;").expect("accepted"),
            [r"SET a = 'x\\\', readonly = \'0', log_comment = 'platform-1;me'", r"USE `d\`; DROP`"]
        );
        assert_eq!(profile.arguments(), ["--readonly=2"]);
    }

    #[test]
    fn names_are_words() {
        for name in ["a = 1, b", "", "1a", "a;b", "a b", "ä"] {
            let profile =
                Profile { settings: BTreeMap::from([(name.to_owned(), "1".to_owned())]), ..Profile::default() };
            assert_eq!(profile.statements("t;").expect_err(name).code, 115);
        }
        assert!(checked("SQL_x.y").is_ok());
    }
}
