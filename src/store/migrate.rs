//! Migrations of both databases: numbered SQL files, compiled in, each applied once and remembered with its checksum.
//!
//! PostgreSQL runs each file in a transaction. ClickHouse has none, so every statement of its files can be repeated. One
//! advisory lock in PostgreSQL covers both, so two runs at once do not meet.

use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

use super::clickhouse::ClickHouse;
use crate::domain::Failure;

struct Migration {
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(Migration { name: $name, sql: include_str!(concat!("../../sql/migrations/", $folder, "/", $name, ".sql")) }),+]
    };
}

const POSTGRES: &[Migration] = migrations!(
    "postgres": "0001_roles", "0002_sentiment_social", "0003_platform", "0004_grants", "0005_publication",
    "0006_heartbeat_identity", "0007_operating", "0008_api_keys", "0010_imports",
);
const CLICKHOUSE: &[Migration] = migrations!("clickhouse": "0001_databases", "0002_platform", "0003_table_states", "0004_operating", "0005_dirty_buckets",
    "0006_lag_history", "0007_table_versions");

/// Identifies the migrations' advisory lock among all of the database ("platfmig" in ASCII).
const LOCK: i64 = 0x706c_6174_666d_6967;

/// What a run changed.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Names of the files applied to PostgreSQL.
    pub postgres: Vec<String>,
    /// Names of the files applied to ClickHouse.
    pub clickhouse: Vec<String>,
}

/// Brings both databases up to date. Safe to repeat and to run twice at once.
///
/// # Errors
/// `Failure::Busy` when another run holds the lock for a minute, `Failure::Config` when a file was applied in another form.
pub async fn run(postgres: &mut Client, clickhouse: &ClickHouse) -> anyhow::Result<Applied> {
    lock(postgres).await?;
    let applied =
        Applied { postgres: migrate_postgres(postgres).await?, clickhouse: migrate_clickhouse(clickhouse).await? };
    postgres.execute("select pg_advisory_unlock($1)", &[&LOCK]).await.context("releasing the migration lock")?;
    Ok(applied)
}

/// Gives `role` its password. Only the SCRAM verifier travels, so that no server log can hold the password.
///
/// # Errors
/// The connection is not an administrator's.
pub async fn set_password(postgres: &Client, role: &str, password: &SecretString) -> anyhow::Result<()> {
    let verifier = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
    let sql = format!("alter role {} password '{}'", crate::domain::quote_postgres(role), verifier.replace('\'', "''"));
    postgres.batch_execute(&sql).await.with_context(|| format!("setting the password of role {role}"))
}

async fn lock(postgres: &Client) -> anyhow::Result<()> {
    postgres
        .batch_execute("set lock_timeout = '60s'; set statement_timeout = 0")
        .await
        .context("preparing the session")?;
    let locked = postgres.execute("select pg_advisory_lock($1)", &[&LOCK]).await;
    locked.map(drop).map_err(|error| {
        let text =
            format!("another `platform migrate` holds the lock since {} s: {}", 60, super::postgres::chain(&error));
        Failure::Busy(text).into()
    })
}

async fn migrate_postgres(client: &mut Client) -> anyhow::Result<Vec<String>> {
    client
        .batch_execute(
            "create table if not exists public.platform_migrations \
             (name text primary key, sha256 text not null, applied_at timestamptz not null default now())",
        )
        .await
        .context("making PostgreSQL's table of migrations")?;
    let mut applied = Vec::new();
    for migration in POSTGRES {
        let sha256 = checksum(migration);
        let known = client
            .query_opt("select sha256 from public.platform_migrations where name = $1", &[&migration.name])
            .await?;
        if let Some(row) = known {
            check(migration, &sha256, &row.try_get::<_, String>(0)?)?;
            continue;
        }
        let transaction = client.transaction().await?;
        let run = transaction.batch_execute(migration.sql).await;
        run.map_err(|error| {
            anyhow::anyhow!("PostgreSQL migration {}: {}", migration.name, super::postgres::chain(&error))
        })?;
        let remember = "insert into public.platform_migrations (name, sha256) values ($1, $2)";
        transaction.execute(remember, &[&migration.name, &sha256]).await?;
        transaction.commit().await?;
        applied.push(migration.name.to_owned());
    }
    Ok(applied)
}

#[derive(Deserialize)]
struct Known {
    name: String,
    sha256: String,
}

async fn migrate_clickhouse(client: &ClickHouse) -> anyhow::Result<Vec<String>> {
    let known = known_to_clickhouse(client).await?;
    let mut applied = Vec::new();
    for migration in CLICKHOUSE {
        let sha256 = checksum(migration);
        if let Some(row) = known.iter().find(|row| row.name == migration.name) {
            check(migration, &sha256, &row.sha256)?;
            continue;
        }
        for statement in statements(migration.sql) {
            client
                .execute(&statement, &[])
                .await
                .with_context(|| format!("ClickHouse migration {}", migration.name))?;
        }
        applied.push((migration.name, sha256));
    }
    // Remembered last: the table itself comes from one of the files.
    for (name, sha256) in &applied {
        let remember = "insert into platform.migrations select {name:String}, {sha256:String}, now64(6)";
        client
            .execute(remember, &[("name", name), ("sha256", sha256)])
            .await
            .context("remembering a ClickHouse migration")?;
    }
    Ok(applied.into_iter().map(|(name, _)| name.to_owned()).collect())
}

async fn known_to_clickhouse(client: &ClickHouse) -> anyhow::Result<Vec<Known>> {
    let limited = client.with_timeout(Duration::from_secs(30));
    match limited.fetch_all("select name, sha256 from platform.migrations final", &[]).await {
        Ok(known) => Ok(known),
        // 60: no such table, 81: no such database.
        Err(error) if matches!(error.code(), Some(60 | 81)) => Ok(Vec::new()),
        Err(error) => Err(unavailable(error)),
    }
}

fn unavailable(error: super::clickhouse::Error) -> anyhow::Error {
    let retry = error.class() == super::clickhouse::Class::Retry;
    let text = error.to_string();
    if retry { anyhow::Error::from(Failure::Unavailable(text)) } else { error.into() }
}

fn checksum(migration: &Migration) -> String {
    hex::encode(Sha256::digest(migration.sql.as_bytes()))
}

fn check(migration: &Migration, ours: &str, applied: &str) -> anyhow::Result<()> {
    if ours == applied {
        return Ok(());
    }
    bail!(Failure::Config(format!(
        "migration {} was applied in another form (its checksum differs): this program is not the one that made these databases",
        migration.name
    )))
}

/// The statements of a file: separated by `;` at the end of a line, comments dropped.
fn statements(sql: &str) -> Vec<String> {
    let code: String =
        sql.lines().filter(|line| !line.trim_start().starts_with("--")).flat_map(|line| [line, "\n"]).collect();
    code.split(";\n").map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_split_into_statements() {
        assert_eq!(statements("-- a; b\ncreate x;\n\ncreate y (\n a;b\n);\n"), ["create x", "create y (\n a;b\n)"]);
        assert!(CLICKHOUSE.iter().all(|migration| {
            statements(migration.sql)
                .iter()
                .all(|s| s.contains("if not exists") || s.contains("create or replace view"))
        }));
    }
}
