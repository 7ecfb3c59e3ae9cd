//! Passwords and the API key of one data folder: made at random once, kept in a file that only its owner may read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use rand::RngExt as _;
use rand::distr::{Alphanumeric, SampleString as _};

use super::data_dir::write_private;
use crate::config::read_env_file;
use crate::domain::Failure;

/// Letters and digits only, so that a URL and a shell take a password as it is; 32 of 62 kinds are 190 bits.
const PASSWORD_LENGTH: usize = 32;

/// Whom a password belongs to; the file has one line for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// PostgreSQL's superuser.
    PostgresAdmin,
    /// Role of the API.
    Api,
    /// Role of the sink.
    Sink,
    /// Role of the batch jobs.
    Etl,
    /// Role of the connector.
    Debezium,
    /// ClickHouse's administrator.
    ClickHouseAdmin,
    /// ClickHouse's user who may only read.
    ClickHouseReader,
}

const OWNERS: [(Owner, &str); 7] = [
    (Owner::PostgresAdmin, "POSTGRES_ADMIN"),
    (Owner::Api, "POSTGRES_API"),
    (Owner::Sink, "POSTGRES_SINK"),
    (Owner::Etl, "POSTGRES_ETL"),
    (Owner::Debezium, "POSTGRES_DEBEZIUM"),
    (Owner::ClickHouseAdmin, "CLICKHOUSE_ADMIN"),
    (Owner::ClickHouseReader, "CLICKHOUSE_READER"),
];
const API_KEY: &str = "API_KEY";

/// All secrets of the folder. Never printed, but for the API key, which `platform up` shows on purpose.
#[derive(Clone)]
pub(super) struct Secrets {
    values: BTreeMap<String, String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads the file, and makes what is missing in it.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn load_or_make(path: &Path) -> anyhow::Result<Self> {
        let mut values = if path.exists() { read_env_file(path)? } else { BTreeMap::new() };
        let known = values.len();
        for (_, name) in OWNERS {
            values
                .entry(name.to_owned())
                .or_insert_with(|| Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH));
        }
        values.entry(API_KEY.to_owned()).or_insert_with(new_api_key);
        if values.len() != known {
            let lines: Vec<String> = values.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            write_private(path, &lines.concat())?;
        }
        Ok(Self { values })
    }

    /// The password of `owner`.
    pub(super) fn password(&self, owner: Owner) -> &str {
        let name = OWNERS.iter().find(|(one, _)| *one == owner).map(|(_, name)| *name);
        name.and_then(|name| self.values.get(name)).map_or("", String::as_str)
    }

    /// The API key as a client sends it.
    pub(super) fn api_key(&self) -> &str {
        self.values.get(API_KEY).map_or("", String::as_str)
    }

    /// The part of the API key that is stored in plain text, to look the key up by.
    ///
    /// # Errors
    /// `Failure::Config` when the file was changed by hand.
    pub(super) fn api_key_prefix(&self) -> anyhow::Result<&str> {
        let prefix = self.api_key().strip_prefix("pk_").and_then(|rest| rest.split_once('_')).map(|(prefix, _)| prefix);
        prefix.filter(|prefix| prefix.len() == 8).with_context(|| {
            Failure::Config(format!("{API_KEY} in the file of secrets is no API key: remove the line to get a new one"))
        })
    }
}

/// `pk_`, 8 hexadecimal digits to look the key up by, `_`, 256 random bits in hexadecimal.
fn new_api_key() -> String {
    let mut random = rand::rng();
    let (prefix, secret): ([u8; 4], [u8; 32]) = (random.random(), random.random());
    format!("pk_{}_{}", hex::encode(prefix), hex::encode(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_differ() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        let first = Secrets::load_or_make(&path).expect("made");
        let second = Secrets::load_or_make(&path).expect("read");
        assert_eq!(first.values, second.values);
        let distinct: std::collections::BTreeSet<&String> = first.values.values().collect();
        assert_eq!(distinct.len(), OWNERS.len() + 1);
        assert!(first.password(Owner::Sink).chars().all(|c| c.is_ascii_alphanumeric()));
        assert_eq!(first.password(Owner::Sink).len(), PASSWORD_LENGTH);
        assert!(!format!("{first:?}").contains(first.password(Owner::Sink)));
    }

    #[test]
    fn an_api_key_has_its_agreed_shape() {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = Secrets::load_or_make(&folder.path().join("secrets")).expect("made");
        let key = secrets.api_key();
        assert_eq!(key.len(), 3 + 8 + 1 + 64);
        let words: Vec<&str> = key.split('_').collect();
        assert_eq!(words[..2], ["pk", secrets.api_key_prefix().expect("a key")]);
        assert!(words[1..].concat().chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)));
    }

    #[test]
    fn a_secret_that_came_later_is_added() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        std::fs::write(&path, "POSTGRES_ADMIN=kept\n").expect("written");
        let secrets = Secrets::load_or_make(&path).expect("completed");
        assert_eq!(secrets.password(Owner::PostgresAdmin), "kept");
        assert_eq!(secrets.password(Owner::Etl).len(), PASSWORD_LENGTH);
    }
}
