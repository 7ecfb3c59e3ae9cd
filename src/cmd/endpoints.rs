//! `platform endpoints`: for whoever writes the SQL of an analytics endpoint.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::endpoints_check::{self, Finding};
use crate::api;
use crate::catalog::endpoint::Endpoint;
use crate::catalog::endpoint_parameter::Presence;
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check every file: its header, and, when ClickHouse answers, that ClickHouse can plan its SELECT; nothing is run.
    Check(Where),
    /// List the endpoints with their parameters.
    List(Where),
    /// Write a file that works, to be changed.
    New(New),
}

#[derive(Debug, clap::Args)]
struct Where {
    /// Folder of the files; by default `api.endpoints_dir`, or the files that are compiled in when that is empty.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON also on a terminal; elsewhere it is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct New {
    /// Name of the endpoint: GET /v1/analytics/NAME.
    name: String,
    /// Folder that gets the file; by default `api.endpoints_dir`, or `sql/endpoints` when that is empty.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Table of `analytics` that it reads.
    #[arg(long, value_name = "TABLE", default_value = "sentiment_social")]
    table: String,
    /// Column with the time of a row.
    #[arg(long, value_name = "COLUMN", default_value = "posted_at")]
    time: String,
}

#[derive(Debug, Serialize)]
struct Checked {
    job: &'static str,
    files: usize,
    /// Whether ClickHouse was asked too.
    explained: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    path: String,
    summary: String,
    tables: Vec<String>,
    parameters: Vec<String>,
    /// Whether its answers are kept while its tables do not change.
    cached: bool,
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
    given.map_or_else(|| settings.api.endpoints_dir.clone(), |dir| dir.display().to_string())
}

async fn check(place: &Where, settings: &Settings) -> anyhow::Result<()> {
    let files = api::endpoint_files(&folder(place.dir.as_deref(), settings))?;
    let clickhouse =
        if settings.clickhouse.url.is_empty() { None } else { Some(ClickHouse::new(&settings.clickhouse)?) };
    let mut report = Checked { job: "endpoints check", files: files.len(), explained: false, findings: Vec::new() };
    let mut asked = clickhouse.as_ref();
    for (name, text) in &files {
        let endpoint = match endpoints_check::parse(name, text) {
            Ok(endpoint) => endpoint,
            Err(finding) => {
                report.findings.push(finding);
                continue;
            }
        };
        let Some(clickhouse) = asked else { continue };
        match endpoints_check::explain(clickhouse, &endpoint).await {
            Ok(findings) => {
                report.findings.extend(findings);
                report.explained = true;
            }
            Err(error) => {
                eprintln!("platform: ClickHouse cannot be asked, so only the headers are checked: {error}");
                (asked, report.explained) = (None, false);
            }
        }
    }
    if place.json || !std::io::stdout().is_terminal() {
        super::print_result(&report)?;
    } else {
        print!("{}", readable(&report));
    }
    match report.findings.len() {
        0 => Ok(()),
        found => Err(Failure::Config(format!("{found} of {} files are wrong, or parts of them", report.files)).into()),
    }
}

fn readable(report: &Checked) -> String {
    let by = if report.explained { "header and SELECT, by ClickHouse" } else { "header only" };
    let findings = report.findings.iter().map(|finding| {
        format!("{}, line {}: {}\n    {}\n", finding.file, finding.line, finding.problem, finding.remedy)
    });
    format!("{} files checked ({by}), {} findings\n", report.files, report.findings.len())
        + &findings.collect::<String>()
}

fn list(place: &Where, settings: &Settings) -> anyhow::Result<()> {
    let endpoints = api::load_endpoints(&folder(place.dir.as_deref(), settings))?;
    let listed: Vec<Listed> = endpoints.iter().map(listed).collect();
    if place.json || !std::io::stdout().is_terminal() {
        return super::print_result(&listed);
    }
    for endpoint in &listed {
        let cached = if endpoint.cached { "" } else { "  (computed each time)" };
        println!("{}  {}{cached}", endpoint.path, endpoint.summary);
        println!("    reads {}", endpoint.tables.join(", "));
        println!("    {}", endpoint.parameters.join("  "));
    }
    Ok(())
}

fn listed(endpoint: &Endpoint) -> Listed {
    let parameters = endpoint.parameters.iter().map(|parameter| match &parameter.presence {
        Presence::Required => format!("{}:{}", parameter.name, parameter.kind),
        Presence::Optional => format!("[{}:{}]", parameter.name, parameter.kind),
        Presence::Default(value) => format!("{}:{}={value}", parameter.name, parameter.kind),
    });
    Listed {
        name: endpoint.name.clone(),
        path: format!("/v1/analytics/{}", endpoint.name),
        summary: endpoint.summary.clone(),
        tables: endpoint.tables.clone(),
        parameters: parameters.collect(),
        cached: endpoint.is_pure,
    }
}

fn write_new(new: &New, settings: &Settings) -> anyhow::Result<()> {
    let text = template(new);
    // A name that the file could not be read under, before there is a file.
    endpoints_check::parse(&new.name, &text)
        .map_err(|finding| Failure::Usage(format!("{}: {}", new.name, finding.problem)))?;
    let folder = match folder(new.dir.as_deref(), settings) {
        folder if folder.is_empty() => "sql/endpoints".to_owned(),
        folder => folder,
    };
    let path = Path::new(&folder).join(format!("{}.sql", new.name));
    let wrong = |error: std::io::Error| Failure::Config(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&folder).map_err(wrong)?;
    let mut file = std::fs::File::create_new(&path).map_err(wrong)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(wrong)?;
    eprintln!(
        "platform: change it, then run `platform endpoints check --dir {folder}`; `api.endpoints_dir` serves the folder"
    );
    super::print_result(&serde_json::json!({ "job": "endpoints new", "file": path }))
}

fn template(new: &New) -> String {
    let New { table, time, .. } = new;
    let quoted = crate::domain::quote_clickhouse(time);
    format!(
        "-- summary: Rows a day\n\
         -- description: One row a day that has rows, the earliest first.\n\
         -- table: {table}\n\
         -- range: {time} from to\n\
         -- param from DateTime required: first moment that counts\n\
         -- param to DateTime required: first moment that no longer counts\n\
         -- param limit UInt32 default 100 min 1 max 10000: rows of the answer\n\
         select\n    \
             toDate32({quoted}) as day,\n    \
             count() as rows_found\n\
         from {{rows}}\n\
         group by day\n\
         order by day\n\
         limit {{limit:UInt32}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> New {
        New { name: name.into(), dir: None, table: "shop.orders".into(), time: "placed_at".into() }
    }

    #[test]
    fn a_new_file_is_right() {
        let endpoint = endpoints_check::parse("orders-by-day", &template(&new("orders-by-day"))).expect("right");
        assert_eq!(endpoint.tables, ["shop.orders"]);
        let (table, range) = endpoint.ranged_table().expect("a range");
        assert_eq!((table.mirror_name().as_str(), range.column.as_str()), ("shop.orders", "placed_at"));
        assert_eq!(listed(&endpoint).parameters, ["from:DateTime", "to:DateTime", "limit:UInt32=100"]);
    }

    #[test]
    fn findings_are_readable() {
        let finding = Finding { file: "x.sql".into(), line: 3, problem: "p".into(), remedy: "r".into() };
        let report = Checked { job: "endpoints check", files: 2, explained: true, findings: vec![finding] };
        assert_eq!(
            readable(&report),
            "2 files checked (header and SELECT, by ClickHouse), 1 findings\nx.sql, line 3: p\n    r\n"
        );
    }
}
