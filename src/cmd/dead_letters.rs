//! `platform dead-letters`: rows that could not be applied.

use std::io::IsTerminal as _;

use chrono::Utc;
use serde_json::json;

use super::operate::{Wait, ask};
use crate::config::Settings;
use crate::domain::{Failure, TableName};
use crate::shutdown::Shutdown;
use crate::store::clickhouse::{Class, ClickHouse, Error};
use crate::store::dead_letters::{self, Filter, Letter, Selection};

/// Flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A row that cannot be stored exactly is parked with its raw message, and everything else goes on. When the cause is mended,
`replay` applies it under its old version: whatever is newer in ClickHouse stays. What still cannot be applied stays parked.
`replay` and `drop` are done by the running sink, which is asked through PostgreSQL.

Exit codes: 0 done. 65 letters that still cannot be applied stay parked. 69 no sink took the request, or a database does not
answer. 75 the sink is not ready in time. 99 no letter was parked.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,

    /// Name of the pipeline; default sink.pipeline.
    #[arg(long, value_name = "NAME", global = true)]
    pipeline: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List letters, those that wait longest first.
    List(List),
    /// Show one letter whole, with the raw message, which holds values of the row.
    Show(Show),
    /// Try parked letters again.
    Replay(Replay),
    /// Give parked letters up: their rows stay as they are in ClickHouse.
    Drop(Drop),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only letters of this table, `table` or `schema.table`.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only letters in this state.
    #[arg(long, value_enum, default_value_t = State::Parked)]
    state: State,
    /// At most this many.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON also on a terminal; elsewhere it is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum State {
    Parked,
    Replayed,
    Superseded,
    Dropped,
    All,
}

impl State {
    /// As it is stored; empty for every one.
    fn stored(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Replayed => "replayed",
            Self::Superseded => "superseded",
            Self::Dropped => "dropped",
            Self::All => "",
        }
    }
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The letter's id, as `list` prints it.
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, clap::Args)]
#[group(id = "chosen", required = true, multiple = false, args = ["ids", "table", "all"])]
struct Replay {
    /// Letters, as `list` prints their ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Every parked letter of this table.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Every parked letter of the pipeline.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, clap::Args)]
#[group(id = "chosen", required = true, multiple = false, args = ["ids", "table"])]
struct Drop {
    /// Letters, as `list` prints their ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Every parked letter of this table.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// Looks at letters, or asks the sink to do something about them.
///
/// # Errors
/// `Failure::Usage` (2) for an id that does not exist, `Failure::Unavailable` (69) when ClickHouse does not answer, and those of
/// `operate::ask`.
pub async fn run(args: Args, mut settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    if let Some(pipeline) = args.pipeline {
        settings.sink.pipeline = pipeline;
    }
    let clickhouse = ClickHouse::new(&settings.clickhouse)?;
    let pipeline = settings.sink.pipeline.clone();
    match args.action {
        Action::List(list) => shutdown.guard(print_list(&clickhouse, &pipeline, &list)).await,
        Action::Show(Show { id }) => {
            let letter = shutdown.guard(find(&clickhouse, &pipeline, &id)).await?;
            super::print_result(&json!({ "job": "dead-letters show", "pipeline": pipeline, "letter": letter }))
        }
        Action::Replay(Replay { ids, table, wait, .. }) => {
            let chosen = shutdown.guard(choose(&clickhouse, &pipeline, ids, table)).await?;
            let arguments = json!({ "letters": chosen });
            ask("dead-letters replay", "replay", arguments, wait, &settings, &shutdown).await
        }
        Action::Drop(Drop { ids, table, wait }) => {
            let chosen = shutdown.guard(choose(&clickhouse, &pipeline, ids, table)).await?;
            ask("dead-letters drop", "drop", json!({ "letters": chosen }), wait, &settings, &shutdown).await
        }
    }
}

/// Which letters are meant; without ids and a table every one. Ids that do not exist are refused here.
async fn choose(
    clickhouse: &ClickHouse,
    pipeline: &str,
    ids: Vec<String>,
    table: Option<String>,
) -> anyhow::Result<Selection> {
    if let Some(table) = table {
        return Ok(Selection::Table(TableName::from_argument(&table).mirror_name()));
    }
    if ids.is_empty() {
        return Ok(Selection::All);
    }
    for id in &ids {
        find(clickhouse, pipeline, id).await?;
    }
    Ok(Selection::Ids(ids))
}

async fn find(clickhouse: &ClickHouse, pipeline: &str, id: &str) -> anyhow::Result<Letter> {
    let letter = dead_letters::get(clickhouse, pipeline, id).await.map_err(failed)?;
    let missing =
        || Failure::Usage(format!("there is no letter {id:?}; `platform dead-letters list --state all` lists them"));
    Ok(letter.ok_or_else(missing)?)
}

async fn print_list(clickhouse: &ClickHouse, pipeline: &str, list: &List) -> anyhow::Result<()> {
    let table = list.table.as_deref().map(|table| TableName::from_argument(table).mirror_name()).unwrap_or_default();
    let filter = Filter { pipeline, table: &table, state: list.state.stored() };
    let (letters, total) = dead_letters::list(clickhouse, filter, list.limit).await.map_err(failed)?;
    if list.json || !std::io::stdout().is_terminal() {
        let listed: Vec<_> = letters.iter().map(|letter| Aged { letter, age_s: age(letter) }).collect();
        return super::print_result(
            &json!({ "job": "dead-letters list", "pipeline": pipeline, "letters": listed, "total": total }),
        );
    }
    print!("{}", readable(&letters, total));
    Ok(())
}

#[derive(serde::Serialize)]
struct Aged<'a> {
    #[serde(flatten)]
    letter: &'a Letter,
    age_s: i64,
}

/// Seconds since it was parked.
fn age(letter: &Letter) -> i64 {
    (Utc::now() - letter.parked_at).num_seconds().max(0)
}

fn readable(letters: &[Letter], total: u64) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for letter in letters {
        let Letter { id, table, key, reason, detail, state, changed_by, .. } = letter;
        let by = if changed_by.is_empty() { String::new() } else { format!(" by {changed_by}") };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{id}\n  {table} {key}  {state}{by}, {} s old  {reason}: {detail}", age(letter));
    }
    let _ = writeln!(text, "{} of {total} letters", letters.len());
    text
}

fn failed(error: Error) -> anyhow::Error {
    let retry = error.class() == Class::Retry;
    let text = error.to_string();
    if retry { Failure::Unavailable(text).into() } else { anyhow::Error::from(error).context("reading the letters") }
}
