//! The connector and a sink, for what needs the log.

use std::process::{Child, Stdio};
use std::time::Duration;

use crate::analytics::PATH;
use crate::servers::{Server, free_address};
use crate::support::wait::wait_until;
use crate::support::{Stack, processes};

/// Everything that was written before is applied within this.
const LIMIT: Duration = Duration::from_secs(300);

/// A running sink; it ends with its value.
pub(crate) struct Pipeline(Child);

impl Pipeline {
    /// Starts both, and waits until analytics answer: the mirror is loaded, and has the changes since its load.
    pub(crate) async fn start(stack: &Stack, server: &Server) -> Self {
        println!("starting the pipeline");
        let applied = tokio::task::block_in_place(|| stack.platform(&["connector", "apply"]));
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        let log = std::fs::File::create(stack.data_dir().join("logs/bench-sink.log")).expect("a file");
        let mut command = stack.command(&["sink"]);
        command.env("PLATFORM__SINK__BIND", free_address().to_string());
        let sink = Self(command.stdout(Stdio::null()).stderr(log).spawn().expect("started"));
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url = format!("http://{}{PATH}", server.address);
        wait_until("analytics answer", LIMIT, || async {
            let answer = http.get(&url).bearer_auth(stack.api_key()).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        sink
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        processes::signal(i32::try_from(self.0.id()).expect("a process number"), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
