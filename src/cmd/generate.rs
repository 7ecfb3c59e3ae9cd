//! `platform generate`: synthetic posts in PostgreSQL, reproducible by seed, and changes that go on.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::batch::generate::{self, Generated, Lived, Options, ROWS_MAX};
use crate::batch::post;
use crate::config::Settings;
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::posts::PostWriter;

/// Changes a second beyond which one connection is no fair load any more.
const RATE_MAX: u32 = 100_000;

/// Flags.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("when").required(true).args(["date", "from", "live"]))]
pub struct Args {
    /// Posts of the day, or of a usual day of the range: weekends have fewer, days on which something happens more. The
    /// first ones are the same however many are asked for.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX / 2), required_unless_present = "live")]
    rows: Option<u64>,

    /// The day (UTC) they are posted on, YYYY-MM-DD.
    #[arg(long)]
    date: Option<String>,

    /// First day of a range.
    #[arg(long, requires = "to")]
    from: Option<String>,

    /// Last day of a range; it belongs to it.
    #[arg(long, requires = "from")]
    to: Option<String>,

    /// Make N changes a second, new posts above all, until Ctrl-C or SIGTERM; the summary follows, and the exit code is 0.
    #[arg(long, value_name = "N[/s]", value_parser = rate, conflicts_with_all = ["rows", "on_conflict"])]
    live: Option<u32>,

    /// End --live after so many seconds.
    #[arg(long, value_name = "SECONDS", requires = "live", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,

    /// Another seed gives other posts.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// What happens when some of these posts exist already: `skip` adds the missing ones (exit code 99 when none is
    /// missing), `error` writes nothing (exit code 65).
    #[arg(long, value_enum, default_value_t = Conflict::Skip)]
    on_conflict: Conflict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Conflict {
    Skip,
    Error,
}

#[derive(serde::Serialize)]
struct Outcome {
    job: &'static str,
    #[serde(flatten)]
    days: Days,
    seed: u64,
    status: &'static str,
    #[serde(flatten)]
    generated: Generated,
    duration_ms: u128,
}

/// What is said of the day or the range.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Days {
    One { date: String },
    Several { from: String, to: String, days: usize },
}

#[derive(serde::Serialize)]
struct LiveOutcome {
    job: &'static str,
    mode: &'static str,
    seed: u64,
    #[serde(flatten)]
    lived: Lived,
    duration_ms: u128,
}

/// Generates the posts.
///
/// # Errors
/// `Failure::BadDate` (64), `Failure::NothingToDo` (99) when every post exists already, `Failure::DataCheck` (65) when
/// some do and that was refused, `Failure::Unavailable` (69) when PostgreSQL does not answer.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let started = Instant::now();
    if let Some(rate) = args.live {
        return live(rate, &args, &settings, &shutdown, started).await;
    }
    let plan = plan(&args)?;
    let style = ProgressStyle::with_template("generating {bar:30} {human_pos}/{human_len} posts {per_sec} {eta}");
    // Draws on a terminal alone.
    let progress = ProgressBar::new(plan.iter().map(|options| options.rows).sum())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let work = async {
        let writer = connect(&settings).await?;
        if let (true, [_, _, ..]) = (args.on_conflict == Conflict::Error, plan.as_slice()) {
            refuse_existing(&writer, &plan).await?;
        }
        let mut all = Generated::default();
        for options in &plan {
            let done = generate::run(&writer, *options, &progress).await?;
            all.rows += done.rows;
            all.inserted += done.inserted;
            all.unchanged += done.unchanged;
            all.bytes += done.bytes;
        }
        Ok(all)
    };
    let generated = shutdown.guard(work).await;
    progress.finish_and_clear();
    let generated = generated?;
    let all_there = generated.inserted == 0;
    let days = match (args.from, args.to, plan.as_slice()) {
        (Some(from), Some(to), plan) => Days::Several { from, to, days: plan.len() },
        (.., plan) => Days::One { date: plan.first().map_or_else(String::new, |options| options.date.to_string()) },
    };
    super::print_result(&Outcome {
        job: "generate",
        days,
        seed: args.seed,
        status: if all_there { "unchanged" } else { "done" },
        generated,
        duration_ms: started.elapsed().as_millis(),
    })?;
    if all_there {
        return Err(Failure::NothingToDo("every one of these posts exists already".into()).into());
    }
    Ok(())
}

/// What to make of each day.
fn plan(args: &Args) -> anyhow::Result<Vec<Options>> {
    let (rows, seed) = (args.rows.unwrap_or_default(), args.seed);
    let refuse_existing = args.on_conflict == Conflict::Error;
    if let (Some(from), Some(to)) = (&args.from, &args.to) {
        let (from, to): (RunDate, RunDate) = (from.parse()?, to.parse()?);
        if from > to {
            return Err(Failure::BadDate(format!("the range ends ({to}) before it begins ({from})")).into());
        }
        let day = |date| Options { rows: generate::rows_of(date, seed, rows), date, seed, refuse_existing };
        return Ok(from.through(to).map(day).collect());
    }
    let date = args.date.as_deref().unwrap_or_default().parse()?;
    Ok(vec![Options { rows, date, seed, refuse_existing }])
}

/// Looks at every day before the first one is written.
async fn refuse_existing(writer: &PostWriter, plan: &[Options]) -> anyhow::Result<()> {
    for options in plan {
        let existing = generate::existing(writer, *options).await?;
        if existing > 0 {
            let text = format!("{existing} posts of {} exist already; nothing was written", options.date);
            return Err(Failure::DataCheck(text).into());
        }
    }
    Ok(())
}

async fn live(
    rate: u32,
    args: &Args,
    settings: &Settings,
    shutdown: &Shutdown,
    started: Instant,
) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("{spinner} {human_pos} changes {per_sec}; Ctrl-C ends");
    let progress = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let writer = shutdown.guard(connect(settings)).await?;
    let limit = args.seconds.map(Duration::from_secs);
    let lived = generate::live(&writer, rate, args.seed, limit, shutdown, &progress).await;
    progress.finish_and_clear();
    let duration_ms = started.elapsed().as_millis();
    super::print_result(&LiveOutcome { job: "generate", mode: "live", seed: args.seed, lived: lived?, duration_ms })
}

async fn connect(settings: &Settings) -> anyhow::Result<PostWriter> {
    PostWriter::connect(&settings.postgres, "platform generate", &post::COLUMNS).await
}

/// `200` or `200/s`.
fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<u32>().ok();
    number
        .filter(|rate| (1..=RATE_MAX).contains(rate))
        .ok_or_else(|| format!("write a number of changes a second from 1 to {RATE_MAX}, such as 200 or 200/s"))
}
