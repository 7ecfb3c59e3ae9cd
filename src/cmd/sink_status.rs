//! `platform sink status`: what a sink is doing, told by PostgreSQL, ClickHouse and Kafka: not by the sink itself.

use std::io::IsTerminal as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::clickhouse::ClickHouse;
use crate::store::dead_letters::{self, ParkedRows};
use crate::store::kafka::Topic;
use crate::store::sinks::{self, Holder, Paused};
use crate::store::table_states::{self, TableState};
use crate::store::{checkpoint, postgres};

/// How long a sink that has just halted takes to say that it is there.
const STANDS_WITHIN: Duration = Duration::from_secs(1);

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON also on a terminal; elsewhere it is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    job: &'static str,
    pipeline: String,
    /// running, paused, waiting, halted, stopped, or down: nobody holds the lease.
    state: String,
    since: Option<DateTime<Utc>>,
    /// Name of the reason for `halted`.
    reason: Option<String>,
    detail: Option<String>,
    /// What to do about it.
    remedy: Option<String>,
    /// A pause that was asked for; also while the sink is halted or down.
    paused: Option<Paused>,
    /// The process that said so, `host:pid`.
    process: Option<String>,
    /// Who holds the lease now; a halted sink holds none.
    lease: Option<Holder>,
    checkpoint: Option<Checkpoint>,
    lag: Lag,
    /// Tables that are not kept up to date.
    halted_tables: Vec<HaltedTable>,
    parked: Vec<ParkedRows>,
    /// What did not answer, and is missing above.
    unreachable: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Checkpoint {
    term: u64,
    batch: u64,
    next_offset: i64,
    watermark: String,
    committed_at: DateTime<Utc>,
}

#[derive(Debug, Default, Serialize)]
struct Lag {
    /// Records of the topic that are not applied yet.
    records: Option<i64>,
    /// Seconds since the newest applied change was committed; the heartbeat keeps it small.
    seconds: Option<i64>,
}

#[derive(Debug, Serialize)]
struct HaltedTable {
    table: String,
    since: DateTime<Utc>,
    /// Why, and the command that mends it.
    reason: String,
}

/// Prints the status.
///
/// # Errors
/// `Failure::DataCheck` (65) when the pipeline or a table is halted, `Failure::Unavailable` (69) when nobody runs the pipeline, when
/// the sink waits for a part that does not answer, or when PostgreSQL does not answer.
pub(super) async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let report = shutdown.guard(look(&settings)).await.map_err(postgres::or_unavailable)?;
    if args.json || !std::io::stdout().is_terminal() {
        super::print_result(&report)?;
    } else {
        print!("{}", readable(&report));
    }
    Ok(judge(&report)?)
}

async fn look(settings: &Settings) -> anyhow::Result<Report> {
    let pipeline = settings.sink.pipeline.as_str();
    let mut report = Report { job: "sink status", pipeline: pipeline.to_owned(), ..Report::default() };
    let client = postgres::connect(&settings.postgres, "platform sink status").await?;
    report.paused = sinks::paused(&client, pipeline).await?;
    report.lease = sinks::holder(&client, pipeline).await?;
    let said = sinks::state(&client, pipeline).await?;
    let mut alive = report.lease.is_some() || sinks::stands(&client, pipeline).await?;
    if !alive && said.as_ref().is_some_and(|said| said.state == "halted") {
        // Between giving the lease back and saying that it is there lies a moment.
        tokio::time::sleep(STANDS_WITHIN).await;
        alive = sinks::stands(&client, pipeline).await?;
    }
    match said {
        Some(said) => {
            report.state = state(&said.state, alive, report.lease.is_some()).to_owned();
            (report.since, report.reason, report.detail) = (Some(said.since), said.reason, said.detail);
            (report.remedy, report.process) = (said.remedy, Some(said.holder));
        }
        None => report.state = if alive { "starting" } else { "down" }.to_owned(),
    }
    if matches!(report.state.as_str(), "down" | "stopped") {
        report.remedy = Some("start `platform sink`".into());
    }
    if let Err(error) = look_at_clickhouse(settings, &mut report).await {
        report.unreachable.push(format!("ClickHouse: {error:#}"));
    }
    if let Err(error) = look_at_kafka(settings, &mut report).await {
        report.unreachable.push(format!("Kafka: {error:#}"));
    }
    Ok(report)
}

/// What is to be believed of what a sink has said last. A halted one gives its lease back, and still says that it is there.
fn state(said: &str, alive: bool, leased: bool) -> &str {
    match said {
        "halted" if alive => said,
        // Between two attempts it has none either.
        "waiting" | "stopped" => said,
        _ if leased => said,
        _ => "down",
    }
}

