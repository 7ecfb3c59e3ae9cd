//! `platform up`: every part of the platform as a child process of this one, on loopback, without containers.
//!
//! `parts` lists the steps, `crew` starts them as their needs are met and stops them the other way round, `supervisor`
//! watches one service each, `runner` runs what ends by itself. A process is always recorded in a pid file, so that
//! `leftovers` finds it when this process was killed.

mod account;
mod console;
mod crew;
mod data_dir;
mod engines;
mod environment;
mod jvm;
mod leftovers;
mod part;
mod parts;
mod ports;
mod postgres_home;
mod process;
mod procfs;
mod runner;
mod secrets;
mod service;
mod summary;
mod supervisor;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::config::Settings;
use crate::shutdown::Shutdown;
use console::{say, seconds};
use crew::Crew;
use data_dir::{DataDir, write_private};
use engines::Engines;
use environment::Environment;
pub(crate) use part::http::Http;
use parts::Workshop;
use ports::Ports;
use process::Launch;
use runner::Runner;
use secrets::Secrets;

/// How often is looked whether the process that this one belongs to still runs.
const PARENT_LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the command line says beyond the settings.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file, handed on to every part of this program.
    pub config_file: Option<PathBuf>,
    /// Steps to start, with commas; all when absent.
    pub parts: Option<String>,
    /// Whether Airflow runs too.
    pub airflow: bool,
    /// Written with the text of `.platform/env` when everything is ready.
    pub ready_file: Option<PathBuf>,
    /// Stop when this process is gone.
    pub parent: Option<i32>,
    /// Remove the data folder after an orderly stop.
    pub remove_data: bool,
    /// Whether a person watches.
    pub is_terminal: bool,
}

/// Starts everything, stays until `shutdown`, stops everything.
///
/// # Errors
/// `Failure::Busy` when the folder is in use, `Failure::Config` when a port is taken or an engine missing, and that of the
/// first step that fails. An orderly stop is no error, during the start neither.
pub async fn run(options: Options, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let begun = Instant::now();
    watch_parent(options.parent, &shutdown);
    let data_dir = DataDir::open(&settings.up.data_dir)?;
    let _lock = data_dir.lock()?;
    let grace = Duration::from_secs(settings.up.stop_timeout_s);
    leftovers::clear(&data_dir, &parts::farewells(), grace / 2).await?;
    data_dir.rotate_logs()?;
    let env_file = data_dir.root().join("env");
    remove_file(&env_file)?;

    let engines = Engines::find(&settings.up.engines_dir)?;
    let selected = parts::selected(options.parts.as_deref(), options.airflow)?;
    let secrets = Secrets::load_or_make(&data_dir.root().join("secrets"))?;
    let ports = Arc::new(Ports::take(&parts::wishes(&settings, &selected, &data_dir))?);
    let environment = Environment { ports, secrets, parts: selected };
    let own = own_program(options.config_file.as_deref())?;
    let workshop = Workshop::new(&data_dir, &engines, &environment, &settings, own, options.is_terminal)?;
    let steps = workshop.steps().await?;

    say(format!("platform: starting; data in {}, logs in {}", data_dir.root().display(), data_dir.logs().display()));
    let runner =
        Runner { data_dir: data_dir.clone(), stop: shutdown.token().child_token(), hurry: shutdown.hurry().clone() };
    let mut crew = Crew::default();
    let started = crew.start(steps, &runner, Duration::from_secs(settings.up.ready_timeout_s)).await;
    let started = started.and_then(|()| {
        let text = environment.file_text();
        write_private(&env_file, &text)?;
        options.ready_file.as_deref().map_or(Ok(()), |path| write_private(path, &text))
    });
    if started.is_ok() {
        summary::print(&environment, &data_dir, &env_file, begun.elapsed());
        shutdown.token().cancelled().await;
    }
    let asked = shutdown.requested();
    if let (Err(error), false) = (&started, asked) {
        say(format!("platform: cannot start: {error:#}"));
    }
    let stopping = Instant::now();
    say(if asked { "platform: stopping; once more Ctrl-C kills what still runs" } else { "platform: stopping" });
    crew.stop(grace).await;
    // Without it a command in this folder says that nothing is configured, instead of calling addresses of others.
    remove_file(&env_file)?;
    if options.remove_data {
        remove_data(&data_dir)?;
    }
    say(format!("platform: everything is stopped after {}", seconds(stopping.elapsed())));
    if asked { Ok(()) } else { started.context("platform up did not start") }
}

/// This program, started again.
fn own_program(config_file: Option<&Path>) -> anyhow::Result<Launch> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let launch = Launch::own(program);
    let Some(file) = config_file else { return Ok(launch) };
    let file = file.canonicalize().with_context(|| format!("finding {}", file.display()))?;
    Ok(launch.arg("--config").path(&file))
}

/// Stops the platform when the process it was started for is gone.
fn watch_parent(parent: Option<i32>, shutdown: &Shutdown) {
    let Some(pid) = parent else { return };
    let identity = procfs::Identity::of(pid);
    let token = shutdown.token().clone();
    tokio::spawn(async move {
        while identity.is_some_and(procfs::Identity::is_alive) {
            tokio::time::sleep(PARENT_LOOK_EVERY).await;
        }
        token.cancel();
    });
}

/// Removes the data folder, and what lies outside for it.
fn remove_data(data_dir: &DataDir) -> anyhow::Result<()> {
    for name in ["postgres", "postgres-engine"] {
        let link = data_dir.root().join(name);
        if link.is_symlink() {
            let target = link.canonicalize().context("finding PostgreSQL's data")?;
            std::fs::remove_dir_all(&target).with_context(|| format!("removing {}", target.display()))?;
            // The folder of refuges goes when this was its last one.
            drop(target.parent().map(std::fs::remove_dir));
        }
    }
    std::fs::remove_dir_all(data_dir.root()).with_context(|| format!("removing {}", data_dir.root().display()))
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
