//! What an earlier `platform up` left running because it was killed itself: stopped before anything is started.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::console::say;
use super::data_dir::DataDir;
use super::process::Farewell;
use super::procfs::Identity;
use crate::domain::Failure;

/// These are not our children, so that nothing tells when they are gone: we look.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After SIGKILL a process is gone as soon as the system gets to it.
const KILLED_WAIT: Duration = Duration::from_secs(5);

/// Stops what the pid files name, if it still is what they name, in the order of `names` (dependents first; unknown
/// names come before all). Each gets `grace`.
///
/// # Errors
/// The folder cannot be read, or `Failure::Busy` when a process does not go even when killed.
pub(super) async fn clear(data_dir: &DataDir, names: &[(&str, Farewell)], grace: Duration) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_dir.run()).context("reading the folder of pid files")? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pid")) else { continue };
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        match Identity::parse(&text).filter(|identity| identity.is_alive()) {
            Some(identity) => found.push((name.to_owned(), identity, path)),
            None => drop(std::fs::remove_file(&path)),
        }
    }
    let rank = |name: &str| names.iter().position(|(known, _)| *known == name).map_or(0, |index| index + 1);
    found.sort_by_key(|(name, ..)| rank(name));
    for (name, identity, path) in found {
        say(format!("platform: stopping {name} (process {}), left by an earlier `platform up`", identity.pid));
        let farewell = names.iter().find(|(known, _)| *known == name).map_or(Farewell::TERMINATE, |(_, way)| *way);
        stop(identity, farewell, grace).await.with_context(|| {
            Failure::Busy(format!("{name} (process {}) of an earlier `platform up` cannot be stopped", identity.pid))
        })?;
        drop(std::fs::remove_file(&path));
    }
    Ok(())
}

async fn stop(identity: Identity, farewell: Farewell, grace: Duration) -> anyhow::Result<()> {
    let pid = Pid::from_raw(identity.pid);
    for signal in [Some(farewell.ask), farewell.press].into_iter().flatten() {
        let _ = kill(pid, signal);
        if gone_within(identity, grace).await {
            return Ok(());
        }
    }
    let _ = killpg(pid, Signal::SIGKILL);
    anyhow::ensure!(gone_within(identity, KILLED_WAIT).await, "it does not end even when killed");
    Ok(())
}

async fn gone_within(identity: Identity, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while identity.is_alive() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;

    fn sleeper() -> (std::process::Child, Identity) {
        let child = std::process::Command::new("sleep").arg("600").process_group(0).spawn().expect("started");
        let identity = Identity::of(i32::try_from(child.id()).expect("a number")).expect("it runs");
        (child, identity)
    }

    #[tokio::test]
    async fn only_the_process_that_was_recorded_is_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = DataDir::open(folder.path()).expect("made");
        let ((mut left, recorded), (mut stranger, other)) = (sleeper(), sleeper());
        std::fs::write(data_dir.pid_file("sink"), recorded.to_line()).expect("written");
        // The number was given to another process since.
        let reused = Identity { started: other.started - 1, ..other };
        std::fs::write(data_dir.pid_file("kafka"), reused.to_line()).expect("written");
        clear(&data_dir, &[("sink", Farewell::TERMINATE)], Duration::from_secs(5)).await.expect("cleared");
        assert!(!recorded.is_alive());
        assert!(other.is_alive());
        assert!(std::fs::read_dir(data_dir.run()).expect("readable").next().is_none(), "no pid file is left");
        left.wait().expect("reaped");
        stranger.kill().and_then(|()| stranger.wait()).expect("ended");
    }
}
