//! `platform import`: posts from NDJSON or CSV files into PostgreSQL.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::batch::import::{self, Format, Imported, Mapping, OnConflict, Options, Source};
use crate::batch::post;
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::posts::PostWriter;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files of posts: .ndjson, .jsonl or .csv (with a header), also compressed by gzip or zstd; a folder's files; `-` for
    /// standard input.
    ///
    /// The columns are those of `sentiment_social` without id, row_version, created_at and updated_at. Decimals have at
    /// most three places. In CSV an empty field is NULL or the column's default, and "" an empty text. An import that was
    /// interrupted goes on where it was when it is started again; after a good end the same files are read anew, which
    /// changes nothing.
    #[arg(required = true, value_name = "PATH")]
    files: Vec<PathBuf>,

    /// How the records are written, where neither the name nor the beginning tells it.
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// The column takes the field of this name instead of its own: `--map content=text`. May be repeated.
    #[arg(long = "map", value_name = "COLUMN=FIELD")]
    maps: Vec<String>,

    /// The column has this value in every post: `--set platform=mastodon`. May be repeated.
    #[arg(long = "set", value_name = "COLUMN=VALUE")]
    constants: Vec<String>,

    /// Leave out fields that no column takes, instead of rejecting their records.
    #[arg(long)]
    ignore_unknown: bool,

    /// What happens to a post whose platform and post_id exist already. `update` replaces the whole post by the record,
    /// and writes nothing where they are equal; of several records of one post the last one stands. `error` imports
    /// nothing at all then.
    #[arg(long, value_enum, default_value_t = Conflict::Skip)]
    on_conflict: Conflict,

    /// End at the first bad record, with nothing imported (exit code 65).
    #[arg(long)]
    strict: bool,

    /// Where bad records are written, verbatim; the reasons go to PATH.reasons. Default: FILE.rejected. For one file.
    #[arg(long, value_name = "PATH")]
    rejected: Option<PathBuf>,

    /// End when one file has more bad records than this (exit code 65); what was imported before stays, and a new start
    /// goes on there.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_rejected: u64,

    /// Read from the beginning, although an interrupted import could go on.
    #[arg(long)]
    from_start: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Conflict {
    Skip,
    Update,
    Error,
}

#[derive(serde::Serialize)]
struct Outcome {
    job: &'static str,
    #[serde(flatten)]
    imported: Imported,
    duration_ms: u128,
}

/// Imports the files.
///
/// # Errors
/// `Failure::Usage` (2) for a file that cannot be opened, `Failure::DataCheck` (65) when `--strict` meets a bad record too many are bad or
/// no record is good, `Failure::Unavailable` (69) when PostgreSQL does not answer.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let started = Instant::now();
    let mapping = Mapping::new(&args.maps, &args.constants, args.ignore_unknown)?;
    let mut sources = Source::list(&args.files, args.format)?;
    if let (Some(path), [source]) = (&args.rejected, sources.as_mut_slice()) {
        let same = |file: &PathBuf| {
            path.canonicalize().is_ok_and(|rejected| file.canonicalize().is_ok_and(|file| file == rejected))
        };
        if source.path.as_ref().is_some_and(same) {
            return Err(Failure::Usage("--rejected names the file that is imported".into()).into());
        }
        source.rejected.clone_from(path);
    }
    if args.rejected.is_some() && sources.len() > 1 {
        let text = "--rejected is for one file; without it each gets its own FILE.rejected";
        return Err(Failure::Usage(text.into()).into());
    }
    let progress = bar();
    sources.iter().for_each(|source| progress.inc_length(source.bytes));
    let on_conflict = match args.on_conflict {
        Conflict::Skip => OnConflict::Skip,
        Conflict::Update => OnConflict::Update,
        Conflict::Error => OnConflict::Error,
    };
    let Args { format, strict, max_rejected, from_start, .. } = args;
    let options = Options { on_conflict, strict, mapping, format, max_rejected, from_start };
    let work = async {
        let writer = PostWriter::connect(&settings.postgres, "platform import", &post::COLUMNS).await?;
        import::run(&writer, sources, options, &progress).await
    };
    let imported = shutdown.guard(work).await;
    progress.finish_and_clear();
    super::print_result(&Outcome { job: "import", imported: imported?, duration_ms: started.elapsed().as_millis() })
}

/// Bytes read of bytes there are, on a terminal.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("importing {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
