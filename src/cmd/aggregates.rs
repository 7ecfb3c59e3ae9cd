//! `platform aggregates`: for whoever writes the SQL of a statistic.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::batch::aggregates::{self, Plan};
use crate::catalog::{Aggregate, BucketUnit};
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::aggregates as files;
use crate::store::clickhouse::ClickHouse;
use crate::store::postgres;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check every file: its header, and, as far as they answer, that ClickHouse can plan its SELECT and both databases its checks;
    /// nothing is run.
    Check(Where),
    /// List the aggregates.
    List(Where),
    /// Write a file that works, to be changed.
    New(New),
}

#[derive(Debug, clap::Args)]
struct Where {
    /// Folder of the files; by default `etl.aggregates_dir`, or the files that are compiled in when that is empty.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON also on a terminal; elsewhere it is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct New {
    /// Name of the aggregate: its result is analytics.NAME.
    name: String,
    /// Folder that gets the file; by default `etl.aggregates_dir`, or `sql/aggregates` when that is empty.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Mirrored table that it reads.
    #[arg(long, value_name = "TABLE", default_value = "sentiment_social")]
    table: String,
    /// Column with the time of a row.
    #[arg(long, value_name = "COLUMN", default_value = "posted_at")]
    time: String,
    /// How finely it divides time.
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    Hour,
    Day,
    Month,
}

#[derive(Debug, Serialize)]
struct Checked {
    job: &'static str,
    files: usize,
    /// Whether ClickHouse was asked, too.
    clickhouse: bool,
    /// Whether PostgreSQL was asked, too.
    postgres: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    file: String,
    problem: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    summary: String,
    table: String,
    bucket: String,
    keys: Vec<String>,
    checks: Vec<String>,
    /// The view that readers ask.
    result: String,
    /// Changes when the result does.
    definition: String,
}

/// Runs the command.
///
/// # Errors
/// `Failure::Config` (78) for a wrong file or folder, `Failure::Usage` (2) for a name that cannot be one.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    match args.action {
        Action::Check(place) => shutdown.guard(check(&place, &settings)).await,
        Action::List(place) => list(&place, &settings),
        Action::New(new) => write_new(&new, &settings),
    }
}

fn folder(given: Option<&Path>, settings: &Settings) -> String {
    given.map_or_else(|| settings.etl.aggregates_dir.clone(), |dir| dir.display().to_string())
}

async fn check(place: &Where, settings: &Settings) -> anyhow::Result<()> {
    let files = files::files(&folder(place.dir.as_deref(), settings))?;
    let (mut findings, mut right) = (Vec::new(), Vec::new());
    for (name, text) in &files {
        match Aggregate::parse(name, text) {
            Ok(aggregate) => right.push(aggregate),
            Err(error) => findings.push(Finding { file: format!("{name}.sql"), problem: error.to_string() }),
        }
    }
    let clickhouse =
        if settings.clickhouse.url.is_empty() { None } else { Some(ClickHouse::new(&settings.clickhouse)?) };
    let client = postgres::connect(&settings.postgres, "platform aggregates").await.ok();
    let mut report =
        Checked { job: "aggregates check", files: files.len(), clickhouse: false, postgres: false, findings };
    for aggregate in &right {
        let mut judge = |plan: Plan, asked: &mut bool| match plan {
            Plan::Good => *asked = true,
            Plan::Wrong(problem) => {
                *asked = true;
                report.findings.push(Finding { file: format!("{}.sql", aggregate.name), problem });
            }
            Plan::Unknown(why) => eprintln!("platform: {}.sql: {why}", aggregate.name),
        };
        if let Some(clickhouse) = &clickhouse {
            judge(aggregates::plan_in_clickhouse(clickhouse, aggregate).await, &mut report.clickhouse);
        }
        if let Some(client) = &client {
            judge(aggregates::plan_in_postgres(client, aggregate).await, &mut report.postgres);
        }
    }
    if place.json || !std::io::stdout().is_terminal() {
        super::print_result(&report)?;
    } else {
        println!("{} files checked, {} findings", report.files, report.findings.len());
        for finding in &report.findings {
            println!("{}: {}", finding.file, finding.problem);
        }
    }
    match report.findings.len() {
        0 => Ok(()),
        found => Err(Failure::Config(format!("{found} of {} files are wrong, or parts of them", report.files)).into()),
    }
}

fn list(place: &Where, settings: &Settings) -> anyhow::Result<()> {
    let all = files::all(&folder(place.dir.as_deref(), settings))?;
    let listed: Vec<Listed> = all.into_iter().map(listed).collect();
    if place.json || !std::io::stdout().is_terminal() {
        return super::print_result(&listed);
    }
    for one in &listed {
        println!("{}  {}", one.result, one.summary);
        println!("    {} of {} by {}", one.bucket, one.table, one.keys.join(", "));
    }
    Ok(())
}

fn listed(aggregate: Aggregate) -> Listed {
    Listed {
        result: format!("analytics.{}", aggregate.name),
        bucket: format!("{}({})", aggregate.unit.word(), aggregate.bucket_column),
        checks: std::iter::once("rows".to_owned())
            .chain(aggregate.checks.into_iter().map(|check| check.name))
            .collect(),
        table: aggregate.table.to_string(),
        name: aggregate.name,
        summary: aggregate.summary,
        keys: aggregate.keys,
        definition: aggregate.definition,
    }
}

fn write_new(new: &New, settings: &Settings) -> anyhow::Result<()> {
    let text = template(new);
    // A name that the file could not be read under, before there is a file.
    Aggregate::parse(&new.name, &text).map_err(|error| Failure::Usage(error.to_string()))?;
    let folder = match folder(new.dir.as_deref(), settings) {
        folder if folder.is_empty() => "sql/aggregates".to_owned(),
        folder => folder,
    };
    let path = Path::new(&folder).join(format!("{}.sql", new.name));
    let wrong = |error: std::io::Error| Failure::Config(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&folder).map_err(wrong)?;
    let mut file = std::fs::File::create_new(&path).map_err(wrong)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(wrong)?;
    eprintln!(
        "platform: change it, then run `platform aggregates check --dir {folder}`; `etl.aggregates_dir` builds the folder, and \
         nothing else: copy the shipped files there to keep them"
    );
    super::print_result(&serde_json::json!({ "job": "aggregates new", "file": path }))
}

fn template(new: &New) -> String {
    let New { table, time, .. } = new;
    let (unit, key, select) = match new.by {
        By::Hour => (BucketUnit::Hour, "hour", "{hour} as hour"),
        By::Day => (BucketUnit::Day, "kind", "'all' as kind"),
        By::Month => (BucketUnit::Month, "kind", "'all' as kind"),
    };
    let word = unit.word();
    format!(
        "-- summary: Rows by {word}.\n\
         -- table: {table}\n\
         -- bucket: {word}({time})\n\
         -- keys: {key}\n\
         -- rows: sum(rows_found)\n\
         \n\
         select\n    \
             {select},\n    \
             count() as rows_found\n\
         from {{source}}\n\
         group by {key}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_right() {
        for by in [By::Hour, By::Day, By::Month] {
            let new = New { name: "n".into(), dir: None, table: "shop.orders".into(), time: "placed_at".into(), by };
            let aggregate = Aggregate::parse("n", &template(&new)).expect("right");
            assert_eq!((aggregate.table.mirror_name().as_str(), aggregate.keys.len()), ("shop.orders", 1));
            assert_eq!(listed(aggregate).checks, ["rows"]);
        }
    }
}
