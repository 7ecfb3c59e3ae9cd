//! The whole platform, or some parts of it, started by `platform up` on free ports in a folder of its own.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use platform::config::{Settings, environment, read_env_file};

use super::wait::{block_until, blocked_until};
use super::{engines_dir, processes};

/// The program under test.
pub(crate) const PLATFORM: &str = env!("CARGO_BIN_EXE_platform");
/// A cold start of everything takes about 15 s on two idle cores; tests of others run beside it.
const READY_TIMEOUT: Duration = Duration::from_secs(240);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(180);

/// What differs from everything on free ports.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Steps to start, with commas: `postgres,clickhouse,migrate`.
    pub(crate) parts: Option<&'static str>,
    /// The data folder; a new temporary one when absent.
    pub(crate) data_dir: Option<PathBuf>,
    /// More flags of `platform up`.
    pub(crate) flags: Vec<String>,
    /// More environment, which reaches every part: `PLATFORM__SINK__BATCH_ROWS_MAX=7`.
    pub(crate) environment: Vec<(String, String)>,
    /// Whether the stack ends with this process instead of being dropped: `Stack::shared`.
    pub(crate) shared: bool,
}

/// A running platform. Dropped, it is stopped and its folder removed.
#[derive(Debug)]
pub(crate) struct Stack {
    options: Options,
    child: Option<Child>,
    environment: BTreeMap<String, String>,
    data_dir: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

/// What a subcommand left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The last line of stdout as JSON; panics unless the exit code is 0.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON line ({error}): {self:?}"))
    }
}

impl Stack {
    /// All parts, for this test alone.
    pub(crate) fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// As the options say, for this test alone.
    pub(crate) fn start_with(options: Options) -> Self {
        let mut stack = Self::prepared(options);
        stack.start_again();
        stack
    }

