//! `platform sink` as a process of its own, beside the stack.

use std::process::{Child, Stdio};

use crate::support::Stack;
use crate::support::processes;

/// A running sink. `stop` ends it.
pub(crate) struct Sink {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Sink {
    pub(crate) fn start(stack: &Stack, environment: &[(&str, &str)]) -> Self {
        let bind =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let log = std::fs::File::options().create(true).append(true).open(stack.data_dir().join("logs/bench-sink.log"));
        let log = log.expect("opened");
        let mut command = stack.command(&["sink"]);
        command.env("PLATFORM__SINK__BIND", bind.to_string()).envs(environment.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("started");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child, url: format!("http://{bind}"), http }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    /// The first offset that is not applied; 0 while it starts.
    pub(crate) async fn next_offset(&self) -> u64 {
        let answer = self.http.get(format!("{}/readyz", self.url)).send().await;
        let Ok(answer) = answer else { return 0 };
        let report: serde_json::Value = answer.json().await.unwrap_or_default();
        assert_ne!(report["state"], "halted", "{report}");
        report["next_offset"].as_u64().unwrap_or(0)
    }

    /// Its metrics, as text.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.url)).send().await.expect("answered");
        answer.text().await.expect("a text")
    }

    pub(crate) fn stop(mut self) {
        processes::signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
        self.child.wait().expect("ended");
    }
}
