//! `platform healthcheck`: asks a running part whether it is ready; for containers, which often have no curl.

use std::time::Duration;

use anyhow::Context as _;

use crate::config::Settings;
use crate::domain::Failure;
use crate::embedded::up::Http;
use crate::shutdown::Shutdown;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask [default: /readyz of the API, at the address it is configured to listen on]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Ask the sink instead of the API
    #[arg(long, conflicts_with = "url")]
    sink: bool,
}

/// Succeeds when the part answers 200 within five seconds.
///
/// # Errors
/// `Failure::Unavailable` with the reason.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let bind = if args.sink { &settings.sink.bind } else { &settings.api.bind };
    let url = args.url.unwrap_or_else(|| format!("http://{}/readyz", reachable(bind)));
    let http = Http::new(TIMEOUT)?;
    let answer = shutdown.guard(http.expect_ok(&url)).await;
    answer.context(Failure::Unavailable("not ready".into()))
}

/// An address to call for one to listen on: "all addresses" is none that can be called everywhere.
fn reachable(bind: &str) -> String {
    match bind.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
        _ => bind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_listening_everywhere_is_called_on_loopback() {
        assert_eq!(reachable("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(reachable("[::]:9100"), "127.0.0.1:9100");
        assert_eq!(reachable("10.0.0.7:8000"), "10.0.0.7:8000");
    }
}
