//! `platform generate`: synthetic posts in PostgreSQL, reproducible by seed.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::batch::generate::{self, Generated, Options, ROWS_MAX};
use crate::batch::post;
use crate::config::Settings;
use crate::domain::{Failure, RunDate};
use crate::shutdown::Shutdown;
use crate::store::posts::PostWriter;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Posts of the day. The first ones are the same however many are asked for.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
    rows: u64,

    /// The day (UTC) they are posted on, YYYY-MM-DD.
    #[arg(long)]
    date: String,

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
    date: String,
    seed: u64,
    status: &'static str,
    #[serde(flatten)]
    generated: Generated,
    duration_ms: u128,
}

/// Generates the posts.
///
/// # Errors
/// `Failure::BadDate` (64), `Failure::NothingToDo` (99) when every post exists already, `Failure::DataCheck` (65) when
/// some do and that was refused, `Failure::Unavailable` (69) when PostgreSQL does not answer.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let started = Instant::now();
    let date: RunDate = args.date.parse()?;
    let options =
        Options { rows: args.rows, date, seed: args.seed, refuse_existing: args.on_conflict == Conflict::Error };
    let style = ProgressStyle::with_template("generating {bar:30} {human_pos}/{human_len} posts {per_sec} {eta}");
    // Draws on a terminal alone.
    let progress = ProgressBar::new(args.rows).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let work = async {
        let writer = PostWriter::connect(&settings.postgres, "platform generate", &post::COLUMNS).await?;
        generate::run(&writer, options, &progress).await
    };
    let generated = shutdown.guard(work).await;
    progress.finish_and_clear();
    let generated = generated?;
    let all_there = generated.inserted == 0;
    let status = if all_there { "unchanged" } else { "done" };
    let duration_ms = started.elapsed().as_millis();
    super::print_result(&Outcome {
        job: "generate",
        date: date.to_string(),
        seed: args.seed,
        status,
        generated,
        duration_ms,
    })?;
    if all_there {
        return Err(Failure::NothingToDo("every one of these posts exists already".into()).into());
    }
    Ok(())
}
