//! `platform etl`: rebuilds and checks days of statistics.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio_postgres::Client;

use super::{etl_runs, etl_verify, etl_workers};
use crate::batch::aggregates::{self, Day, Glimpse, Options, Report, Status};
use crate::catalog::Aggregate;
use crate::config::{self, Settings};
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;

/// Flags.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,

    #[command(flatten)]
    build: Build,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The history of builds, the newest first.
    Runs(etl_runs::Args),
    /// Compare built days with PostgreSQL, and build nothing.
    Verify(etl_verify::Args),
}

#[derive(Debug, clap::Args)]
struct Build {
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

    /// Buckets that are built at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    parallel: u8,

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

/// Rebuilds the days, or looks at what was built.
///
/// # Errors
/// Those of `build`, `etl_runs::run` and `etl_verify::run`.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    match args.action {
        None => build(args.build, settings, shutdown).await,
        Some(Action::Runs(args)) => etl_runs::run(args, settings, shutdown).await,
        Some(Action::Verify(args)) => etl_verify::run(args, settings, shutdown).await,
    }
}

/// Rebuilds the days, several at once.
///
/// # Errors
/// `Failure::BadDate` (64), `Failure::DataCheck` (65) when a day differs from PostgreSQL, `Failure::Unavailable` (69),
/// `Failure::Busy` (75) while another run builds the day or the mirror is behind, `Failure::NothingToDo` (99) when
/// nothing has changed, `Failure::Signal` (130, 143). A day that failed is as it was before; those that had begun are built.
async fn build(args: Build, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let begun = Instant::now();
    let range =
        if args.dirty { None } else { Some(days(args.date.as_deref(), args.from.as_deref(), args.to.as_deref())?) };
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
    let alone = match (aggregates.as_slice(), range) {
        ([one], Some((from, to))) if from == to && options.force && options.wait.is_none() => Some((one, from)),
        _ => None,
    };
    let glimpse = alone.map(|bucket| glimpse(&settings, bucket)).transpose()?;
    let published = async { Ok(are_published(&settings, &aggregates).await) };
    let begun_with = async { tokio::try_join!(Work::begin(&settings, &shutdown, &aggregates, &options), published) };
    let (work, published) = shutdown.guard(Box::pin(begun_with)).await?;
    let work = Work { glimpse, is_shown: published, ..work };
    let todo = match range {
        Some((from, to)) => work.within(from, to),
        None => work.dirty().await?,
    };
    let reports = etl_workers::build_all(&work, todo, args.parallel, args.dirty).await?;
    if !published {
        for aggregate in &aggregates {
            work.complete(aggregate).await?;
        }
    }
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

/// Looked at while PostgreSQL's session begins. If ClickHouse does not answer, the work will say so.
async fn are_published(settings: &Settings, aggregates: &[Aggregate]) -> bool {
    let Ok(clickhouse) = ClickHouse::new(&settings.clickhouse) else { return false };
    aggregates::are_published(&clickhouse, aggregates).await.unwrap_or(false)
}

/// The mirror of a bucket that is built alone, looked at meanwhile too.
fn glimpse(settings: &Settings, (aggregate, date): Bucket<'_>) -> anyhow::Result<Glimpse> {
    Ok(Glimpse::begin(ClickHouse::new(&settings.clickhouse)?, &settings.sink.pipeline, aggregate, date))
}

/// A run's connections, and what it was told.
pub(super) struct Work<'a> {
    settings: &'a Settings,
    postgres: Client,
    clickhouse: ClickHouse,
    shutdown: &'a Shutdown,
    aggregates: &'a [Aggregate],
    options: &'a Options,
    glimpse: Option<Glimpse>,
    /// Whether readers see every definition already.
    is_shown: bool,
}

/// A bucket to build, by the place of its aggregate.
pub(super) type Bucket<'a> = (&'a Aggregate, RunDate);

impl<'a> Work<'a> {
    async fn begin(
        settings: &'a Settings,
        shutdown: &'a Shutdown,
        aggregates: &'a [Aggregate],
        options: &'a Options,
    ) -> anyhow::Result<Self> {
        let (postgres, clickhouse) = shutdown.guard(aggregates::sessions(settings, "platform etl")).await?;
        Ok(Self { settings, postgres, clickhouse, shutdown, aggregates, options, glimpse: None, is_shown: false })
    }

    /// The same work over a session of its own: a session holds one lock at a time.
    pub(super) async fn another(&self) -> anyhow::Result<Self> {
        let begun = Self::begin(self.settings, self.shutdown, self.aggregates, self.options).await?;
        Ok(Self { is_shown: self.is_shown, ..begun })
    }

    fn pipeline(&self) -> &'a str {
        &self.settings.sink.pipeline
    }

    fn within(&self, from: RunDate, to: RunDate) -> Vec<Bucket<'a>> {
        let of =
            |aggregate: &'a Aggregate| aggregate.unit.within(from, to).into_iter().map(move |date| (aggregate, date));
        self.aggregates.iter().flat_map(of).collect()
    }

    async fn dirty(&self) -> anyhow::Result<Vec<Bucket<'a>>> {
        let there = aggregates::marks_are_there(&self.postgres, &self.clickhouse, self.pipeline(), self.options.wait);
        self.shutdown.guard(there).await?;
        let mut dirty = Vec::new();
        for aggregate in self.aggregates {
            let dates = aggregates::dirty(&self.clickhouse, aggregate).await?;
            dirty.extend(dates.into_iter().map(|date| (aggregate, date)));
        }
        Ok(dirty)
    }

    /// Whether the bucket is fresh although it could not be locked: the refresher, or another run, was at work on it.
    pub(super) async fn is_done_by_another(
        &self,
        (aggregate, date): Bucket<'_>,
        error: &anyhow::Error,
    ) -> anyhow::Result<bool> {
        let busy = matches!(error.downcast_ref(), Some(Failure::Busy(_)));
        Ok(busy && !aggregates::dirty(&self.clickhouse, aggregate).await?.contains(&date))
    }

    pub(super) async fn build(&self, (aggregate, date): Bucket<'_>) -> anyhow::Result<Report> {
        let Self { postgres, clickhouse, shutdown, .. } = self;
        let (pipeline, glimpse) = (self.pipeline(), self.glimpse.as_ref());
        let day = Day { postgres, clickhouse, pipeline, aggregate, date, glimpse, is_shown: self.is_shown, shutdown };
        let report = Box::pin(aggregates::rebuild(&day, self.options)).await;
        report.with_context(|| format!("{} of {date}", aggregate.name))
    }

    /// Of a file that has changed, builds the rest too, so that readers get to see it.
    async fn complete(&self, aggregate: &Aggregate) -> anyhow::Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let Self { postgres, clickhouse, shutdown, .. } = self;
        Box::pin(aggregates::complete(postgres, clickhouse, self.pipeline(), aggregate, shutdown)).await
    }
}

/// The days of a run, first and last.
///
/// # Errors
/// `Failure::BadDate`, `Failure::Usage`.
pub(super) fn days(date: Option<&str>, from: Option<&str>, to: Option<&str>) -> anyhow::Result<(RunDate, RunDate)> {
    match (date, from, to) {
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

/// All of them, or the one of this name.
///
/// # Errors
/// `Failure::Usage` for a name that there is not.
pub(super) fn choose(mut aggregates: Vec<Aggregate>, name: Option<&str>) -> anyhow::Result<Vec<Aggregate>> {
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
