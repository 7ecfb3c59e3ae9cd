//! `platform serve`: the HTTP API.

use crate::api;
use crate::config::Settings;
use crate::shutdown::Shutdown;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on, instead of api.bind.
    #[arg(long, value_name = "HOST:PORT")]
    bind: Option<String>,
}

/// Serves until SIGINT or SIGTERM, then lets requests in flight end.
///
/// # Errors
/// `Failure::Config` (78) for wrong settings, a wrong endpoint file or an address that cannot be listened on.
pub async fn run(args: Args, mut settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    if let Some(bind) = args.bind {
        settings.api.bind = bind;
    }
    let running = api::start(&settings, &shutdown).await?;
    tracing::info!(address = %running.address, "serving http://{}, documentation at /docs", running.address);
    running.ended().await
}
