//! `platform clickhouse`: ClickHouse's engine behind its HTTP protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::Settings;
use crate::embedded::clickhouse::{ClickHouseFront, Limits, Options, User};
use crate::shutdown::Shutdown;

/// Flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Users come from the configuration: clickhouse.user and clickhouse.password may do everything that stays inside the
engine, up.clickhouse_reader_user and up.clickhouse_reader_password may only read. SIGTERM lets requests end.")]
pub struct Args {
    /// Folder of the data; by default `clickhouse` in `up.data_dir`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// ClickHouse's engine; by default `chdb/libchdb.so` in `up.engines_dir`.
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// Address to listen on; by default 127.0.0.1 and `up.clickhouse_port`. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<SocketAddr>,
    /// File that gets the port, once requests are answered.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Memory of the engine, in MiB.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..))]
    max_memory_mb: u64,
    /// Largest request body, unpacked, in MiB.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    max_body_mb: u64,
    /// Statements at once; more wait up to 10 seconds.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    max_concurrency: u16,
    /// Seconds that a statement may run; a request cannot raise it.
    #[arg(long, value_name = "N", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    max_execution_s: u64,
}

/// Runs the command until the signal.
///
/// # Errors
/// See `Failure`: 69 for a taken port, 75 for a folder in use, 78 for a processor or library that will not do.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let up = &settings.up;
    let options = Options {
        engine: args.engine.unwrap_or_else(|| up.engines_dir.join("chdb/libchdb.so")),
        data_dir: args.data_dir.unwrap_or_else(|| up.data_dir.join("clickhouse")),
        bind: args.bind.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, up.clickhouse_port))),
        administrator: User { name: settings.clickhouse.user.clone(), password: settings.clickhouse.password.clone() },
        reader: User { name: up.clickhouse_reader_user.clone(), password: up.clickhouse_reader_password.clone() },
        memory_mb_max: args.max_memory_mb,
        limits: Limits {
            concurrency_max: args.max_concurrency.into(),
            body_bytes_max: args.max_body_mb << 20,
            execution_time_max: Duration::from_secs(args.max_execution_s),
            drain_timeout: Duration::from_secs(up.stop_timeout_s / 2),
        },
    };
    let data_dir = options.data_dir.clone();
    let front = shutdown.guard(ClickHouseFront::open(options)).await?;
    let address = front.address()?;
    tracing::info!(
        "ClickHouse {} (libchdb) on http://{address}, data in {}: one process and one folder, for one machine; no clusters, \
         no Keeper, no users of the engine's own (one administrator, one reader, no rights per database)",
        front.engine_version(),
        data_dir.display(),
    );
    if let Some(path) = &args.port_file {
        write_port(path, address.port())?;
    }
    front.serve(&shutdown).await
}

/// Whole or not at all: whoever waits for the file finds the port in it.
fn write_port(path: &std::path::Path, port: u16) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, format!("{port}\n")).with_context(|| format!("writing {}", part.display()))?;
    std::fs::rename(&part, path).with_context(|| format!("writing {}", path.display()))
}
