//! One struct a section of `config/default.toml`, which documents the keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::domain::Failure;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/default.toml documents every key")]
pub struct Settings {
    pub postgres: Postgres,
    pub clickhouse: ClickHouse,
    pub kafka: Kafka,
    pub connect: Connect,
    pub api: Api,
    pub sink: Sink,
    pub load: Load,
    pub etl: Etl,
    pub verify: Verify,
    pub tables: BTreeMap<String, Table>,
    pub up: Up,
    pub log: Log,
}

/// `[postgres]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Postgres {
    pub url: SecretString,
    pub connect_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub api_password: SecretString,
    pub sink_password: SecretString,
    pub etl_password: SecretString,
    pub debezium_password: SecretString,
}

impl Postgres {
    /// The driver's configuration, with the connect timeout, keepalives and an application name.
    ///
    /// # Errors
    /// `Failure::Config` when the URL is missing or no URL.
    pub fn driver_config(&self, application_name: &str) -> anyhow::Result<tokio_postgres::Config> {
        let url = required(self.url.expose_secret(), "postgres.url", "PLATFORM__POSTGRES__URL")?;
        let mut config: tokio_postgres::Config = url.parse().context(Failure::Config(
            "postgres.url is not a connection string; write postgres://user:password@host:port/database".into(),
        ))?;
        config.application_name(application_name);
        config.connect_timeout(Duration::from_millis(self.connect_timeout_ms));
        config.keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(Duration::from_secs(60));
        Ok(config)
    }
}

/// `[clickhouse]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ClickHouse {
    pub url: String,
    pub user: String,
    pub password: SecretString,
    pub timeout_ms: u64,
    pub compress_inserts: bool,
}

/// `[kafka]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Kafka {
    pub brokers: String,
    pub request_timeout_ms: u64,
}

impl Kafka {
    /// The brokers as a list.
    ///
    /// # Errors
    /// `Failure::Config` when none is named.
    pub fn broker_list(&self) -> anyhow::Result<Vec<String>> {
        let brokers = required(&self.brokers, "kafka.brokers", "PLATFORM__KAFKA__BROKERS")?;
        Ok(brokers.split(',').map(|broker| broker.trim().to_owned()).filter(|broker| !broker.is_empty()).collect())
    }
}

/// `[connect]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Connect {
    pub url: String,
    pub postgres_host: String,
    pub postgres_port: u16,
    pub postgres_user: String,
    pub request_timeout_ms: u64,
    pub running_timeout_ms: u64,
}

/// `[api]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Api {
    pub bind: String,
    pub auth: Auth,
    pub workers: usize,
    pub postgres_connections_per_worker: usize,
    pub acquire_timeout_ms: u64,
    pub query_timeout_ms: u64,
    pub body_bytes_max: usize,
    pub batch_bytes_max: usize,
    pub body_timeout_ms: u64,
    pub in_flight_max: usize,
    pub postgres_waiting_max: usize,
    pub rate_limit_requests: u32,
    pub rate_limit_window_s: u32,
    pub cors_origins: String,
    pub require_if_match: bool,
    pub drain_timeout_s: u64,
    pub event_streams_max: usize,
    pub events_seconds_max: u64,
    pub endpoints_dir: String,
    pub waiters_max: usize,
    pub cache_entries_max: usize,
    pub cache_bytes_max: usize,
}

/// Who may call the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// An API key with the right scope.
    Keys,
    /// Anybody; only on loopback.
    Off,
}

/// `[sink]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Sink {
    pub pipeline: String,
    pub topic: String,
    pub batch_rows_max: usize,
    pub batch_bytes_max: usize,
    pub batch_age_ms_max: u64,
    /// The same while many records are left in the topic.
    pub batch_age_behind_ms_max: u64,
    pub fetch_bytes_max: i32,
    pub fetch_wait_ms_max: i32,
    pub batches_in_flight_max: usize,
    /// Rows of one batch that may have to be read again from PostgreSQL.
    pub reread_rows_max: usize,
    pub retry_wait_ms_min: u64,
    pub retry_wait_ms_max: u64,
    pub bind: String,
    pub supervise_interval_ms: u64,
    pub requests_interval_ms: u64,
    pub stalled_after_s: u64,
}

/// `[load]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Load {
    pub connections: usize,
    pub block_rows_max: usize,
    pub block_bytes_max: usize,
    pub insert_bytes_max: usize,
    pub wait_lock_timeout_s: u64,
    pub wait_transactions_timeout_s: u64,
    pub wait_watermark_timeout_s: u64,
}

/// `[etl]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Etl {
    pub wait_timeout_s: u64,
    pub build_timeout_s: u64,
    pub refresh_interval_ms: u64,
    pub refresh_quiet_ms: u64,
    pub refresh_wait_ms_max: u64,
    pub aggregates_dir: String,
}

/// `[verify]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Verify {
    pub wait_timeout_s: u64,
    pub statement_timeout_s: u64,
    pub rounds_max: u32,
    pub candidate_rows_max: u64,
    pub repair_rows_max: usize,
}

/// `[tables.NAME]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Table {
    pub inexact: Inexact,
    pub columns: BTreeMap<String, Column>,
}

/// What becomes of a row whose event does not carry every value exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inexact {
    /// It is read again.
    #[default]
    Reread,
    /// It is parked.
    Park,
}

/// `[tables.NAME.columns.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Column {
    pub r#type: String,
}

/// `[up]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Up {
    pub data_dir: PathBuf,
    pub engines_dir: PathBuf,
    pub postgres_port: u16,
    pub kafka_port: u16,
    pub connect_port: u16,
    pub clickhouse_port: u16,
    pub clickhouse_reader_user: String,
    pub clickhouse_reader_password: SecretString,
    pub api_port: u16,
    pub sink_port: u16,
    pub airflow_port: u16,
    pub airflow_dir: PathBuf,
    pub airflow_dags_dir: PathBuf,
    pub ready_timeout_s: u64,
    pub stop_timeout_s: u64,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `value`, unless it is empty.
///
/// # Errors
/// `Failure::Config` that names the key and the variable.
pub fn required<'a>(value: &'a str, key: &str, variable: &str) -> Result<&'a str, Failure> {
    if value.is_empty() {
        return Err(Failure::Config(format!(
            "{key} is not set: set {variable}, or name a file with --config, or start `platform up` in this folder"
        )));
    }
    Ok(value)
}
