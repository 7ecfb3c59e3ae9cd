//! `platform etl`: rebuilds and checks days of statistics.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_postgres::Client;

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
    #[arg(long, required_unless_present_any = ["from", "dirty"], conflicts_with_all = ["from", "to", "dirty"])]
    date: Option<String>,

    /// First day of a range.
    #[arg(long, requires = "to")]
    from: Option<String>,

    /// Last day of a range; it belongs to it.
    #[arg(long, requires = "from")]
    to: Option<String>,

    /// What has changed since it was built, or was never built: after the sink was down, or without its refresher.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    dirty: bool,

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
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Buckets that were dirty.
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty: Option<usize>,
    aggregates: usize,
    status: Status,
    done: usize,
    unchanged: usize,
    would_build: usize,
    rows_in: u64,
    rows_out: u64,
    duration_ms: u128,
}

impl Summary {
    fn of(reports: &[Report], aggregates: usize, begun: Instant) -> Self {
        let all = |status| reports.iter().filter(|report| report.status == status).count();
        Self {
            job: "etl",
            from: None,
            to: None,
            dirty: None,
            aggregates,
            status: reports
                .iter()
                .map(|report| report.status)
                .find(|it| *it != Status::Unchanged)
                .unwrap_or(Status::Unchanged),
            done: all(Status::Done),
            unchanged: all(Status::Unchanged),
            would_build: all(Status::WouldBuild),
            rows_in: reports.iter().map(|report| report.rows_in).sum(),
            rows_out: reports.iter().filter_map(|report| report.rows_out).sum(),
            duration_ms: begun.elapsed().as_millis(),
        }
    }
}

/// Rebuilds the days, one after another.
///
/// # Errors
/// `Failure::BadDate` (64), `Failure::DataCheck` (65) when a day differs from PostgreSQL, `Failure::Unavailable` (69),
/// `Failure::Busy` (75) while another run builds the day or the mirror is behind, `Failure::NothingToDo` (99) when
/// nothing has changed, `Failure::Signal` (130, 143). A day that failed is as it was before; those before it are built.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let begun = Instant::now();
    let range = if args.dirty { None } else { Some(days(&args)?) };
    if let Some((_, to)) = range
        && to.end() > chrono::Utc::now()
        && !args.allow_incomplete
    {
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
    let work = Work::begin(&settings, &shutdown, &aggregates, &options).await?;
    let reports = match range {
        Some((from, to)) => work.build_range(from, to).await?,
        None => work.build_dirty().await?,
    };
    let unchanged = reports.iter().all(|report| report.status == Status::Unchanged);
    match (reports.as_slice(), range) {
        ([report], Some(_)) => super::print_result(report)?,
        (several, range) => super::print_result(&Summary {
            from: range.map(|(from, _)| from.to_string()),
            to: range.map(|(_, to)| to.to_string()),
            dirty: args.dirty.then_some(several.len()),
            ..Summary::of(several, aggregates.len(), begun)
        })?,
    }
    if unchanged { Err(Failure::NothingToDo("nothing has changed since the last build".into()).into()) } else { Ok(()) }
}

/// A run's connections, and what it was told.
struct Work<'a> {
    postgres: Client,
    clickhouse: ClickHouse,
    pipeline: &'a str,
    shutdown: &'a Shutdown,
    aggregates: &'a [Aggregate],
    options: &'a Options,
}

impl<'a> Work<'a> {
    async fn begin(
        settings: &'a Settings,
        shutdown: &'a Shutdown,
        aggregates: &'a [Aggregate],
        options: &'a Options,
    ) -> anyhow::Result<Self> {
        let limit = Duration::from_secs(settings.etl.build_timeout_s);
        let postgres = shutdown.guard(postgres::connect(&settings.postgres, "platform etl")).await?;
        let timeout = format!("set statement_timeout = {}", limit.as_millis());
        postgres.batch_execute(&timeout).await.context("preparing the PostgreSQL session")?;
        let clickhouse = ClickHouse::new(&settings.clickhouse)?.with_timeout(limit);
        Ok(Self { postgres, clickhouse, pipeline: &settings.sink.pipeline, shutdown, aggregates, options })
    }

    async fn build_range(&self, from: RunDate, to: RunDate) -> anyhow::Result<Vec<Report>> {
        let all: Vec<(&Aggregate, Vec<RunDate>)> =
            self.aggregates.iter().map(|aggregate| (aggregate, aggregate.unit.within(from, to))).collect();
        let bar = bar(all.iter().map(|(_, buckets)| buckets.len()).sum());
        let mut reports = Vec::new();
        for (aggregate, buckets) in all {
            for date in buckets {
                reports.push(self.build(aggregate, date).await?);
                bar.inc(1);
            }
            self.complete(aggregate).await?;
        }
        bar.finish_and_clear();
        Ok(reports)
    }

    async fn build_dirty(&self) -> anyhow::Result<Vec<Report>> {
        let there = aggregates::marks_are_there(&self.postgres, &self.clickhouse, self.pipeline, self.options.wait);
        self.shutdown.guard(there).await?;
        let mut reports = Vec::new();
        for aggregate in self.aggregates {
            let dirty = aggregates::dirty(&self.clickhouse, aggregate).await?;
            let bar = bar(dirty.len());
            for date in dirty {
                match self.build(aggregate, date).await {
                    Ok(report) => reports.push(report),
                    Err(error) if self.is_done_by_another(aggregate, date, &error).await? => {}
                    Err(error) => return Err(error),
                }
                bar.inc(1);
            }
            bar.finish_and_clear();
            self.complete(aggregate).await?;
        }
        Ok(reports)
    }

    /// Whether the bucket is fresh although it could not be locked: the refresher, or another run, was at work on it.
    async fn is_done_by_another(
        &self,
        aggregate: &Aggregate,
        date: RunDate,
        error: &anyhow::Error,
    ) -> anyhow::Result<bool> {
        let busy = matches!(error.downcast_ref(), Some(Failure::Busy(_)));
        Ok(busy && !aggregates::dirty(&self.clickhouse, aggregate).await?.contains(&date))
    }

    async fn build(&self, aggregate: &Aggregate, date: RunDate) -> anyhow::Result<Report> {
        let Self { postgres, clickhouse, pipeline, shutdown, .. } = self;
        let day = Day { postgres, clickhouse, pipeline, aggregate, date, shutdown };
        let report = Box::pin(aggregates::rebuild(&day, self.options)).await;
        report.with_context(|| format!("{} of {date}", aggregate.name))
    }

    /// Of a file that has changed, builds the rest too, so that readers get to see it.
    async fn complete(&self, aggregate: &Aggregate) -> anyhow::Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let Self { postgres, clickhouse, pipeline, shutdown, .. } = self;
        Box::pin(aggregates::complete(postgres, clickhouse, pipeline, aggregate, shutdown)).await
    }
}

fn bar(buckets: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("building {bar:30} {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(u64::try_from(buckets).unwrap_or(u64::MAX)).with_style(style)
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
        _ => Err(Failure::Usage("say --date, --from and --to, or --dirty".into()).into()),
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
