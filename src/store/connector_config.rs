//! The connector's configuration: `deploy/connect/platform.json` and what depends on where it runs.

use std::collections::BTreeMap;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use tokio_postgres::Client;
use tokio_postgres::config::Host;

use crate::config::Settings;
use crate::domain::Failure;

/// Every setting that is the same everywhere; `deploy/connect/README.md` gives the reasons.
const COMMON: &str = include_str!("../../deploy/connect/platform.json");

/// The whole configuration for `settings.sink.pipeline`.
///
/// # Errors
/// `Failure::Config` when an address or the password is missing.
pub fn build(settings: &Settings, placeholder: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let postgres = settings.postgres.driver_config("platform connector")?;
    let host = match postgres.get_hosts().first() {
        _ if !settings.connect.postgres_host.is_empty() => settings.connect.postgres_host.clone(),
        Some(Host::Tcp(name)) => name.clone(),
        _ => {
            return Err(
                Failure::Config("connect.postgres_host is not set, and postgres.url names no host".into()).into()
            );
        }
    };
    let port = if settings.connect.postgres_port == 0 {
        postgres.get_ports().first().copied().unwrap_or(5432)
    } else {
        settings.connect.postgres_port
    };
    let password = settings.postgres.debezium_password.expose_secret();
    crate::config::required(password, "postgres.debezium_password", "PLATFORM__POSTGRES__DEBEZIUM_PASSWORD")?;
    let mut config = of_pipeline(settings, placeholder)?;
    config.extend(
        [
            ("database.hostname", host.as_str()),
            ("database.port", &port.to_string()),
            ("database.user", &settings.connect.postgres_user),
            ("database.password", password),
            ("database.dbname", postgres.get_dbname().unwrap_or("postgres")),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    Ok(config)
}

/// The part that decides what the messages mean, without addresses and secrets.
///
/// # Errors
/// The compiled file is no JSON, which a test would show.
pub fn of_pipeline(settings: &Settings, placeholder: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let pipeline = &settings.sink.pipeline;
    let mut config: BTreeMap<String, String> = serde_json::from_str(COMMON).context("deploy/connect/platform.json")?;
    config.extend(
        [
            ("slot.name", pipeline.as_str()),
            ("publication.name", pipeline),
            ("transforms.route.replacement", &settings.sink.topic),
            ("unavailable.value.placeholder", placeholder),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    Ok(config)
}

/// The random text that stands for an unchanged TOAST value in this pipeline's events.
///
/// # Errors
/// `Failure::Config` when the database was never migrated for this pipeline.
pub async fn placeholder(postgres: &Client, pipeline: &str) -> anyhow::Result<String> {
    let sql = "select unavailable_placeholder from platform.pipelines where name = $1";
    let row = postgres.query_opt(sql, &[&pipeline]).await.map_err(|error| {
        let text = super::postgres::chain(&error);
        anyhow::Error::from(Failure::Config(format!("{text}; run `platform migrate` first")))
    })?;
    let row = row.ok_or_else(|| {
        Failure::Config(format!("PostgreSQL knows no pipeline {pipeline}; run `platform migrate` first"))
    })?;
    Ok(row.try_get(0)?)
}
