//! What `platform up` says to the person who started it: plain lines on stderr, whoever reads them.

use std::io::Write as _;
use std::time::Duration;

/// Prints one line. A terminal that is gone must not keep the parts from being stopped, so that a failure to print is
/// ignored.
pub(super) fn say(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// A duration for people: seconds with one decimal.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
