//! `platform verify`: proves that ClickHouse equals PostgreSQL, or names the rows that differ.

use crate::batch::verify;
use crate::config::Settings;
use crate::domain::TableName;
use crate::shutdown::Shutdown;
use crate::store::postgres;

/// Flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compares every row and column, at any time, while the database is written to. What seems to differ is looked at again behind
a second position of the log, so that what is printed really differs: counts, and keys of a few rows, never their values.

Exit codes: 0 equal, or mended; rows parked in platform.dead_letters are counted and do no harm here. 65 rows differ.
69 a database does not answer. 75 the mirror is behind, or a table is loading, halted or has left: the reason is said.
78 a table is not published.")]
pub struct Args {
    /// Tables to compare, `table` or `schema.table`; without one, every published table.
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,

    /// The same as a flag; may be repeated.
    #[arg(long = "table", value_name = "TABLE")]
    named: Vec<String>,

    /// Mend the rows that differ: read them again from PostgreSQL and store them as a load does. Changes of the meantime win.
    #[arg(long)]
    repair: bool,
}

/// Compares, and prints what was found also when rows differ.
///
/// # Errors
/// See `batch::verify::run` and `batch::verify::outcome`.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let names: Vec<TableName> =
        args.tables.iter().chain(&args.named).map(|name| TableName::from_argument(name)).collect();
    let report = shutdown.guard(verify::run(&settings, &names, args.repair)).await;
    let report = report.map_err(postgres::or_unavailable)?;
    super::print_result(&report)?;
    Ok(verify::outcome(&report)?)
}
