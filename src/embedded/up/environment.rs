//! The addresses and secrets of what runs, as variables: for `.platform/env`, and for each part what it may know.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::SecretString;

use super::part::postgres::{ADMINISTRATOR, DATABASE};
use super::ports::Ports;
use super::process::Launch;
use super::secrets::{Owner, Secrets};
use crate::config;

/// ClickHouse's administrator.
const CLICKHOUSE_ADMIN: &str = "platform";
/// ClickHouse's user of the API.
const CLICKHOUSE_READER: &str = "reader";

/// Everything that can be known about the running parts.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// Ports.
    pub(super) ports: Arc<Ports>,
    /// Secrets.
    pub(super) secrets: Secrets,
    /// The parts that are started; nothing is said of others.
    pub(super) parts: BTreeSet<&'static str>,
}

/// Names and values.
pub(super) type Variables = Vec<(&'static str, String)>;

/// What only an administrator, or one part, may know. A child that is not given one does not inherit it either.
const RESTRICTED: [&str; 8] = [
    "PLATFORM__POSTGRES__URL",
    "PLATFORM__POSTGRES__API_PASSWORD",
    "PLATFORM__POSTGRES__SINK_PASSWORD",
    "PLATFORM__POSTGRES__ETL_PASSWORD",
    "PLATFORM__POSTGRES__DEBEZIUM_PASSWORD",
    "PLATFORM__CLICKHOUSE__USER",
    "PLATFORM__CLICKHOUSE__PASSWORD",
    "PLATFORM_API_KEY",
];

impl Environment {
    /// `127.0.0.1:PORT` of a part.
    pub(super) fn address(&self, part: &str) -> String {
        format!("127.0.0.1:{}", self.ports.of(part))
    }

    /// `http://127.0.0.1:PORT` of a part.
    pub(super) fn url(&self, part: &str) -> String {
        format!("http://{}", self.address(part))
    }

    /// What an administrator needs: `.platform/env`, and the jobs that set things up.
    pub(super) fn administrator(&self) -> Variables {
        let mut variables = self.addresses();
        if self.parts.contains("postgres") {
            let password = |owner| self.secrets.password(owner).to_owned();
            variables.extend([
                ("PLATFORM__POSTGRES__URL", self.postgres_url(ADMINISTRATOR, Owner::PostgresAdmin, DATABASE)),
                ("PLATFORM__POSTGRES__API_PASSWORD", password(Owner::Api)),
                ("PLATFORM__POSTGRES__SINK_PASSWORD", password(Owner::Sink)),
                ("PLATFORM__POSTGRES__ETL_PASSWORD", password(Owner::Etl)),
                ("PLATFORM__POSTGRES__DEBEZIUM_PASSWORD", password(Owner::Debezium)),
            ]);
        }
        variables.extend(self.clickhouse(CLICKHOUSE_ADMIN, Owner::ClickHouseAdmin));
        variables
    }

    /// What the sink needs: its own role, writing to ClickHouse, and what a connector is made with that somebody has removed.
    pub(super) fn sink(&self) -> Variables {
        let mut variables = self.addresses();
        variables.push(("PLATFORM__POSTGRES__URL", self.postgres_url("platform_sink", Owner::Sink, DATABASE)));
        let debezium = self.secrets.password(Owner::Debezium).to_owned();
        variables.push(("PLATFORM__POSTGRES__DEBEZIUM_PASSWORD", debezium));
        variables.extend(self.clickhouse(CLICKHOUSE_ADMIN, Owner::ClickHouseAdmin));
        variables
    }

    /// What the API needs: its own role, and reading from ClickHouse.
    pub(super) fn api(&self) -> Variables {
        let mut variables = self.addresses();
        variables.push(("PLATFORM__POSTGRES__URL", self.postgres_url("platform_api", Owner::Api, DATABASE)));
        variables.extend(self.clickhouse(CLICKHOUSE_READER, Owner::ClickHouseReader));
        variables
    }

    /// What the batch jobs need that Airflow runs: their own role, and writing to ClickHouse.
    pub(super) fn etl(&self) -> Variables {
        let mut variables = self.addresses();
        variables.push(("PLATFORM__POSTGRES__URL", self.postgres_url("platform_etl", Owner::Etl, DATABASE)));
        variables.extend(self.clickhouse(CLICKHOUSE_ADMIN, Owner::ClickHouseAdmin));
        variables
    }

    /// What ClickHouse's front needs: the passwords of its users.
    pub(super) fn clickhouse_front(&self) -> Variables {
        let mut variables = self.clickhouse(CLICKHOUSE_ADMIN, Owner::ClickHouseAdmin);
        let password = self.secrets.password(Owner::ClickHouseReader).to_owned();
        variables.extend([
            ("PLATFORM__UP__CLICKHOUSE_READER_USER", CLICKHOUSE_READER.to_owned()),
            ("PLATFORM__UP__CLICKHOUSE_READER_PASSWORD", password),
        ]);
        variables
    }

    /// The text of `.platform/env`, which a shell can source.
    pub(super) fn file_text(&self) -> String {
        let mut text = String::from("# Written by `platform up`: what it runs, and an administrator's passwords.\n");
        let mut variables = self.administrator();
        variables.push(("PLATFORM_API_URL", self.url("api")));
        variables.push(("PLATFORM_API_KEY", self.secrets.api_key().to_owned()));
        if self.parts.contains("airflow") {
            variables.push(("PLATFORM_AIRFLOW_URL", self.url("airflow")));
            variables.push(("PLATFORM_AIRFLOW_PASSWORD", self.secrets.password(Owner::Airflow).to_owned()));
        }
        for (name, value) in variables {
            text.push_str(&format!("{name}='{value}'\n"));
        }
        text
    }

    /// Settings for the administrator's own connections to PostgreSQL.
    pub(super) fn postgres_settings(&self, settings: &config::Postgres, database: &str) -> config::Postgres {
        let url = self.postgres_url(ADMINISTRATOR, Owner::PostgresAdmin, database);
        config::Postgres { url: SecretString::from(url), ..settings.clone() }
    }

    /// Settings for the administrator's own connections to ClickHouse.
    pub(super) fn clickhouse_settings(&self, settings: &config::ClickHouse) -> config::ClickHouse {
        config::ClickHouse {
            url: self.url("clickhouse"),
            user: CLICKHOUSE_ADMIN.to_owned(),
            password: SecretString::from(self.secrets.password(Owner::ClickHouseAdmin).to_owned()),
            ..settings.clone()
        }
    }

    fn addresses(&self) -> Variables {
        let known = [
            ("clickhouse", "PLATFORM__CLICKHOUSE__URL", self.url("clickhouse")),
            ("kafka", "PLATFORM__KAFKA__BROKERS", self.address("kafka")),
            ("connect", "PLATFORM__CONNECT__URL", self.url("connect")),
            ("serve", "PLATFORM__API__BIND", self.address("api")),
            ("sink", "PLATFORM__SINK__BIND", self.address("sink")),
        ];
        known.into_iter().filter(|(part, ..)| self.parts.contains(part)).map(|(_, name, value)| (name, value)).collect()
    }

    fn postgres_url(&self, role: &str, owner: Owner, database: &str) -> String {
        format!("postgres://{role}:{}@{}/{database}", self.secrets.password(owner), self.address("postgres"))
    }

    fn clickhouse(&self, user: &str, owner: Owner) -> Variables {
        if !self.parts.contains("clickhouse") {
            return Vec::new();
        }
        let password = self.secrets.password(owner).to_owned();
        vec![("PLATFORM__CLICKHOUSE__USER", user.to_owned()), ("PLATFORM__CLICKHOUSE__PASSWORD", password)]
    }
}

/// A launch that knows `variables`, and of what is restricted nothing else: neither from the environment nor from a
/// `.platform/env`, which an empty value hides.
pub(super) fn with_variables(launch: Launch, variables: Variables) -> Launch {
    let hidden = RESTRICTED.iter().filter(|name| !variables.iter().any(|(given, _)| given == *name));
    let launch = hidden.fold(launch, |launch, name| launch.env(name, "").without_env(&format!("{name}_FILE")));
    let give =
        |launch: Launch, (name, value): (&str, String)| launch.env(name, value).without_env(&format!("{name}_FILE"));
    variables.into_iter().fold(launch, give)
}

#[cfg(test)]
mod tests {
    use super::super::ports::Wish;
    use super::*;

    fn environment(folder: &std::path::Path) -> Environment {
        let wish = |part| Wish { part, title: part, port: 0, flexible: false };
        let ports = Ports::take(&["postgres", "clickhouse", "api", "sink"].map(wish)).expect("free");
        let secrets = Secrets::load_or_make(&folder.join("secrets")).expect("made");
        let parts = BTreeSet::from(["postgres", "clickhouse", "serve", "sink"]);
        Environment { ports: Arc::new(ports), secrets, parts }
    }

    #[test]
    fn a_part_knows_its_own_role_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = environment(folder.path());
        let password = |owner| environment.secrets.password(owner).to_owned();
        let text = |variables: Variables| variables.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(" ");
        let (sink, api) = (text(environment.sink()), text(environment.api()));
        assert!(sink.contains(&password(Owner::Sink)) && sink.contains(&password(Owner::ClickHouseAdmin)));
        assert!(api.contains(&password(Owner::Api)) && api.contains(&password(Owner::ClickHouseReader)));
        for strange in [Owner::PostgresAdmin, Owner::Etl] {
            assert!(!sink.contains(&password(strange)) && !api.contains(&password(strange)), "{strange:?}");
        }
        // The sink makes a connector again that somebody has removed.
        assert!(sink.contains(&password(Owner::Debezium)) && !api.contains(&password(Owner::Debezium)));
        assert!(!api.contains(&password(Owner::ClickHouseAdmin)) && !sink.contains(&password(Owner::Api)));
    }

    #[test]
    fn the_file_speaks_of_started_parts_only_and_can_be_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = environment(folder.path());
        let path = folder.path().join("env");
        std::fs::write(&path, environment.file_text()).expect("written");
        let read = config::read_env_file(&path).expect("readable");
        assert_eq!(read["PLATFORM__CLICKHOUSE__URL"], environment.url("clickhouse"));
        assert_eq!(read["PLATFORM_API_KEY"], environment.secrets.api_key());
        assert!(read["PLATFORM__POSTGRES__URL"].starts_with("postgres://postgres:"), "an administrator's");
        assert!(!read.contains_key("PLATFORM__KAFKA__BROKERS"), "Kafka is not started");
    }
}
