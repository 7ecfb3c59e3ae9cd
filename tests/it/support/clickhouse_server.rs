//! `platform clickhouse` on a free port with a folder of its own.
#![allow(dead_code, clippy::expect_used, reason = "each test uses what it needs; a helper that fails is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long the engine gets to answer; it takes 0.2 to 0.6 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an orderly end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A running server. Killed when it is dropped; its folder goes with it unless it was given.
pub(crate) struct ClickHouseServer {
    child: Child,
    url: String,
    data_dir: PathBuf,
    folder: TempDir,
}

impl ClickHouseServer {
    /// May do everything.
    pub(crate) const USER: &str = "default";
    pub(crate) const PASSWORD: &str = "of the administrator";
    /// May only read.
    pub(crate) const READER: &str = "reader";
    pub(crate) const READER_PASSWORD: &str = "of the reader";

    /// Starts one with an empty folder.
    pub(crate) async fn start() -> Self {
        Self::start_with(None, &[]).await
    }

    /// Starts one on a folder that outlives it.
    pub(crate) async fn start_on(data_dir: &Path) -> Self {
        Self::start_with(Some(data_dir), &[]).await
    }

    /// Starts one with further flags.
    pub(crate) async fn start_with(data_dir: Option<&Path>, flags: &[&str]) -> Self {
        Self::start_as(data_dir, flags, &[]).await
    }

    /// Starts one on a machine of this time zone.
    pub(crate) async fn start_in_zone(data_dir: &Path, zone: &str) -> Self {
        Self::start_as(Some(data_dir), &[], &[("TZ", zone)]).await
    }

    async fn start_as(data_dir: Option<&Path>, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Relative where it may be, as people give it.
        let data_dir = data_dir.unwrap_or(Path::new("clickhouse"));
        let port_file = folder.path().join("port");
        let log = folder.path().join("log");
        let mut child = Self::command(folder.path(), data_dir)
            .arg("--port-file")
            .arg(&port_file)
            .args(flags)
            .envs(environment.iter().copied())
            .stderr(std::fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("platform starts");
        let deadline = Instant::now() + START_TIMEOUT;
        let port = loop {
            if let Ok(text) = std::fs::read_to_string(&port_file) {
                break text.trim().to_owned();
            }
            let ended = child.try_wait().expect("its state");
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "platform clickhouse ended with {ended:?}: {}", said());
            assert!(Instant::now() < deadline, "platform clickhouse is not ready after {START_TIMEOUT:?}: {}", said());
            tokio::time::sleep(POLL).await;
        };
        let data_dir = folder.path().join(data_dir);
        Self { child, url: format!("http://127.0.0.1:{port}"), data_dir, folder }
    }

    /// The command line for a folder: engine, free port, users; nothing of the caller's environment or configuration.
    pub(crate) fn command(working_dir: &Path, data_dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_platform"));
        command
            .args(["clickhouse", "--data-dir"])
            .arg(data_dir)
            .current_dir(working_dir)
            .env_clear()
            .env("PLATFORM__UP__ENGINES_DIR", engines())
            .env("PLATFORM__UP__CLICKHOUSE_PORT", "0")
            .env("PLATFORM__CLICKHOUSE__USER", Self::USER)
            .env("PLATFORM__CLICKHOUSE__PASSWORD", Self::PASSWORD)
            .env("PLATFORM__UP__CLICKHOUSE_READER_USER", Self::READER)
            .env("PLATFORM__UP__CLICKHOUSE_READER_PASSWORD", Self::READER_PASSWORD)
            .env("PLATFORM__UP__STOP_TIMEOUT_S", "10")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The folder of its data.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Largest resident memory it ever had, in MiB.
    pub(crate) fn memory_peak_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }

    /// What it wrote to stderr until now.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Settings with which this program's own client reaches it as administrator.
    pub(crate) fn settings(&self) -> platform::config::ClickHouse {
        let settings = platform::config::Settings::from_overrides([
            ("clickhouse.url", self.url.as_str()),
            ("clickhouse.user", Self::USER),
            ("clickhouse.password", Self::PASSWORD),
        ]);
        settings.expect("valid settings").clickhouse
    }

    /// The official crate's client, as administrator, without compression.
    pub(crate) fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default()
            .with_url(&self.url)
            .with_user(Self::USER)
            .with_password(Self::PASSWORD)
            .with_compression(clickhouse::Compression::None)
    }

    /// A POST as this user; `query` is the URL's query string.
    pub(crate) fn post_as(&self, user: &str, password: &str, query: &str) -> reqwest::RequestBuilder {
        reqwest::Client::new().post(format!("{}/?{query}", self.url)).basic_auth(user, Some(password))
    }

    /// A POST as administrator.
    pub(crate) fn post(&self, query: &str) -> reqwest::RequestBuilder {
        self.post_as(Self::USER, Self::PASSWORD, query)
    }

    /// Runs a statement as administrator and returns the answer's text.
    pub(crate) async fn run(&self, sql: &str) -> String {
        let answer = self.post("wait_end_of_query=1").body(sql.to_owned()).send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a text");
        assert!(status.is_success(), "{sql}: {text}");
        text
    }

    /// Statements that run now.
    async fn statements(&self) -> usize {
        let sql = "SELECT count() FROM system.processes WHERE NOT has(splitByChar(' ', query), 'system.processes')";
        self.run(sql).await.trim().parse().expect("a number")
    }

    /// Waits until this many statements run.
    pub(crate) async fn wait_for_statements(&self, count: usize) {
        wait_until("the statements run", || async { self.statements().await == count }).await;
    }

    /// Waits until no statement runs.
    pub(crate) async fn wait_until_idle(&self) {
        wait_until("no statement runs", || async { self.statements().await == 0 }).await;
    }

    /// Ends it in order (SIGTERM).
    pub(crate) async fn stop(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.expect("it ends in time").expect("its state")
    }

    /// Ends it at once (SIGKILL).
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }
}

/// Waits for a condition; says which one did not come.
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    super::wait::wait_until(what, START_TIMEOUT, condition).await;
}

/// The folder of engines, with libchdb.so in it.
fn engines() -> PathBuf {
    let folder = super::engines_dir();
    let file = folder.join("chdb/libchdb.so");
    assert!(file.is_file(), "{} is missing: run `make engines`", file.display());
    folder
}
