//! `platform load`: copies whole tables from PostgreSQL into ClickHouse.

use crate::batch::load;
use crate::config::Settings;
use crate::domain::TableName;
use crate::shutdown::Shutdown;
use crate::store::{clickhouse, postgres};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables to load, `table` or `schema.table`; without one, every published table.
    tables: Vec<String>,
}

/// Loads; safe at any time, while the database is written to and the sink runs. Interrupted, run it again.
///
/// # Errors
/// See `batch::load::run`.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let names: Vec<TableName> = args.tables.iter().map(|name| TableName::from_argument(name)).collect();
    let progress = load::Progress::new();
    let report = shutdown.guard(load::run(&settings, &names, &progress)).await;
    let report = report.map_err(|error| clickhouse::or_unavailable(postgres::or_unavailable(error)))?;
    super::print_result(&report)
}
