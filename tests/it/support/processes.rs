//! Processes of the machine, as `/proc` shows them.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal to one process.
pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to process {pid}: {error}"));
}

/// Whether the process runs; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Every running process, with its command line.
fn running() -> impl Iterator<Item = (i32, String)> {
    let all = std::fs::read_dir("/proc").expect("readable").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_alive(*pid)).filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
}

/// Every running process that works in `folder` or names it on its command line, with that line: PostgreSQL's own
/// children work in the folder, everything else names it.
pub(crate) fn using(folder: &Path) -> Vec<(i32, String)> {
    let name = folder.display().to_string();
    let works_there =
        |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    running().filter(|(pid, line)| line.contains(&name) || works_there(*pid)).collect()
}

/// Every running process whose command line has `text`, with that line.
pub(crate) fn naming(text: &str) -> Vec<(i32, String)> {
    running().filter(|(_, line)| line.contains(text)).collect()
}

/// Every running process that sees the mounts that `pid` sees, with its command line.
pub(crate) fn sharing_mounts_with(pid: i32) -> Vec<(i32, String)> {
    let mounts = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let wanted = mounts(pid);
    running().filter(|(other, _)| wanted.is_some() && mounts(*other) == wanted).collect()
}

/// The most memory that a process has had at once, in bytes; `None` when it has ended.
pub(crate) fn peak_memory(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
