//! Commands that run to their end: preparations of a service and the platform's own jobs.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::data_dir::DataDir;
use super::process::{Farewell, Launch, Process};
use crate::domain::Failure;

/// How much of a log is shown when its command failed.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 15;
/// How long an interrupted command gets to end orderly.
const GRACE: Duration = Duration::from_secs(5);

/// Runs commands in a data folder, until the start is given up.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    /// Where logs and pid files lie.
    pub(super) data_dir: DataDir,
    /// Cancelled when the start is given up, or the platform stops.
    pub(super) stop: CancellationToken,
    /// Cancelled when stopping shall not take its time.
    pub(super) hurry: CancellationToken,
}

impl Runner {
    /// Runs `launch` under `name` until it succeeds.
    ///
    /// # Errors
    /// The failure that its exit code tells, with the end of its log; `Failure::Signal` when it was interrupted.
    pub(super) async fn run(&self, name: &str, launch: &Launch) -> anyhow::Result<()> {
        let mut process = Process::start(name, launch, &self.data_dir)?;
        let status = tokio::select! {
            status = process.ended() => status?,
            () = self.stop.cancelled() => {
                process.stop(Farewell::TERMINATE, GRACE, &self.hurry).await;
                return Err(Failure::Signal(15).into());
            }
        };
        if status.success() {
            return Ok(());
        }
        let log = self.data_dir.log(name);
        Err(failure(status, format!("{name} failed ({status}); the end of {}:\n{}", log.display(), tail(&log))).into())
    }
}

/// The failure of a command of this program by its exit code, so that `up` ends with the same one.
fn failure(status: ExitStatus, text: String) -> Failure {
    match status.code() {
        Some(64) => Failure::BadDate(text),
        Some(65) => Failure::DataCheck(text),
        Some(75) => Failure::Busy(text),
        Some(78 | 2) => Failure::Config(text),
        _ => Failure::Unavailable(text),
    }
}

/// The last lines of a log, indented.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
    last.map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(folder: &Path) -> Runner {
        let data_dir = DataDir::open(folder).expect("made");
        Runner { data_dir, stop: CancellationToken::new(), hurry: CancellationToken::new() }
    }

    #[tokio::test]
    async fn a_failure_carries_the_end_of_the_log_and_the_exit_code() {
        let folder = tempfile::tempdir().expect("a folder");
        let runner = runner(folder.path());
        let launch = Launch::foreign("/bin/sh").args(["-c", "echo the reason; exit 75"]);
        let error = runner.run("job", &launch).await.expect_err("it fails");
        assert_eq!(Failure::exit_code_of(&error), 75);
        assert!(error.to_string().contains("the reason"), "{error}");
        assert!(!runner.data_dir.pid_file("job").exists());
    }

    #[tokio::test]
    async fn an_interrupted_command_leaves_no_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let runner = runner(folder.path());
        // It ignores the polite signal; `hurry` is what ends it.
        let launch = Launch::foreign("/bin/sh").args(["-c", "trap '' TERM; echo up; while :; do sleep 1; done"]);
        let job = tokio::spawn({
            let runner = runner.clone();
            async move { runner.run("job", &launch).await }
        });
        let log = runner.data_dir.log("job");
        let pid_file = runner.data_dir.pid_file("job");
        while !(std::fs::read_to_string(&log).is_ok_and(|text| text.contains("up")) && pid_file.exists()) {
            tokio::task::yield_now().await;
        }
        let text = std::fs::read_to_string(&pid_file).expect("there");
        let identity = super::super::procfs::Identity::parse(&text).expect("readable");
        runner.stop.cancel();
        runner.hurry.cancel();
        let error = job.await.expect("no panic").expect_err("interrupted");
        assert_eq!(Failure::exit_code_of(&error), 143);
        assert!(!identity.is_alive());
    }
}
