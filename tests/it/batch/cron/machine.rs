//! A machine with Debian's cron, in namespaces of its own: `make test` unpacks the package into `.cron`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::batch::repository;
use crate::support::processes;
use crate::support::stack::PLATFORM;
use crate::support::wait::wait_until;

/// A running cron, gone with all of its jobs when it is dropped.
pub(super) struct Machine {
    child: Child,
    folder: TempDir,
}

impl Machine {
    /// Starts one with these files below `/etc`, and with `jobs` as the crontab.
    pub(super) async fn start(etc: &[(&str, String)], jobs: &str) -> Self {
        let cron = repository().join(".cron");
        assert!(cron.join("usr/sbin/cron").is_file(), "{} is missing: run `make test`", cron.display());
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["etc", "tmp", "mail"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        for (name, text) in etc {
            let text = text.replace("FOLDER", &folder.path().display().to_string());
            let path = folder.path().join("etc").join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        std::fs::write(folder.path().join("jobs"), jobs).expect("written");
        let log = File::create(folder.path().join("log")).expect("a file");
        // It ends with the thread that started it, whatever becomes of this process.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
        if !nix::unistd::geteuid().is_root() {
            command.args(["--map-root-user", "--map-auto"]);
        }
        command.arg(repository().join("tests/it/batch/cron/machine.sh"));
        command.arg(folder.path()).arg(cron).arg(PLATFORM).arg(repository());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("opened")).stderr(log);
        let mut machine = Self { child: command.spawn().expect("unshare runs"), folder };
        wait_until("cron runs", Duration::from_secs(60), || {
            let ended = machine.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{ended:?}: {}", machine.read("log"));
            let runs = machine.processes().iter().any(|(_, line)| line.contains("usr/sbin/cron -f"));
            async move { runs }
        })
        .await;
        machine
    }

    /// A file of its folder; empty when it is not there.
    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Installs another crontab, as its user would.
    pub(super) fn install(&self, jobs: &str) {
        let file = self.folder.path().join("jobs");
        std::fs::write(&file, jobs).expect("written");
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.child.id().to_string()]);
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        let status = command.arg(repository().join(".cron/usr/bin/crontab")).arg(file).status();
        assert!(status.expect("nsenter runs").success());
    }

    /// What runs on it.
    pub(super) fn processes(&self) -> Vec<(i32, String)> {
        processes::sharing_mounts_with(i32::try_from(self.child.id()).expect("a process number"))
    }

    /// The processes with exactly these words.
    pub(super) fn running(&self, words: &str) -> Vec<i32> {
        self.processes().into_iter().filter(|(_, line)| line.trim_end() == words).map(|(pid, _)| pid).collect()
    }

    /// What `platform-cron` has noted so far of jobs that it is about to try again.
    pub(super) fn notes(&self) -> String {
        texts(&self.folder.path().join("tmp")).concat()
    }

    /// Every mail that cron has sent.
    pub(super) fn mail(&self) -> Vec<String> {
        texts(&self.folder.path().join("mail"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The files of a folder; one that goes away meanwhile is left out.
fn texts(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}
