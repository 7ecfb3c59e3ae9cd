//! Ports on loopback: wished, taken, free; and whose a taken one is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Mutex;

use rand::RngExt as _;

use super::procfs;
use crate::domain::Failure;

/// Free ports are looked for below the range from which the system takes ports of outgoing connections
/// (`/proc/sys/net/ipv4/ip_local_port_range`, usually from 32768): one of those could take a chosen port away before
/// its service binds it.
const FREE_PORTS: std::ops::Range<u16> = 15_000..32_000;
const TRIES_MAX: usize = 1000;

/// A port that a part wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Name of the part.
    pub(super) part: &'static str,
    /// How people call it.
    pub(super) title: &'static str,
    /// The port; 0 takes a free one.
    pub(super) port: u16,
    /// Whether another one will do as well.
    pub(super) flexible: bool,
}

/// The ports of all parts, each kept bound until its part starts.
#[derive(Debug)]
pub(super) struct Ports {
    numbers: BTreeMap<&'static str, u16>,
    held: Mutex<Vec<(&'static str, TcpListener)>>,
}

impl Ports {
    /// Takes every port, or names all that are taken.
    ///
    /// # Errors
    /// `Failure::Config` with one sentence for each taken port: whose it is and what to do.
    pub(super) fn take(wishes: &[Wish]) -> anyhow::Result<Self> {
        let mut numbers = BTreeMap::new();
        let mut held = Vec::new();
        let mut taken = Vec::new();
        for wish in wishes.iter().filter(|wish| wish.port != 0) {
            match bind(wish.port) {
                Ok(listener) => {
                    numbers.insert(wish.part, wish.port);
                    held.push((wish.part, listener));
                }
                Err(_) if wish.flexible => {}
                Err(error) => taken.push(taken_text(wish, &error, wishes)),
            }
        }
        if !taken.is_empty() {
            return Err(Failure::Config(taken.join("\n  ")).into());
        }
        for wish in wishes {
            if !numbers.contains_key(wish.part) {
                let (port, listener) = free()?;
                numbers.insert(wish.part, port);
                held.push((wish.part, listener));
            }
        }
        Ok(Self { numbers, held: Mutex::new(held) })
    }

    /// The port of `part`; 0 when it has none.
    pub(super) fn of(&self, part: &str) -> u16 {
        self.numbers.get(part).copied().unwrap_or(0)
    }

    /// Lets go of the ports of the parts in `parts`, right before the service that will bind them starts.
    pub(super) fn release(&self, parts: &[&str]) {
        if let Ok(mut held) = self.held.lock() {
            held.retain(|(part, _)| !parts.contains(part));
        }
    }
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

fn free() -> anyhow::Result<(u16, TcpListener)> {
    let mut random = rand::rng();
    for _ in 0..TRIES_MAX {
        let port = random.random_range(FREE_PORTS);
        if let Ok(listener) = bind(port) {
            return Ok((port, listener));
        }
    }
    Err(Failure::Unavailable(format!("no free port between {} and {}", FREE_PORTS.start, FREE_PORTS.end)).into())
}

fn taken_text(wish: &Wish, error: &std::io::Error, wishes: &[Wish]) -> String {
    let Wish { part, title, port, .. } = *wish;
    let remedy = format!("choose another with --{part}-port, or 0 for a free one");
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return format!("port {port} for {title} cannot be opened ({error}): {remedy}");
    }
    if let Some(twin) = wishes.iter().find(|other| other.port == port && other.part != part) {
        return format!("port {port} is wanted for {title} and for {}: {remedy}", twin.title);
    }
    match procfs::listener_of(port) {
        None => format!("port {port} for {title} is taken by another process: {remedy}"),
        Some(pid) => match running_up_above(pid) {
            Some(up) => {
                let place = procfs::working_folder(up).map_or(String::new(), |path| format!(" in {}", path.display()));
                format!(
                    "port {port} for {title} is taken by another `platform up` (process {up}{place}): \
                     stop that one with Ctrl-C or `kill {up}`, or {remedy}"
                )
            }
            None => {
                let name = procfs::command_line(pid).first().cloned().unwrap_or_default();
                format!("port {port} for {title} is taken by process {pid} ({name}): {remedy}")
            }
        },
    }
}

/// The `platform up` that started process `pid`, if one did.
fn running_up_above(pid: i32) -> Option<i32> {
    let mut pid = pid;
    // A service is a child or a grandchild of `up`.
    for _ in 0..4 {
        let words = procfs::command_line(pid);
        let is_platform = words.first().is_some_and(|word| word.ends_with("platform"));
        if is_platform && words.iter().skip(1).any(|word| word == "up") {
            return Some(pid);
        }
        pid = procfs::parent(pid)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(part: &'static str, port: u16) -> Wish {
        Wish { part, title: part, port, flexible: false }
    }

    #[test]
    fn every_taken_port_is_named_with_its_remedy() {
        let (one, two) = (free().expect("free"), free().expect("free"));
        let error = Ports::take(&[wish("postgres", one.0), wish("kafka", two.0)]).expect_err("taken").to_string();
        let this = std::process::id().to_string();
        for (part, port) in [("postgres", one.0), ("kafka", two.0)] {
            assert!(error.contains(&port.to_string()) && error.contains(&format!("--{part}-port")), "{error}");
        }
        assert!(error.contains(&this), "the process that has it is named: {error}");
    }

    #[test]
    fn one_port_for_two_parts_is_refused() {
        let port = free().expect("free").0;
        let error = Ports::take(&[wish("api", port), wish("sink", port)]).expect_err("twice").to_string();
        assert!(error.contains("for api") && error.contains("for sink"), "{error}");
    }

    #[test]
    fn zero_takes_a_free_port_and_holds_it_until_released() {
        let ports = Ports::take(&[wish("api", 0), Wish { flexible: true, ..wish("sink", 0) }]).expect("free");
        assert_ne!(ports.of("api"), ports.of("sink"));
        assert!(bind(ports.of("api")).is_err(), "held");
        ports.release(&["api"]);
        assert!(bind(ports.of("api")).is_ok(), "released");
        assert!(bind(ports.of("sink")).is_err(), "still held");
    }
}
