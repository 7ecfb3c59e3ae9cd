//! `platform healthcheck` against a part that answers, one that refuses, and none.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::stack::{Finished, command, finish};

/// Answers every request with `answer`, until the test process ends; an empty one never comes.
fn part(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().flatten() {
            drop(stream.read(&mut [0; 4096]));
            drop(stream.write_all(answer.as_bytes()));
            if answer.is_empty() {
                kept.push(stream);
            }
        }
    });
    address
}

fn check(arguments: &[&str], environment: &[(&str, String)]) -> Finished {
    let mut command = command(&std::env::temp_dir());
    command.arg("healthcheck").args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    finish(command)
}

const READY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
const NOT_READY: &str = "HTTP/1.1 503 Unavailable\r\ncontent-length: 14\r\nconnection: close\r\n\r\nhalted: a hole";

#[test]
fn a_ready_part_is_healthy_by_url_and_by_its_configured_address() {
    let address = part(READY);
    assert_eq!(check(&["--url", &format!("http://{address}/readyz")], &[]).code, Some(0));
    let port = address.port();
    assert_eq!(check(&[], &[("PLATFORM__API__BIND", format!("0.0.0.0:{port}"))]).code, Some(0));
    assert_eq!(check(&["--sink"], &[("PLATFORM__SINK__BIND", format!("127.0.0.1:{port}"))]).code, Some(0));
}

#[test]
fn a_part_that_is_not_ready_gives_its_reason() {
    let finished = check(&["--url", &format!("http://{}/readyz", part(NOT_READY))], &[]);
    assert_eq!(finished.code, Some(69));
    assert!(finished.stderr.contains("503") && finished.stderr.contains("halted: a hole"), "{finished:?}");
}

#[test]
fn nobody_there_and_no_answer_are_told_apart_from_a_bug() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    assert_eq!(check(&["--url", &format!("http://{closed}/")], &[]).code, Some(69));
    let begun = Instant::now();
    assert_eq!(check(&["--url", &format!("http://{}/", part(""))], &[]).code, Some(69));
    assert!(begun.elapsed() < Duration::from_secs(8), "it gives up after five seconds: {:?}", begun.elapsed());
}
