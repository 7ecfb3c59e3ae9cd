//! The API against its own OpenAPI document, by a client that makes up thousands of requests from it.

use std::path::Path;
use std::time::Duration;

use platform::api;
use platform::shutdown::Shutdown;
use tokio::process::Command;

use super::{api_settings, make_tables};
use crate::support::{Options, Stack};

/// Databases of its own: the requests change and delete what others would need.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join(".venv/bin/schemathesis");
    assert!(program.is_file(), "{} is missing: run `make test`, which makes it", program.display());
    let options = Options { parts: Some("postgres,clickhouse,migrate"), ..Options::default() };
    let stack = tokio::task::spawn_blocking(|| Stack::start_with(options)).await.expect("started");
    make_tables(&stack).await;
    let mut settings = api_settings(&stack);
    settings.api.rate_limit_requests = 0;
    // Event streams end after what is known at once: the next one comes a second later.
    settings.api.events_seconds_max = 0;
    let shutdown = Shutdown::manual();
    let running = api::start(&settings, &shutdown).await.unwrap_or_else(|error| panic!("{error:#}"));
    let folder = tempfile::tempdir().expect("a folder");
    let run = Command::new(program)
        .arg("--config-file")
        .arg(root.join("tests/python/schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{}/openapi.json", running.address))
        .env("PLATFORM_API_KEY", stack.api_key())
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", root.join("tests/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path())
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(Duration::from_secs(900), run).await.expect("it ends in time").expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("Test cases:"), "{said}");
    println!("{said}");
    shutdown.token().cancel();
    drop(stack);
}
