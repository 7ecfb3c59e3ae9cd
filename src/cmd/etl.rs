//! `platform etl`: rebuilds and checks days of statistics.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use crate::batch::aggregates::{self, Day, Options, Report, Status};
use crate::catalog::Aggregate;
use crate::config::{self, Settings};
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;
use crate::store::postgres;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The day (UTC), YYYY-MM-DD.
    #[arg(long, required_unless_present_all = ["from", "to"], conflicts_with_all = ["from", "to"])]
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

    /// Build although nothing has changed since the last build.
    #[arg(long)]
    force: bool,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,

    /// Allow days that are not over yet.
    #[arg(long)]
    allow_incomplete: bool,

    /// `auto`: wait until the mirror has what PostgreSQL has now, and compare the two. `none`: take the mirror as it is.
    #[arg(long, value_enum, default_value_t = WaitLsn::Auto)]
    wait_lsn: WaitLsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WaitLsn {
    Auto,
    None,
}

/// What a range says instead of one report.
#[derive(serde::Serialize)]
struct Summary {
    job: &'static str,
    from: String,
    to: String,
    aggregates: usize,
    status: Status,
    done: usize,
    unchanged: usize,
    would_build: usize,
    rows_in: u64,
    rows_out: u64,
    duration_ms: u128,
}

/// Rebuilds the days, one after another.
///
/// # Errors
/// `Failure::BadDate` (64), `Failure::DataCheck` (65) when a day differs from PostgreSQL, `Failure::Unavailable` (69),
/// `Failure::Busy` (75) while another run builds the day or the mirror is behind, `Failure::NothingToDo` (99) when
/// nothing has changed, `Failure::Signal` (130, 143). A day that failed is as it was before; those before it are built.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (from, to) = days(&args)?;
    if to.end() > chrono::Utc::now() && !args.allow_incomplete {
        return Err(
            Failure::BadDate(format!("{to} is not over yet (UTC); --allow-incomplete builds it all the same")).into()
        );
    }
    let aggregates = choose(aggregates::all(&settings.etl.aggregates_dir)?, args.job.as_deref())?;
    let options = Options {
        force: args.force,
        dry_run: args.dry_run,
        wait: (args.wait_lsn == WaitLsn::Auto).then(|| Duration::from_secs(settings.etl.wait_timeout_s)),
        context: context()?,
    };
    let reports = build_all(&settings, &shutdown, &aggregates, from, to, &options).await?;
    let all = |status| reports.iter().filter(|report| report.status == status).count();
    let unchanged = all(Status::Unchanged) == reports.len();
    match reports.as_slice() {
        [report] => super::print_result(report)?,
        several => super::print_result(&Summary {
            job: "etl",
            from: from.to_string(),
            to: to.to_string(),
            aggregates: aggregates.len(),
            status: several
                .iter()
                .map(|report| report.status)
                .find(|it| *it != Status::Unchanged)
                .unwrap_or(Status::Unchanged),
            done: all(Status::Done),
            unchanged: all(Status::Unchanged),
            would_build: all(Status::WouldBuild),
            rows_in: several.iter().map(|report| report.rows_in).sum(),
            rows_out: several.iter().filter_map(|report| report.rows_out).sum(),
            duration_ms: begun.elapsed().as_millis(),
        })?,
    }
    if unchanged { Err(Failure::NothingToDo("nothing has changed since the last build".into()).into()) } else { Ok(()) }
}

async fn build_all(
    settings: &Settings,
    shutdown: &Shutdown,
    aggregates: &[Aggregate],
    from: RunDate,
    to: RunDate,
    options: &Options,
) -> anyhow::Result<Vec<Report>> {
    let limit = Duration::from_secs(settings.etl.build_timeout_s);
    let postgres = shutdown.guard(postgres::connect(&settings.postgres, "platform etl")).await?;
    let timeout = format!("set statement_timeout = {}", limit.as_millis());
    postgres.batch_execute(&timeout).await.context("preparing the PostgreSQL session")?;
    let clickhouse = ClickHouse::new(&settings.clickhouse)?.with_timeout(limit);
    let dates: Vec<RunDate> = from.through(to).collect();
    let style = ProgressStyle::with_template("building {bar:30} {pos}/{len} days {eta}");
    let bar = ProgressBar::new(u64::try_from(dates.len() * aggregates.len()).unwrap_or(u64::MAX))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut reports = Vec::new();
    for date in dates {
        for aggregate in aggregates {
            let pipeline = &settings.sink.pipeline;
            let day = Day { postgres: &postgres, clickhouse: &clickhouse, pipeline, aggregate, date, shutdown };
            let report = Box::pin(aggregates::rebuild(&day, options)).await;
            reports.push(report.with_context(|| format!("{} of {date}", aggregate.name))?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(reports)
}

fn days(args: &Args) -> anyhow::Result<(RunDate, RunDate)> {
    match (&args.date, &args.from, &args.to) {
        (Some(date), ..) => {
            let date = date.parse()?;
            Ok((date, date))
        }
        (None, Some(from), Some(to)) => {
            let (from, to): (RunDate, RunDate) = (from.parse()?, to.parse()?);
            if from > to {
                return Err(Failure::BadDate(format!("the range ends ({to}) before it begins ({from})")).into());
            }
            Ok((from, to))
        }
        _ => Err(Failure::Usage("say --date, or --from and --to".into()).into()),
    }
}

fn choose(mut aggregates: Vec<Aggregate>, name: Option<&str>) -> anyhow::Result<Vec<Aggregate>> {
    let Some(name) = name else { return Ok(aggregates) };
    let known: Vec<String> = aggregates.iter().map(|aggregate| aggregate.name.clone()).collect();
    aggregates.retain(|aggregate| aggregate.name == name);
    if aggregates.is_empty() {
        return Err(Failure::Usage(format!("there is no aggregate {name:?}; there are {}", known.join(", "))).into());
    }
    Ok(aggregates)
}

/// Who called, for the history: Airflow says so in variables.
fn context() -> anyhow::Result<String> {
    let mut context = config::environment();
    context.retain(|name, _| name.starts_with("AIRFLOW_CTX_"));
    Ok(serde_json::to_string(&context)?)
}
