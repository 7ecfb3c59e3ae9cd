//! The jobs, run as processes against real databases.

mod cron;
mod etl;
mod etl_dirty;
mod etl_large_day;
mod etl_meanwhile;
mod etl_refusals;
mod etl_trouble;
mod etl_verify;
mod generate;
mod generate_days;
mod hybrid;
mod import;
mod import_bombs;
mod import_sources;
mod mirrored;
mod shared_read;
mod stale_buckets;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::support::postgres_server::PostgresServer;
use crate::support::wait::wait_until;

/// A PostgreSQL with the platform's schema, a folder, and the program to run in it.
struct Bench {
    postgres: PostgresServer,
    client: Client,
    dir: TempDir,
    variables: Vec<(String, String)>,
}

/// How a run of the program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// The one JSON line.
    fn result(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Bench {
    async fn start() -> Self {
        let postgres = PostgresServer::start().await;
        let client = connect(&postgres.url()).await;
        let mut migrations: Vec<PathBuf> = std::fs::read_dir(repository().join("sql/migrations/postgres"))
            .expect("the migrations")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        migrations.sort();
        for migration in migrations {
            let sql = std::fs::read_to_string(&migration).expect("readable");
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{}: {error:?}", migration.display()));
        }
        let variables = vec![("PLATFORM__POSTGRES__URL".to_owned(), postgres.url())];
        Self { postgres, client, dir: tempfile::tempdir().expect("a folder"), variables }
    }

    /// Makes another one out of a database whose schema is there already.
    fn on(postgres: PostgresServer, client: Client, variables: Vec<(String, String)>) -> Self {
        Self { postgres, client, dir: tempfile::tempdir().expect("a folder"), variables }
    }

    /// Writes a file into the folder.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_platform"));
        command.args(arguments).current_dir(self.dir.path()).env_clear().kill_on_drop(true);
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    async fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments)).await
    }

    /// Waits until PostgreSQL answers `text`.
    async fn wait_for(&self, sql: &str, text: &str) {
        wait_until(&format!("{sql} is {text}"), Duration::from_secs(60), async || self.text(sql).await == text).await;
    }

    /// One text out of PostgreSQL.
    async fn text(&self, sql: &str) -> String {
        let row = self.client.query_one(&format!("select ({sql})::text"), &[]).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }
}

async fn ended(mut command: tokio::process::Command) -> Ended {
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    let output = output.await.expect("ends in time").expect("runs");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client.batch_execute("set timezone = 'UTC'").await.expect("a session");
    client
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