    /// All parts, for all tests of this process that leave one another alone (own tables, own days). Stops when the
    /// process ends.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Stack> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(Options { shared: true, ..Options::default() }))
    }

    /// Nothing runs yet; the folder is there.
    pub(crate) fn prepared(options: Options) -> Self {
        let (folder, data_dir) = match &options.data_dir {
            Some(path) => (None, path.clone()),
            None => {
                // PostgreSQL runs as another user when root runs the tests, and must be able to enter.
                let builder =
                    tempfile::Builder::new().prefix("platform-").permissions(Permissions::from_mode(0o755)).tempdir();
                let folder = builder.expect("a temporary folder");
                let path = folder.path().canonicalize().expect("there");
                // `platform up` removes a shared one: nothing here is dropped at the end of a process.
                if options.shared { (None, folder.keep().canonicalize().expect("there")) } else { (Some(folder), path) }
            }
        };
        Self { options, child: None, environment: BTreeMap::new(), data_dir, _folder: folder }
    }

    /// Starts `platform up`, and waits until it says that it is ready.
    pub(crate) fn start_again(&mut self) {
        self.spawn();
        let ready_file = self.ready_file();
        let mut ended = None;
        block_until("platform up is ready", READY_TIMEOUT, || {
            ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child"));
            ended.is_some() || ready_file.exists()
        });
        assert!(ended.is_none(), "platform up ended ({ended:?}):\n{}", self.output());
        self.environment = read_env_file(&ready_file).expect("readable");
    }

    /// Starts `platform up` without waiting for anything.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        drop(std::fs::remove_file(self.ready_file()));
        let output = self.output_file();
        std::fs::create_dir_all(output.parent().expect("a folder")).expect("made");
        let output = std::fs::File::options().create(true).append(true).open(output).expect("opened");
        let mut command = command(&self.data_dir);
        command.arg("up").arg("--data-dir").arg(&self.data_dir).arg("--ready-file").arg(self.ready_file());
        if !self.options.flags.iter().any(|flag| flag == "--engines-dir") {
            command.arg("--engines-dir").arg(engines_dir());
        }
        for part in ["postgres", "kafka", "connect", "clickhouse", "api", "sink"] {
            // A flag of the test comes later and would be a second one.
            let flag = format!("--{part}-port");
            if !self.options.flags.contains(&flag) {
                command.arg(flag).arg("0");
            }
        }
        if let Some(parts) = self.options.parts {
            command.args(["--parts", parts]);
        }
        command.args(["--exit-with-parent-pid", &std::process::id().to_string()]);
        if self.options.shared {
            command.arg("--remove-data-on-exit");
        }
        command.args(&self.options.flags).envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(output.try_clone().expect("opened")).stderr(output);
        self.child = Some(command.spawn().expect("started"));
    }

    /// Asks `platform up` to end with `signal` and waits for it.
    pub(crate) fn stop_by(&mut self, signal: Signal) -> ExitStatus {
        processes::signal(self.pid_of_up(), signal);
        self.wait_for_end()
    }

    /// Waits until `platform up` has ended.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let mut status = None;
        let ended = blocked_until(STOP_TIMEOUT, || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        if !ended {
            self.child = Some(child);
        }
        status.unwrap_or_else(|| panic!("platform up did not stop:\n{}", self.output()))
    }

    /// The number of the process `platform up`.
    pub(crate) fn pid_of_up(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("it runs").id()).expect("a process number")
    }

    /// The number of the process of a part: postgres, kafka, connect, clickhouse, sink or serve.
    pub(crate) fn pid_of(&self, part: &str) -> i32 {
        self.try_pid_of(part).unwrap_or_else(|| panic!("{part} does not run:\n{}", self.output()))
    }

    /// As `pid_of`, for a part that may be down.
    pub(crate) fn try_pid_of(&self, part: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.data_dir.join("run").join(format!("{part}.pid"))).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Sends a signal to a part; `platform up` starts it again when it dies.
    pub(crate) fn kill_part(&self, part: &str, signal: Signal) {
        processes::signal(self.pid_of(part), signal);
    }

    /// Kills a part hard and waits until another process has taken its place and is ready.
    pub(crate) fn crash_part(&self, part: &str) {
        let (old, said) = (self.pid_of(part), self.output().matches("is ready again").count());
        self.kill_part(part, Signal::SIGKILL);
        block_until(&format!("{part} is ready again"), READY_TIMEOUT, || {
            self.try_pid_of(part).is_some_and(|new| new != old)
                && self.output().matches("is ready again").count() > said
        });
    }

    /// What `platform up` has printed, over all its starts.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.output_file()).unwrap_or_default()
    }

    /// The log of a part or job.
    pub(crate) fn log(&self, part: &str) -> String {
        std::fs::read_to_string(self.data_dir.join("logs").join(format!("{part}.log"))).unwrap_or_default()
    }

    /// The folder of everything.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// All variables of `.platform/env`.
    pub(crate) fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// One of them; panics when the part it belongs to was not started.
    pub(crate) fn variable(&self, name: &str) -> &str {
        self.environment.get(name).unwrap_or_else(|| panic!("{name} is not in {:?}", self.environment.keys()))
    }

    /// The administrator's URL of PostgreSQL.
    pub(crate) fn postgres_url(&self) -> &str {
        self.variable("PLATFORM__POSTGRES__URL")
    }

    /// ClickHouse's URL, its administrator and the password.
    pub(crate) fn clickhouse(&self) -> (&str, &str, &str) {
        let variable = |name: &str| self.variable(&format!("PLATFORM__CLICKHOUSE__{name}"));
        (variable("URL"), variable("USER"), variable("PASSWORD"))
    }

    /// Kafka's broker, `host:port`.
    pub(crate) fn kafka_brokers(&self) -> &str {
        self.variable("PLATFORM__KAFKA__BROKERS")
    }

    /// Kafka Connect's URL.
    pub(crate) fn connect_url(&self) -> &str {
        self.variable("PLATFORM__CONNECT__URL")
    }

    /// The API's URL.
    pub(crate) fn api_url(&self) -> &str {
        self.variable("PLATFORM_API_URL")
    }

    /// An API key with all scopes.
    pub(crate) fn api_key(&self) -> &str {
        self.variable("PLATFORM_API_KEY")
    }

    /// The settings of an administrator of this stack.
    pub(crate) fn settings(&self) -> Settings {
        let keys = self.environment.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("PLATFORM__")?.replace("__", ".").to_lowercase(), value.as_str()))
        });
        let keys: Vec<(String, &str)> = keys.collect();
        Settings::from_overrides(keys.iter().map(|(key, value)| (key.as_str(), *value))).expect("valid")
    }

    /// A subcommand with the environment of this stack, to be changed and started by the test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.data_dir);
        command.args(arguments).envs(&self.environment);
        command
    }

    /// Runs a subcommand to its end.
    pub(crate) fn platform(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments))
    }

    fn ready_file(&self) -> PathBuf {
        self.data_dir.join("ready")
    }

    fn output_file(&self) -> PathBuf {
        self.data_dir.join("logs").join("up.log")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Once it was waited for, its number may be another process's.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        let group = |pid: u32| Pid::from_raw(i32::try_from(pid).expect("a process number"));
        let _ = nix::sys::signal::kill(group(child.id()), Signal::SIGTERM);
        if blocked_until(STOP_TIMEOUT, || matches!(child.try_wait(), Ok(Some(_)) | Err(_))) {
            return;
        }
        let _ = child.kill();
        let _ = child.wait();
        for part in ["airflow", "serve", "sink", "connect", "kafka", "clickhouse", "postgres"] {
            if let Some(pid) = self.try_pid_of(part) {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// The program, in a folder without a `.platform/env` and without settings from this process's environment.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(PLATFORM);
    command.current_dir(folder).stdin(Stdio::null());
    for name in environment().keys().filter(|name| name.starts_with("PLATFORM")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end; panics when it takes too long.
pub(crate) fn finish(mut command: Command) -> Finished {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let pid = i32::try_from(child.id()).expect("a process number");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let output = match receiver.recv_timeout(COMMAND_TIMEOUT) {
        Ok(output) => output.expect("it was waited for"),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            processes::signal(pid, Signal::SIGKILL);
            panic!("{command:?} did not end within {} s", COMMAND_TIMEOUT.as_secs());
        }
    };
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
