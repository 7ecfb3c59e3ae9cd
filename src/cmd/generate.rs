//! `platform generate`.

use crate::config::Settings;
use crate::shutdown::Shutdown;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// See `Failure`.
pub async fn run(_args: Args, _settings: Settings, _shutdown: Shutdown) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
