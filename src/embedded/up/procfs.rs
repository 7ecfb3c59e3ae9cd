//! What `/proc` tells about a process: whether it still is the one that was started, and who it is.

use std::path::{Path, PathBuf};

/// A process that cannot be confused with a later one that got the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Process number.
    pub(super) pid: i32,
    /// Ticks since boot at which it started: field 22 of `/proc/PID/stat`, see proc(5).
    pub(super) started: u64,
}

impl Identity {
    /// The process that has this number now, if there is one that runs.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, started: stat.started })
    }

    /// Whether this very process still runs. A zombie, which only waits for its parent, does not.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started)
    }

    /// Writes it into a pid file, with the boot that the ticks count from.
    pub(super) fn to_line(self) -> String {
        format!("{} {} {}\n", self.pid, self.started, boot())
    }

    /// Reads a line that `to_line` wrote since the machine was started; of an earlier time nothing can run any more.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (pid, started) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (words.next()? == boot()).then_some(Self { pid, started })
    }
}

/// The running system's identity: another one after every start of the machine; see random(4).
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if id.trim().is_empty() { "unknown".to_owned() } else { id.trim().to_owned() }
}

struct Stat {
    parent: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in field 2 may hold blanks and brackets, so fields are counted from the last bracket.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let state = *fields.first()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        Some(Self { parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
    }
}

/// The parent's number.
pub(super) fn parent(pid: i32) -> Option<i32> {
    Stat::read(pid).map(|stat| stat.parent)
}

/// The command line, word by word.
pub(super) fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The folder it works in, if this user may know.
pub(super) fn working_folder(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The process that listens on a TCP port of this machine, if this user may know.
pub(super) fn listener_of(port: u16) -> Option<i32> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&std::fs::read_to_string(table).ok()?, port))?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).find(|pid| holds(*pid, &socket))
}

fn holds(pid: i32, socket: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == socket))
}

/// The inode of the socket that listens on `port` (state 0A) in the text of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16).ok()? == port;
        if listens { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let pid = i32::try_from(std::process::id()).expect("a process number");
        let this = Identity::of(pid).expect("this process runs");
        assert!(this.is_alive());
        assert_eq!(Identity::parse(&this.to_line()), Some(this));
        assert_eq!(Identity::parse(&format!("{pid} {} another-boot\n", this.started)), None);
        assert!(!Identity { started: this.started + 1, ..this }.is_alive(), "a later process with the same number");
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b) S 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = Stat::parse(text).expect("readable");
        assert_eq!((stat.parent, stat.started), (3, 4242));
        assert!(Stat::parse(&text.replace(" S ", " Z ")).is_none(), "a zombie does not run");
    }

    #[test]
    fn the_listener_of_a_port_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        assert_eq!(listener_of(port), i32::try_from(std::process::id()).ok());
    }
}
