//! Lines of the result, and what processes have used.

use std::time::Duration;

/// One line of the result.
pub(crate) struct Line {
    what: String,
    figure: String,
    peer: String,
    ratio: Option<f64>,
    value: Option<f64>,
}

impl Line {
    /// Keeps the figure as a number, for other parts of the run.
    pub(crate) fn with_figure(self, value: f64) -> Self {
        Self { value: Some(value), ..self }
    }

    /// The number, if this line is about `what`.
    pub(crate) fn figure_of(&self, what: &str) -> Option<f64> {
        self.value.filter(|_| self.what == what)
    }
}

pub(crate) fn line(
    what: impl Into<String>,
    figure: impl Into<String>,
    peer: impl Into<String>,
    ratio: Option<f64>,
) -> Line {
    Line { what: what.into(), figure: figure.into(), peer: peer.into(), ratio, value: None }
}

pub(crate) fn print(table: &[Line]) {
    println!("\n| what | figure | compared with | ratio |\n|---|---|---|---|");
    for Line { what, figure, peer, ratio, .. } in table {
        println!("| {what} | {figure} | {peer} | {} |", ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
    }
}

/// A number from the environment, or what it is without.
pub(crate) fn knob(name: &str, default: u64) -> u64 {
    let text = platform::config::environment().remove(name);
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// How often each figure is taken; the median is printed.
pub(crate) fn repetitions() -> u64 {
    knob("PLATFORM_BENCH_REPETITIONS", 5)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the samples")]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// CPU seconds that a process has used so far, all threads (`/proc/PID/stat`, fields 14 and 15, in ticks of 10 ms).
pub(crate) fn cpu_seconds(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Largest resident memory that a process ever had, in MiB.
pub(crate) fn memory_peak_mib(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// Milliseconds for people.
pub(crate) fn ms(seconds: f64) -> String {
    format!("{:.1} ms", Duration::from_secs_f64(seconds).as_secs_f64() * 1000.0)
}
