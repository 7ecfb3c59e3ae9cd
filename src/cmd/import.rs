//! `platform import`: posts from NDJSON or CSV files into PostgreSQL.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::batch::import::{self, Format, Imported, Input, OnConflict, Options};
use crate::batch::post;
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::posts::PostWriter;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files of posts: .ndjson, .jsonl or .csv (with a header), also with .gz or .zst; `-` for standard input.
    ///
    /// The columns are those of `sentiment_social` without id, row_version, created_at and updated_at. Decimals have at
    /// most three places. In CSV an empty field is NULL or the column's default, and "" an empty text.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// How the records are written; needed for standard input.
    #[arg(long, value_enum)]
    format: Option<Format>,

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
/// `Failure::Usage` (2) for a file that cannot be opened, `Failure::DataCheck` (65) when `--strict` meets a bad record or
/// no record is good, `Failure::Unavailable` (69) when PostgreSQL does not answer.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let started = Instant::now();
    if args.rejected.is_some() && args.files.len() > 1 {
        return Err(
            Failure::Usage("--rejected is for one file; without it each gets its own FILE.rejected".into()).into()
        );
    }
    let progress = bar();
    let mut inputs = Vec::with_capacity(args.files.len());
    for path in &args.files {
        inputs.push(Input::open(path, args.format, &progress)?);
    }
    if let (Some(path), Some(input), Some(file)) = (args.rejected, inputs.first_mut(), args.files.first()) {
        if path.canonicalize().is_ok_and(|rejected| file.canonicalize().is_ok_and(|file| file == rejected)) {
            return Err(Failure::Usage("--rejected names the file that is imported".into()).into());
        }
        input.rejected = path;
    }
    let on_conflict = match args.on_conflict {
        Conflict::Skip => OnConflict::Skip,
        Conflict::Update => OnConflict::Update,
        Conflict::Error => OnConflict::Error,
    };
    let options = Options { on_conflict, strict: args.strict };
    let work = async {
        let writer = PostWriter::connect(&settings.postgres, "platform import", &post::COLUMNS).await?;
        import::run(&writer, inputs, options, &progress).await
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
