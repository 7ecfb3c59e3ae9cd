//! PostgreSQL: single connections for jobs, and what their errors mean.

use std::time::Duration;

use anyhow::Context as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::config;
use crate::domain::Failure;

/// What the texts of values depend on, the same for everyone who reads them. `lc_monetary` is left as the database has it,
/// because Debezium's session has it so.
const TEXT_FORMS: &str = "set timezone = 'UTC'; set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres'; \
                          set extra_float_digits = 1; set bytea_output = 'hex'; set xmloption = 'content'";

/// Opens one connection; its I/O task runs on the current runtime and ends with the client.
///
/// Statements are limited by `postgres.statement_timeout_ms`; bulk work lifts that with `set statement_timeout = 0`.
///
/// # Errors
/// `Failure::Config` for a bad URL or refused credentials, `Failure::Unavailable` when nobody answers.
pub async fn connect(settings: &config::Postgres, application_name: &str) -> anyhow::Result<Client> {
    let config = settings.driver_config(application_name)?;
    connect_with(&config, settings).await
}

/// As `connect`, with a driver configuration made by `config::Postgres::driver_config` and changed since.
///
/// # Errors
/// Those of `connect`.
pub async fn connect_with(config: &tokio_postgres::Config, settings: &config::Postgres) -> anyhow::Result<Client> {
    let limit = Duration::from_millis(settings.connect_timeout_ms);
    let (client, connection) = tokio::time::timeout(limit, config.connect(NoTls))
        .await
        .map_err(|_| {
            Failure::Unavailable(format!(
                "PostgreSQL at {} did not answer within {} ms",
                address(config),
                limit.as_millis()
            ))
        })?
        .map_err(|error| connect_failure(config, &error))?;
    tokio::spawn(async move {
        // The client's calls report the same error; here it would be said twice.
        drop(connection.await);
    });
    let session = format!("set statement_timeout = {}; {TEXT_FORMS}", settings.statement_timeout_ms);
    client.batch_execute(&session).await.context("preparing the PostgreSQL session")?;
    Ok(client)
}

/// `host:port/database`, for messages: no user, no password.
pub fn address(config: &tokio_postgres::Config) -> String {
    use tokio_postgres::config::Host;
    let host = config.get_hosts().first().map_or_else(
        || "localhost".to_owned(),
        |host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        },
    );
    format!("{host}:{}/{}", config.get_ports().first().unwrap_or(&5432), config.get_dbname().unwrap_or("postgres"))
}

fn connect_failure(config: &tokio_postgres::Config, error: &tokio_postgres::Error) -> Failure {
    let address = address(config);
    match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Failure::Config(format!("PostgreSQL at {address} refuses the user or password of postgres.url"))
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            Failure::Config(format!("PostgreSQL at {address} has no such database"))
        }
        _ => Failure::Unavailable(format!("PostgreSQL at {address} is not reachable: {}", chain(error))),
    }
}

/// An error with its causes in one line: `tokio_postgres::Error` alone prints `db error`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Adds `Failure::Unavailable` to an error that comes from a PostgreSQL that may answer later, unless the error says
/// already how the job ends.
pub fn or_unavailable(error: anyhow::Error) -> anyhow::Error {
    let judged = error.downcast_ref::<Failure>().is_some() || error.chain().any(|cause| cause.is::<Failure>());
    let transient =
        error.chain().find_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()).is_some_and(is_transient);
    if transient && !judged { error.context(Failure::Unavailable("PostgreSQL failed".into())) } else { error }
}

/// Whether waiting may help: the connection broke, the server starts, stops or is full, or it asks to try again.
pub fn is_transient(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => {
            let class = code.code().get(..2).unwrap_or_default();
            matches!(class, "08" | "53" | "57" | "58") || matches!(code.code(), "40001" | "40P01" | "55P03")
        }
    }
}
