//! The command line: one file a subcommand, each of which composes the parts it needs and reads top to bottom.

pub mod aggregates;
pub mod clickhouse;
pub mod connector;
pub mod dead_letters;
pub mod endpoints;
mod endpoints_check;
mod endpoints_range;
pub mod etl;
mod etl_runs;
mod etl_verify;
mod etl_workers;
pub mod generate;
pub mod healthcheck;
pub mod import;
pub mod keys;
pub mod load;
pub mod migrate;
mod operate;
pub mod serve;
pub mod sink;
mod sink_status;
pub mod tables;
pub mod up;
pub mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::telemetry;

/// PostgreSQL mirrored exactly into ClickHouse, daily statistics, and one HTTP API over both.
///
/// Exit codes of jobs: 0 done, 99 nothing to do, 2 usage, 64 bad date or range, 65 a data check failed (do not retry),
/// 69 a dependency is unavailable (retry), 70 a bug, 75 busy (retry), 78 bad configuration, 130/143 signal.
#[derive(Debug, Parser)]
#[command(name = "platform", version, propagate_version = true)]
pub struct Cli {
    /// TOML file over the built-in defaults; also PLATFORM_CONFIG.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole platform on this machine: PostgreSQL, Kafka, Connect, ClickHouse's engine, sink and API.
    Up(up::Args),
    /// Serve the HTTP API over PostgreSQL and ClickHouse.
    Serve(serve::Args),
    /// Apply the change events of the topic to ClickHouse, until stopped; look at a running sink, pause it, let it go back.
    Sink(sink::Args),
    /// Rows that could not be applied: list them, look at one, try them again, give them up.
    DeadLetters(dead_letters::Args),
    /// Statistics in SQL files: check them, list them, begin a new one.
    Aggregates(aggregates::Args),
    /// Analytics endpoints in SQL files: check them, list them, begin a new one.
    Endpoints(endpoints::Args),
    /// Rebuild one day of statistics.
    Etl(etl::Args),
    /// Copy whole tables from PostgreSQL into ClickHouse.
    Load(load::Args),
    /// Prove that ClickHouse equals PostgreSQL, or name the rows that differ, and mend them.
    Verify(verify::Args),
    /// Show what each published table becomes in ClickHouse, and how its values get there.
    Tables(tables::Args),
    /// Import posts from NDJSON or CSV files into PostgreSQL.
    Import(import::Args),
    /// Make synthetic posts in PostgreSQL, reproducible by seed.
    Generate(generate::Args),
    /// API keys: make, list, revoke.
    Keys(keys::Args),
    /// Bring both databases to the schema that this program needs; safe to repeat.
    Migrate(migrate::Args),
    /// The Debezium connector on Kafka Connect.
    Connector(connector::Args),
    /// ClickHouse's own engine behind its HTTP protocol, for machines without a ClickHouse server.
    Clickhouse(clickhouse::Args),
    /// Ask a running part whether it is ready; for containers.
    Healthcheck(healthcheck::Args),
}

/// Parses, runs, and turns the outcome into an exit code. A failure is said once, here.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("platform: the operating system gives no threads: {error}");
            return ExitCode::from(70);
        }
    };
    let outcome = runtime.block_on(run(cli));
    // A blocking thread that hangs must not keep the process: what was promised is already durable.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = Failure::exit_code_of(&error);
            // Exit 99 has said its result on stdout, and that line must stay the last one.
            if code != 99 {
                eprintln!("platform: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let loaded = Settings::load(cli.config.as_deref())?;
    let settings = loaded.settings;
    telemetry::start(&settings.log)?;
    // `up` writes that file, so it alone does not read it.
    if let (Some(path), false) = (&loaded.platform_env, matches!(cli.command, Command::Up(_) | Command::Clickhouse(_)))
    {
        eprintln!("platform: using {}", path.display());
    }
    let shutdown = match cli.command {
        Command::Up(_) => Shutdown::listen_as_parent(),
        _ => Shutdown::listen(),
    };
    let shutdown = shutdown.context("listening for signals")?;
    match cli.command {
        Command::Up(args) => up::run(args, cli.config, settings, shutdown).await,
        Command::Serve(args) => serve::run(args, settings, shutdown).await,
        Command::Sink(args) => sink::run(args, settings, shutdown).await,
        Command::DeadLetters(args) => dead_letters::run(args, settings, shutdown).await,
        Command::Aggregates(args) => aggregates::run(args, settings, shutdown).await,
        Command::Endpoints(args) => endpoints::run(args, settings, shutdown).await,
        Command::Etl(args) => etl::run(args, settings, shutdown).await,
        Command::Load(args) => load::run(args, settings, shutdown).await,
        Command::Verify(args) => Box::pin(verify::run(args, settings, shutdown)).await,
        Command::Tables(args) => tables::run(args, settings, shutdown).await,
        Command::Import(args) => import::run(args, settings, shutdown).await,
        Command::Generate(args) => generate::run(args, settings, shutdown).await,
        Command::Keys(args) => keys::run(args, settings, shutdown).await,
        Command::Migrate(args) => migrate::run(args, settings, shutdown).await,
        Command::Connector(args) => connector::run(args, settings, shutdown).await,
        Command::Clickhouse(args) => clickhouse::run(args, settings, shutdown).await,
        Command::Healthcheck(args) => healthcheck::run(args, settings, shutdown).await,
    }
}

/// Prints a job's result: one JSON line on stdout, as the last thing the job does.
///
/// # Errors
/// The pipe is closed.
pub(crate) fn print_result(result: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut line = serde_json::to_vec(result)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).context("writing the result to stdout")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
