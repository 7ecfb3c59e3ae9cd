//! A PostgreSQL server of a test's own: in a temporary folder, on a socket in it, gone when dropped.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::wait::wait_until;

/// A running server with one empty database, `platform`.
pub(crate) struct PostgresServer {
    child: Child,
    dir: TempDir,
}

impl PostgresServer {
    /// Makes and starts one; a few hundred milliseconds.
    pub(crate) async fn start() -> Self {
        let server = tokio::task::spawn_blocking(Self::start_blocking).await.expect("the starting thread");
        server.create_database().await;
        server
    }

    /// An administrator's connection string.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/platform", self.dir.path().display().to_string().replace('/', "%2F"))
    }

    fn start_blocking() -> Self {
        let dir = tempfile::Builder::new().prefix("platform-pg-").tempdir().expect("a folder");
        let user = server_user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("the folder changes hands");
        }
        let data = dir.path().join("data");
        let mut initdb = command("initdb", user);
        initdb.arg("--pgdata").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        let output = initdb.arg("--no-sync").current_dir(dir.path()).output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut postgres = command("postgres", user);
        postgres.arg("-D").arg(&data).arg("-k").arg(dir.path()).current_dir(dir.path());
        for setting in ["listen_addresses=", "wal_level=logical", "fsync=off", "max_wal_senders=4", "timezone=UTC"] {
            postgres.arg("-c").arg(setting);
        }
        let child = postgres.stdout(Stdio::null()).stderr(log).spawn().expect("postgres starts");
        Self { child, dir }
    }

    /// Makes the database as soon as the server lets somebody in.
    async fn create_database(&self) {
        let url = self.url().replace("/platform", "/postgres");
        wait_until("PostgreSQL takes connections", Duration::from_secs(60), || async {
            let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
                return false;
            };
            let connection = tokio::spawn(connection);
            client.batch_execute("create database platform").await.expect("made");
            drop(client);
            connection.await.is_ok()
        })
        .await;
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        // SIGQUIT is the server's immediate end: it takes its own children with it.
        kill(pid, Signal::SIGQUIT).ok();
        drop(self.child.wait());
    }
}

/// PostgreSQL refuses to run as root: as root it runs as `postgres`, or else as `nobody`.
fn server_user() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"].iter().find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
    let user = user.expect("a user that is not root");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn command(program: &str, user: Option<(u32, u32)>) -> Command {
    let bin = super::engines_dir().join("postgres/bin");
    let path: PathBuf = bin.canonicalize().expect("`make engines` has run").join(program);
    let mut command = Command::new(path);
    command.env("LC_ALL", "C").env_remove("PGDATABASE").env_remove("PGOPTIONS");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
