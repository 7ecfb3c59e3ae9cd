//! Passwords and the API key of one data folder: made at random once, kept in a file that only its owner may read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use rand::RngExt as _;
use rand::distr::{Alphanumeric, SampleString as _};

use super::data_dir::write_private;
use crate::config::read_env_file;
use crate::domain::{ApiKey, Failure};

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
    /// Airflow's administrator.
    Airflow,
}

const OWNERS: [(Owner, &str); 8] = [
    (Owner::PostgresAdmin, "POSTGRES_ADMIN"),
    (Owner::Api, "POSTGRES_API"),
    (Owner::Sink, "POSTGRES_SINK"),
    (Owner::Etl, "POSTGRES_ETL"),
    (Owner::Debezium, "POSTGRES_DEBEZIUM"),
    (Owner::ClickHouseAdmin, "CLICKHOUSE_ADMIN"),
    (Owner::ClickHouseReader, "CLICKHOUSE_READER"),
    (Owner::Airflow, "AIRFLOW_ADMIN"),
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

    /// The API key with what is stored of it.
    ///
    /// # Errors
    /// `Failure::Config` when the file was changed by hand.
    pub(super) fn parsed_api_key(&self) -> anyhow::Result<ApiKey> {
        ApiKey::parse(self.api_key()).with_context(|| {
            Failure::Config(format!("{API_KEY} in the file of secrets is no API key: remove the line to get a new one"))
        })
    }
}

fn new_api_key() -> String {
    let mut random = rand::rng();
    ApiKey::from_random(random.random(), random.random()).expose().to_owned()
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
    fn an_api_key_that_was_changed_by_hand_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        let made = Secrets::load_or_make(&path).expect("made").parsed_api_key().expect("a key");
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.contains(made.expose()));
        std::fs::write(&path, text.replace(made.expose(), "pk_mine")).expect("written");
        let error = Secrets::load_or_make(&path).expect("read").parsed_api_key().expect_err("no key");
        assert_eq!(Failure::exit_code_of(&error), 78);
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
