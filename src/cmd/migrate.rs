//! `platform migrate`: brings both databases to the schema that this program needs.

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::Settings;
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;
use crate::store::{kafka, migrate, postgres};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Migrates PostgreSQL and ClickHouse, gives the roles their passwords, and makes the topic if a broker is configured.
///
/// # Errors
/// `Failure::Unavailable` (69) when a database does not answer, `Failure::Busy` (75) while another run holds the lock,
/// `Failure::Config` (78) when the databases were made by another program.
pub async fn run(_args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    shutdown.guard(migrate_all(&settings)).await
}

async fn migrate_all(settings: &Settings) -> anyhow::Result<()> {
    let mut client = postgres::connect(&settings.postgres, "platform migrate").await?;
    let clickhouse = ClickHouse::new(&settings.clickhouse)?;
    let applied = migrate::run(&mut client, &clickhouse).await.context("migrating")?;
    for (role, password) in passwords(settings) {
        if !password.expose_secret().is_empty() {
            migrate::set_password(&client, role, password).await?;
        }
    }
    if !settings.kafka.brokers.is_empty() {
        kafka::ensure_topic(&settings.kafka, &settings.sink.topic).await?;
    }
    tracing::info!(postgres = applied.postgres.len(), clickhouse = applied.clickhouse.len(), "migrations applied");
    super::print_result(&applied)
}

fn passwords(settings: &Settings) -> [(&'static str, &SecretString); 4] {
    let postgres = &settings.postgres;
    [
        ("platform_api", &postgres.api_password),
        ("platform_sink", &postgres.sink_password),
        ("platform_etl", &postgres.etl_password),
        ("debezium", &postgres.debezium_password),
    ]
}
