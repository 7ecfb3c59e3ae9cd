//! `platform up`: the whole platform on this machine, without containers.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use crate::config::{self, Settings};
use crate::embedded::up;
use crate::shutdown::Shutdown;

/// Flags; each replaces the key of the same name in the section `up` of the configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the platform's data [default: .platform]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of the installed engines; also PLATFORM_ENGINES [default: .engines]
    #[arg(long, value_name = "DIR")]
    engines_dir: Option<PathBuf>,
    /// PostgreSQL's port; 0 takes a free one, here and below [default: 5432]
    #[arg(long, value_name = "PORT")]
    postgres_port: Option<u16>,
    /// Kafka's port [default: 9092]
    #[arg(long, value_name = "PORT")]
    kafka_port: Option<u16>,
    /// Kafka Connect's port [default: 8083]
    #[arg(long, value_name = "PORT")]
    connect_port: Option<u16>,
    /// ClickHouse's HTTP port [default: 8123]
    #[arg(long, value_name = "PORT")]
    clickhouse_port: Option<u16>,
    /// The API's port [default: 8000]
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// Port of the sink's health and metrics [default: 9100]
    #[arg(long, value_name = "PORT")]
    sink_port: Option<u16>,
    /// Run Airflow too, with the DAGs of deploy/airflow; `make airflow` installs it
    #[arg(long)]
    airflow: bool,
    /// Airflow's port [default: 8080]
    #[arg(long, value_name = "PORT")]
    airflow_port: Option<u16>,
    /// Write the addresses and passwords here too, once everything is ready
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Start only these parts, with commas; for tests
    #[arg(long, value_name = "LIST", hide = true)]
    parts: Option<String>,
    /// Stop when this process is gone; for tests
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent_pid: Option<i32>,
    /// Remove the data folder after stopping; for tests
    #[arg(long, hide = true)]
    remove_data_on_exit: bool,
}

/// Runs the platform until Ctrl-C or SIGTERM.
///
/// # Errors
/// See `embedded::up::run`.
pub async fn run(
    args: Args,
    config_file: Option<PathBuf>,
    mut settings: Settings,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let engines_dir = args.engines_dir.or_else(|| config::environment().remove("PLATFORM_ENGINES").map(PathBuf::from));
    let section = &mut settings.up;
    for (flag, setting) in [(args.data_dir, &mut section.data_dir), (engines_dir, &mut section.engines_dir)] {
        *setting = flag.unwrap_or_else(|| std::mem::take(setting));
    }
    for (flag, setting) in [
        (args.postgres_port, &mut section.postgres_port),
        (args.kafka_port, &mut section.kafka_port),
        (args.connect_port, &mut section.connect_port),
        (args.clickhouse_port, &mut section.clickhouse_port),
        (args.api_port, &mut section.api_port),
        (args.sink_port, &mut section.sink_port),
        (args.airflow_port, &mut section.airflow_port),
    ] {
        *setting = flag.unwrap_or(*setting);
    }
    let options = up::Options {
        config_file,
        parts: args.parts,
        airflow: args.airflow,
        ready_file: args.ready_file,
        parent: args.exit_with_parent_pid,
        remove_data: args.remove_data_on_exit,
        is_terminal: std::io::stderr().is_terminal(),
    };
    up::run(options, settings, shutdown).await
}
