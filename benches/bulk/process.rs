//! A process that is timed from its start to its end, with the most memory that it had.

use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::figures::memory_peak_mib;

/// How a process ran.
pub(crate) struct Timed {
    pub(crate) seconds: f64,
    pub(crate) peak_mib: f64,
    /// Its last line.
    pub(crate) report: serde_json::Value,
}

/// Runs it; it must succeed and end with a line of JSON. What it complains about is seen.
pub(crate) fn timed(mut command: Command) -> Timed {
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("started");
    let pid = i32::try_from(child.id()).expect("a process number");
    let (ended, ends) = mpsc::channel::<()>();
    // `/proc` keeps the peak as long as the process lives.
    let watching = std::thread::spawn(move || {
        let mut peak: f64 = 0.0;
        while ends.recv_timeout(Duration::from_millis(3)) == Err(RecvTimeoutError::Timeout) {
            if std::path::Path::new(&format!("/proc/{pid}/status")).exists() {
                peak = peak.max(memory_peak_mib(pid));
            }
        }
        peak
    });
    let output = child.wait_with_output().expect("ended");
    let seconds = begun.elapsed().as_secs_f64();
    drop(ended);
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let report = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    Timed { seconds, peak_mib: watching.join().expect("watched"), report }
}
