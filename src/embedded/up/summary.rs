//! What is said when everything is ready: addresses, the API key, where things lie, how to stop.

use std::path::Path;
use std::time::Duration;

use super::console::{say, seconds};
use super::data_dir::DataDir;
use super::environment::Environment;
use super::part::airflow::USER;
use super::part::postgres::DATABASE;

/// Prints the addresses of what runs.
pub(super) fn print(environment: &Environment, data_dir: &DataDir, env_file: &Path, took: Duration) {
    let api = environment.url("api");
    let lines = [
        ("serve", "start page", format!("{api}/")),
        ("serve", "API and its docs", format!("{api}/v1, {api}/docs")),
        ("serve", "API key", environment.secrets.api_key().to_owned()),
        ("postgres", "PostgreSQL", format!("{}, database {DATABASE}", environment.address("postgres"))),
        ("clickhouse", "ClickHouse", environment.url("clickhouse")),
        ("kafka", "Kafka", environment.address("kafka")),
        ("connect", "Kafka Connect", environment.url("connect")),
        ("airflow", "Airflow", format!("{}, user {USER}", environment.url("airflow"))),
        ("sink", "sink's metrics", format!("{}/metrics", environment.url("sink"))),
    ];
    say("");
    for (part, title, value) in lines {
        if environment.parts.contains(part) {
            say(format!("  {title:20} {value}"));
        }
    }
    say(format!("  {:20} {}", "users and passwords", env_file.display()));
    say(format!("  {:20} {}", "logs", data_dir.logs().display()));
    say("");
    // The last line: whoever reads a pipe waits for it.
    say(format!("platform: ready after {}; Ctrl-C stops everything and keeps the data", seconds(took)));
}