async fn look_at_clickhouse(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let pipeline = settings.sink.pipeline.as_str();
    let clickhouse = ClickHouse::new(&settings.clickhouse)?;
    if let Some(at) = checkpoint::latest(&clickhouse, pipeline).await? {
        report.lag.seconds = Some((Utc::now() - at.committed_at).num_seconds().max(0));
        report.checkpoint = Some(Checkpoint {
            term: at.term,
            batch: at.batch,
            next_offset: at.next_offset,
            watermark: at.watermark.to_string(),
            committed_at: at.committed_at,
        });
    }
    let states = table_states::of_pipeline(&clickhouse, pipeline).await?;
    let halted = states.into_iter().filter(|(_, stored)| stored.state == TableState::Halted);
    report.halted_tables =
        halted.map(|(table, stored)| HaltedTable { table, since: stored.since, reason: stored.reason }).collect();
    report.parked = dead_letters::parked_by_table(&clickhouse, pipeline).await?;
    Ok(())
}

async fn look_at_kafka(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut topic = Topic::new(&settings.kafka, &settings.sink.topic)?;
    let (_, end) = topic.bounds().await?;
    report.lag.records = report.checkpoint.as_ref().map(|at| end.saturating_sub(at.next_offset).max(0));
    Ok(())
}

fn judge(report: &Report) -> Result<(), Failure> {
    let why = || {
        let parts = [report.reason.as_deref(), report.detail.as_deref(), report.remedy.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    match report.state.as_str() {
        "halted" => Err(Failure::DataCheck(format!("the pipeline is halted: {}", why()))),
        "running" | "paused" => match report.halted_tables.first() {
            Some(first) => Err(Failure::DataCheck(format!("{} is halted: {}", first.table, first.reason))),
            None => Ok(()),
        },
        other => Err(Failure::Unavailable(format!("the sink is {other}; {}", why()))),
    }
}

/// The report for people.
fn readable(report: &Report) -> String {
    let mut lines = Vec::new();
    let since = report.since.map(|since| format!(" since {}", since.format("%Y-%m-%d %H:%M:%SZ"))).unwrap_or_default();
    lines.push(format!("pipeline {}: {}{since}", report.pipeline, report.state));
    let mut say = |name: &str, text: Option<String>| lines.extend(text.map(|text| format!("  {name:<10}{text}")));
    say("reason", report.reason.clone());
    say("detail", report.detail.clone());
    say("to do", report.remedy.clone());
    say("paused", report.paused.as_ref().map(|paused| format!("by {}, since {}", paused.by, paused.since)));
    say("process", report.process.clone());
    let lease = report.lease.as_ref().map(|lease| format!("held by session {} {}", lease.backend_pid, lease.address));
    say("lease", Some(lease.unwrap_or_else(|| "held by nobody".into())));
    say(
        "stands at",
        report.checkpoint.as_ref().map(|at| format!("offset {}, {}, batch {}", at.next_offset, at.watermark, at.batch)),
    );
    let behind = |number: Option<i64>, unit: &str| number.map(|number| format!("{number} {unit}"));
    let lag: Vec<String> =
        [behind(report.lag.records, "records"), behind(report.lag.seconds, "s")].into_iter().flatten().collect();
    say("behind", (!lag.is_empty()).then(|| lag.join(", ")));
    for table in &report.halted_tables {
        say("halted", Some(format!("{}: {}", table.table, table.reason)));
    }
    for parked in &report.parked {
        say("parked", Some(format!("{}: {} rows, the oldest for {} s", parked.table, parked.letters, parked.oldest_s)));
    }
    for missing in &report.unreachable {
        say("unknown", Some(missing.clone()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_gone_is_not_believed() {
        assert_eq!(state("running", true, true), "running");
        assert_eq!(state("running", false, false), "down");
        assert_eq!(state("paused", false, false), "down");
        assert_eq!(state("halted", true, false), "halted");
        assert_eq!(state("halted", false, false), "down");
        assert_eq!(state("stopped", false, false), "stopped");
    }

    #[test]
    fn what_needs_a_person_is_told_from_what_is_down() {
        let report = |state: &str| Report { state: state.into(), ..Report::default() };
        assert_eq!(judge(&report("running")), Ok(()));
        assert_eq!(judge(&report("paused")), Ok(()));
        assert_eq!(judge(&report("halted")).map_err(|failure| failure.exit_code()), Err(65));
        assert_eq!(judge(&report("down")).map_err(|failure| failure.exit_code()), Err(69));
        let table =
            HaltedTable { table: "t".into(), since: DateTime::UNIX_EPOCH, reason: "run `platform load t`".into() };
        let halted = Report { halted_tables: vec![table], ..report("running") };
        assert_eq!(judge(&halted).map_err(|failure| failure.exit_code()), Err(65));
        assert!(readable(&halted).contains("halted    t: run `platform load t`"), "{}", readable(&halted));
    }
}
