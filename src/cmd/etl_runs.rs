//! `platform etl runs`: what was built, when, and how it ended.

use std::io::IsTerminal as _;

use chrono::SecondsFormat;
use serde_json::json;

use crate::config::Settings;
use crate::shutdown::Shutdown;
use crate::store::clickhouse::{self, ClickHouse};
use crate::store::runs::{self, RunFilter, StoredRun};

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only runs that ended so.
    #[arg(long, value_enum)]
    status: Option<Status>,

    /// Only runs of this bucket: a day, or a month, as YYYY-MM-DD.
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,

    /// Runs at most.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    /// One JSON line instead of a table, as it is when stdout is no terminal.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Status {
    Done,
    Unchanged,
    Failed,
}

impl Status {
    fn stored(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

/// Prints runs.
///
/// # Errors
/// `Failure::Unavailable` (69) when ClickHouse does not answer.
pub(super) async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let clickhouse = ClickHouse::new(&settings.clickhouse)?;
    let status = args.status.map_or("", Status::stored);
    let filter = RunFilter { job: "etl", status, bucket: args.bucket.as_deref().unwrap_or_default() };
    let listed = async {
        let listed = runs::list(&clickhouse, filter, None, args.limit).await;
        listed.map_err(|error| clickhouse::or_unavailable(error.into()))
    };
    let runs = shutdown.guard(listed).await?;
    if args.json || !std::io::stdout().is_terminal() {
        let objects: Vec<_> = runs.iter().map(object).collect();
        return super::print_result(&json!({ "job": "etl runs", "runs": objects }));
    }
    print!("{}", readable(&runs));
    Ok(())
}

fn readable(runs: &[StoredRun]) -> String {
    if runs.is_empty() {
        return "no runs\n".to_owned();
    }
    let header =
        ["STARTED", "AGGREGATE", "BUCKET", "STATUS", "SECONDS", "ROWS IN", "ROWS OUT", "DETAIL"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(header).chain(runs.iter().map(cells)).collect();
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 8]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn seconds(run: &StoredRun) -> String {
    let millis = (run.finished_at - run.started_at).num_milliseconds().max(0);
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

fn aggregate(run: &StoredRun) -> &str {
    run.job.split_once(':').map_or(run.job.as_str(), |(_, name)| name)
}

fn cells(run: &StoredRun) -> [String; 8] {
    [
        run.started_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        aggregate(run).to_owned(),
        run.bucket.clone(),
        run.status.clone(),
        seconds(run),
        run.rows_in.to_string(),
        run.rows_out.to_string(),
        run.detail.lines().next().unwrap_or_default().to_owned(),
    ]
}

fn object(run: &StoredRun) -> serde_json::Value {
    let context: serde_json::Value = serde_json::from_str(&run.context).unwrap_or_default();
    json!({
        "id": run.id, "aggregate": aggregate(run), "bucket": run.bucket, "status": run.status, "detail": run.detail,
        "rows_in": run.rows_in, "rows_out": run.rows_out, "build_id": run.build_id, "as_of_lsn": run.as_of_lsn.to_string(),
        "started_at": run.started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "finished_at": run.finished_at.to_rfc3339_opts(SecondsFormat::Millis, true), "context": context,
    })
}
