//! One child process: started in its own process group with its output in a log, recorded in a pid file, stopped by
//! signals of rising force.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::data_dir::DataDir;
use super::procfs::Identity;
use crate::domain::Failure;

/// The variables of this process that programs of others get. The last is Java's own, for options of every Java there is.
const KEPT: [&str; 4] = ["PATH", "HOME", "TMPDIR", "JDK_JAVA_OPTIONS"];

/// What to start.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, Option<String>)>,
    inherits_environment: bool,
    account: Option<Account>,
    folder: Option<PathBuf>,
    shows_errors: bool,
}

impl Launch {
    /// A program of others: it gets no variable of this process but those it needs to run at all.
    pub(super) fn foreign(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            inherits_environment: false,
            account: None,
            folder: None,
            shows_errors: false,
        }
    }

    /// This program again: it also gets this process's variables, so that `PLATFORM__…` settings reach it.
    pub(super) fn own(program: impl Into<PathBuf>) -> Self {
        Self { inherits_environment: true, ..Self::foreign(program) }
    }

    #[must_use]
    pub(super) fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub(super) fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub(super) fn path(self, path: &Path) -> Self {
        self.arg(path.display().to_string())
    }

    #[must_use]
    pub(super) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), Some(value.into())));
        self
    }

    #[must_use]
    pub(super) fn without_env(mut self, name: &str) -> Self {
        self.environment.push((name.to_owned(), None));
        self
    }

    #[must_use]
    pub(super) fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    #[must_use]
    pub(super) fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Its stderr goes where this process's goes, for a progress bar, instead of into its log.
    #[must_use]
    pub(super) fn shows_errors(mut self, shows: bool) -> Self {
        self.shows_errors = shows;
        self
    }

    fn command(&self, log: File) -> anyhow::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.arguments).process_group(0).stdin(Stdio::null());
        if self.shows_errors {
            command.stderr(Stdio::inherit());
        } else {
            command.stderr(log.try_clone().context("opening the log twice")?);
        }
        command.stdout(log);
        if !self.inherits_environment {
            let kept = crate::config::environment();
            let kept = kept.into_iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
            command.env_clear().envs(kept).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        }
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(command)
    }
}

/// How a process is asked to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Farewell {
    /// The signal that asks for an orderly end.
    pub(super) ask: Signal,
    /// The signal that asks for a quick one, if the program knows such a thing.
    pub(super) press: Option<Signal>,
}

impl Farewell {
    /// SIGTERM, as most programs understand it.
    pub(super) const TERMINATE: Self = Self { ask: Signal::SIGTERM, press: None };
    /// SIGINT, as Ctrl-C gives it.
    pub(super) const INTERRUPT: Self = Self { ask: Signal::SIGINT, press: None };
    /// PostgreSQL's "fast" shutdown, then its "immediate" one.
    pub(super) const POSTGRES: Self = Self { ask: Signal::SIGINT, press: Some(Signal::SIGQUIT) };
}

/// How long a process that was pressed, or killed, gets to be gone.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A child process that runs. Dropped while it runs, it is killed, unless it is a service (see `detach_on_drop`).
#[derive(Debug)]
pub(super) struct Process {
    child: tokio::process::Child,
    identity: Identity,
    pid_file: PathBuf,
    kill_on_drop: bool,
}

impl Process {
    /// Starts `launch` under `name`: its log is `logs/NAME.log`, its pid file `run/NAME.pid`.
    ///
    /// # Errors
    /// `Failure::Config` when the program cannot be started.
    pub(super) fn start(name: &str, launch: &Launch, data_dir: &DataDir) -> anyhow::Result<Self> {
        let log = data_dir.log(name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = launch
            .command(log)?
            .spawn()
            .with_context(|| Failure::Config(format!("{} cannot be started", launch.program.display())))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .context("a process that was just started has no number")?;
        // It cannot be gone: this process has not waited for it yet. A zombie has no identity, and needs none.
        let identity = Identity::of(pid).unwrap_or(Identity { pid, started: 0 });
        let process = Self { child, identity, pid_file: data_dir.pid_file(name), kill_on_drop: true };
        std::fs::write(&process.pid_file, identity.to_line())
            .with_context(|| format!("writing {}", process.pid_file.display()))?;
        Ok(process)
    }

    /// From now on, should this process end in a way that stops nothing, the child goes on; the next start clears it by
    /// its pid file. A database is never killed because of a panic.
    pub(super) fn detach_on_drop(&mut self) {
        self.kill_on_drop = false;
    }

    /// Waits until it has ended by itself. May be dropped and called again.
    ///
    /// # Errors
    /// The system cannot tell.
    pub(super) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let status = self.child.wait().await.context("waiting for a process")?;
        self.forget();
        Ok(status)
    }

    /// Asks it to end, presses it when `grace` is nearly over, kills its group then, or at once when `hurry` is set.
    /// Returns whether it went without being killed.
    pub(super) async fn stop(&mut self, farewell: Farewell, grace: Duration, hurry: &CancellationToken) -> bool {
        let pressing = if farewell.press.is_some() { LAST_WAIT.min(grace / 2) } else { Duration::ZERO };
        let steps = [(Some(farewell.ask), grace.saturating_sub(pressing)), (farewell.press, pressing)];
        for (signal, patience) in steps {
            let Some(signal) = signal else { continue };
            let _ = kill(Pid::from_raw(self.identity.pid), signal);
            let ended = tokio::select! {
                ended = tokio::time::timeout(patience, self.child.wait()) => ended.is_ok(),
                () = hurry.cancelled() => false,
            };
            if ended {
                self.forget();
                return true;
            }
        }
        self.kill_group();
        drop(tokio::time::timeout(LAST_WAIT, self.child.wait()).await);
        self.forget();
        false
    }

    fn kill_group(&self) {
        let _ = killpg(Pid::from_raw(self.identity.pid), Signal::SIGKILL);
    }

    fn forget(&self) {
        // What is left of it is harmless: the next start sees that no such process runs.
        drop(std::fs::remove_file(&self.pid_file));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill_on_drop && self.child.id().is_some() {
            self.kill_group();
            self.forget();
        }
    }
}
