//! `platform sink` as a process of the test's own, beside a stack that was started without one.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::wait::blocked_until;
use super::{Stack, processes};

const END_TIMEOUT: Duration = Duration::from_secs(60);

/// A running sink; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct OwnSink {
    child: Child,
    url: String,
}

impl OwnSink {
    /// Starts one with `environment` over the stack's; its log is `own-sink` of the stack.
    pub(crate) fn start(stack: &Stack, environment: &[(&str, &str)]) -> Self {
        let bind =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let log = stack.data_dir().join("logs/own-sink.log");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("opened");
        let mut command = stack.command(&["sink"]);
        command.env("PLATFORM__SINK__BIND", bind.to_string()).envs(environment.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("started");
        Self { child, url: format!("http://{bind}") }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    /// What it says of itself: `running`, `standby` …; empty while it does not answer.
    pub(crate) async fn state(&self) -> String {
        let Ok(answer) = reqwest::get(format!("{}/readyz", self.url)).await else { return String::new() };
        let report: serde_json::Value = answer.json().await.unwrap_or_default();
        report["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until it was killed by SIGKILL; false when it is alive after `limit`. Panics when it has ended otherwise.
    pub(crate) fn was_killed(&mut self, limit: Duration) -> bool {
        let mut status = None;
        blocked_until(limit, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        let Some(status) = status else { return false };
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "the sink has ended: {status}");
        true
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Asks it to end and waits.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let ended = blocked_until(END_TIMEOUT, || self.child.try_wait().expect("a child").is_some());
        assert!(ended, "the sink did not end");
    }
}

impl Drop for OwnSink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
