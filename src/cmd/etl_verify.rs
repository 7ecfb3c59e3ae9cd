//! `platform etl verify`: whether days that were built are what PostgreSQL has.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::etl::{choose, days};
use crate::batch::aggregates::{self, Day, Verdict};
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::postgres;

/// Differing buckets that the result names.
const NAMED_MAX: usize = 20;

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The day (UTC), YYYY-MM-DD.
    #[arg(long, required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    date: Option<String>,

    /// First day of a range.
    #[arg(long, requires = "to")]
    from: Option<String>,

    /// Last day of a range; it belongs to it.
    #[arg(long, requires = "from")]
    to: Option<String>,

    /// Only this aggregate; default: every one.
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    job: &'static str,
    from: String,
    to: String,
    equal: usize,
    /// Changed since they were built, or never built.
    stale: usize,
    different: Vec<String>,
    duration_ms: u128,
}

/// Compares, bucket by bucket, and prints one JSON line.
///
/// # Errors
/// `Failure::BadDate` (64), `Failure::DataCheck` (65) when a bucket differs, `Failure::Busy` (75) when one has changed since it was
/// built or keeps changing, `Failure::Unavailable` (69).
pub(super) async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (from, to) = days(args.date.as_deref(), args.from.as_deref(), args.to.as_deref())?;
    let chosen = choose(aggregates::all(&settings.etl.aggregates_dir)?, args.job.as_deref())?;
    let (client, clickhouse) = shutdown.guard(aggregates::sessions(&settings, "platform etl verify")).await?;
    let wait = Duration::from_secs(settings.etl.wait_timeout_s);
    let (mut equal, mut stale, mut different) = (0, 0, Vec::new());
    for aggregate in &chosen {
        for date in aggregate.unit.within(from, to) {
            let pipeline = &settings.sink.pipeline;
            let (postgres, clickhouse, shutdown) = (&client, &clickhouse, &shutdown);
            let day = Day { postgres, clickhouse, pipeline, aggregate, date, glimpse: None, is_shown: false, shutdown };
            match Box::pin(aggregates::verify(&day, wait)).await.map_err(postgres::or_unavailable)? {
                Verdict::Equal => equal += 1,
                Verdict::Stale => stale += 1,
                Verdict::Differs(what) => different.push(format!("{} of {date}: {}", aggregate.name, what.join("; "))),
            }
        }
    }
    let (count, named) = (different.len(), different.join(", "));
    different.truncate(NAMED_MAX);
    let report = Report {
        job: "etl verify",
        from: from.to_string(),
        to: to.to_string(),
        equal,
        stale,
        different,
        duration_ms: begun.elapsed().as_millis(),
    };
    super::print_result(&report)?;
    match (count, stale) {
        (0, 0) => Ok(()),
        (0, _) => {
            let text = format!("{stale} buckets are not built, or have changed since; run `platform etl` for them");
            Err(Failure::Busy(text).into())
        }
        _ => Err(Failure::DataCheck(named).into()),
    }
}
