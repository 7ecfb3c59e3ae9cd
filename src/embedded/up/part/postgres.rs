//! PostgreSQL: made by initdb at the first start, on loopback only, ready for logical replication.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::super::data_dir::{make_folder, write_private};
use super::super::ports::Ports;
use super::super::postgres_home::PostgresHome;
use super::super::process::{Farewell, Launch};
use super::super::runner::Runner;
use super::super::service::Service;
use crate::config;
use crate::store::postgres;

/// The superuser's name.
pub(in super::super) const ADMINISTRATOR: &str = "postgres";
/// The database of the platform.
pub(in super::super) const DATABASE: &str = "platform";

/// The longest path of a Unix socket is 107 bytes (unix(7)), and PostgreSQL appends `/.s.PGSQL.NNNNN`.
const SOCKET_FOLDER_BYTES_MAX: usize = 90;

/// The server.
#[derive(Debug)]
pub(in super::super) struct Postgres {
    /// Where it lives.
    pub(in super::super) home: PostgresHome,
    /// All ports; its own is `postgres`.
    pub(in super::super) ports: Arc<Ports>,
    /// The administrator's access to the database that always exists.
    pub(in super::super) maintenance: config::Postgres,
    /// The administrator's password.
    pub(in super::super) password: String,
}

impl Postgres {
    fn data(&self) -> PathBuf {
        self.home.folder.join("data")
    }

    /// initdb into a folder of another name, so that an interrupted one is never taken for a database.
    async fn initialise(&self, runner: &Runner) -> anyhow::Result<()> {
        let folder = &self.home.folder;
        let new = folder.join("data.new");
        if new.exists() {
            std::fs::remove_dir_all(&new).context("removing an unfinished database")?;
        }
        let password_file = folder.join("password");
        write_private(&password_file, &self.password)?;
        if let Some(account) = &self.home.account {
            account.give(&password_file)?;
        }
        let launch = Launch::foreign(self.home.bin.join("initdb"))
            .args(["--username", ADMINISTRATOR, "--encoding", "UTF8", "--locale", "C.UTF-8"])
            .args(["--auth-local", "scram-sha-256", "--auth-host", "scram-sha-256", "--no-instructions", "--pwfile"])
            .path(&password_file)
            .arg("--pgdata")
            .path(&new)
            .folder(folder)
            .account(self.home.account.clone());
        let made = runner.run("initdb", &launch).await;
        std::fs::remove_file(&password_file).context("removing the password's file")?;
        made?;
        let mut settings = File::options()
            .append(true)
            // The folder belongs to a user whom root need not trust.
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(new.join("postgresql.conf"))
            .context("opening postgresql.conf")?;
        settings.write_all(first_settings(memory_bytes()).as_bytes()).context("writing postgresql.conf")?;
        settings.sync_all().context("writing postgresql.conf")?;
        std::fs::rename(&new, self.data()).context("putting the database in place")
    }
}

#[async_trait::async_trait]
impl Service for Postgres {
    async fn prepare(&self, runner: &Runner) -> anyhow::Result<()> {
        let sockets = self.home.folder.join("run");
        make_folder(&sockets, 0o700)?;
        if let Some(account) = &self.home.account {
            account.give(&sockets)?;
        }
        if self.data().exists() { Ok(()) } else { self.initialise(runner).await }
    }

    fn launch(&self) -> anyhow::Result<Launch> {
        self.ports.release(&["postgres"]);
        let sockets = self.home.folder.join("run").display().to_string();
        let sockets = if sockets.len() <= SOCKET_FOLDER_BYTES_MAX { sockets } else { String::new() };
        let required = [
            format!("port={}", self.ports.of("postgres")),
            format!("unix_socket_directories={}", quoted(&sockets)),
            "listen_addresses=127.0.0.1".to_owned(),
            "wal_level=logical".to_owned(),
            "max_replication_slots=10".to_owned(),
            "max_wal_senders=10".to_owned(),
            // A connector that never comes back must not fill the disk.
            "max_slot_wal_keep_size=8GB".to_owned(),
            "password_encryption=scram-sha-256".to_owned(),
            "logging_collector=off".to_owned(),
            "log_destination=stderr".to_owned(),
        ];
        let launch = Launch::foreign(self.home.bin.join("postgres")).arg("-D").path(&self.data());
        let launch = required.into_iter().fold(launch, |launch, setting| launch.arg("-c").arg(setting));
        Ok(launch.folder(&self.home.folder).account(self.home.account.clone()))
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let client = postgres::connect(&self.maintenance, "platform up").await?;
        let found = client.query_opt("select 1 from pg_database where datname = $1", &[&DATABASE]).await?;
        if found.is_none() {
            client.batch_execute(&format!("create database {}", crate::domain::quote_postgres(DATABASE))).await?;
        }
        Ok(())
    }

    fn farewell(&self) -> Farewell {
        Farewell::POSTGRES
    }
}

/// An entry of PostgreSQL's list of folders: a comma or a blank in a path must not end it.
fn quoted(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("\"{}\"", folder.replace('"', "\"\"")) }
}

/// What a new database's `postgresql.conf` says beyond initdb's; its owner may change it.
fn first_settings(memory_bytes: u64) -> String {
    let shared_buffers_mb = (memory_bytes / 16 / 1024 / 1024).clamp(128, 1024);
    format!(
        "\n# Set by `platform up` when it made this database; what it needs itself is on the command line.\n\
         shared_buffers = {shared_buffers_mb}MB\n\
         max_wal_size = 2GB\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n"
    )
}

/// The machine's memory; a small one if it cannot be told.
fn memory_bytes() -> u64 {
    let table = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = table.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_ascii_whitespace().next());
    total.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_buffers_follow_the_memory_within_bounds() {
        let setting = |gigabytes: u64| first_settings(gigabytes << 30);
        assert!(setting(1).contains("shared_buffers = 128MB"));
        assert!(setting(8).contains("shared_buffers = 512MB"));
        assert!(setting(512).contains("shared_buffers = 1024MB"));
        assert!(memory_bytes() > 0);
    }

    #[test]
    fn a_folder_with_a_comma_stays_one_folder() {
        assert_eq!(quoted("/a, b/\"c\""), "\"/a, b/\"\"c\"\"\"");
        assert_eq!(quoted(""), "");
    }
}
