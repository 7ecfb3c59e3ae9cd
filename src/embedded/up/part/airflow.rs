//! Airflow: all of it in one process group by `airflow standalone`, with SQLite, on loopback only.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::super::data_dir::write_private;
use super::super::environment::{Variables, with_variables};
use super::super::ports::Ports;
use super::super::process::{Farewell, Launch};
use super::super::runner::Runner;
use super::super::service::Service;
use super::http::Http;

/// Names of the ports beside the web server's, on which logs of running tasks and triggers are read.
pub(in super::super) const TASK_LOGS: &str = "airflow-task-logs";
/// See `TASK_LOGS`.
pub(in super::super) const TRIGGER_LOGS: &str = "airflow-trigger-logs";
/// The pool of the DAGs, with one slot (deploy/airflow/dags/platform_operator.py).
const POOL: &str = "platform_etl";
/// The administrator's name; the password is in the file of secrets.
pub(in super::super) const USER: &str = "admin";

/// The web server, scheduler, DAG processor and triggerer.
#[derive(Debug)]
pub(in super::super) struct Airflow {
    /// Its configuration, database and logs.
    pub(in super::super) folder: PathBuf,
    /// The `bin` of its virtual environment.
    pub(in super::super) bin: PathBuf,
    /// The folder of DAGs.
    pub(in super::super) dags: PathBuf,
    /// The folder of this program, for the tasks.
    pub(in super::super) platform: PathBuf,
    /// What the tasks may know.
    pub(in super::super) variables: Variables,
    /// The administrator's password.
    pub(in super::super) password: String,
    /// All ports.
    pub(in super::super) ports: Arc<Ports>,
    /// For asking whether it is ready.
    pub(in super::super) http: Http,
}

impl Airflow {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.of("airflow"))
    }

    fn command(&self, arguments: &[&str]) -> Launch {
        let environment = crate::config::environment();
        let path = environment.get("PATH").map_or("/usr/bin:/bin", String::as_str);
        let path = format!("{}:{}:{path}", self.bin.display(), self.platform.display());
        let port = |name: &str| self.ports.of(name).to_string();
        // Settings of the DAGs themselves.
        let own = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with("PLATFORM_DAILY_") || name == "PLATFORM_RETRY_DELAY_S");
        let launch = Launch::foreign(self.bin.join("airflow"))
            .args(arguments.iter().copied())
            .folder(&self.folder)
            .env("PATH", path)
            .env("AIRFLOW_HOME", self.folder.display().to_string())
            .env("AIRFLOW__CORE__DAGS_FOLDER", self.dags.display().to_string())
            .env("AIRFLOW__CORE__LOAD_EXAMPLES", "false")
            .env("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", format!("{USER}:admin"))
            .env("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", format!("{}/execution/", self.url()))
            .env("AIRFLOW__CORE__PARALLELISM", "4")
            .env("AIRFLOW__API__HOST", "127.0.0.1")
            .env("AIRFLOW__API__PORT", port("airflow"))
            .env("AIRFLOW__API__BASE_URL", self.url())
            .env("AIRFLOW__API__WORKERS", "1")
            .env("AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT", port(TASK_LOGS))
            .env("AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT", port(TRIGGER_LOGS))
            .env("AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL", "30")
            // Bytecode stays out of the folder of DAGs, which is part of a repository.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let launch = own.fold(launch, |launch, (name, value)| launch.env(&name, value));
        with_variables(launch, self.variables.clone())
    }
}

#[async_trait::async_trait]
impl Service for Airflow {
    /// Its database, the pool of one, and the password: Airflow would make one and print it.
    async fn prepare(&self, runner: &Runner) -> anyhow::Result<()> {
        let passwords = serde_json::json!({ USER: self.password }).to_string();
        write_private(&self.folder.join("simple_auth_manager_passwords.json.generated"), &passwords)?;
        let done = self.folder.join("pool-made");
        if done.exists() {
            return Ok(());
        }
        runner.run("airflow-migrate", &self.command(&["db", "migrate"])).await?;
        let pool = self.command(&["pools", "set", POOL, "1", "platform etl: one at a time"]);
        runner.run("airflow-pool", &pool).await?;
        std::fs::write(&done, "").with_context(|| format!("writing {}", done.display()))
    }

    fn launch(&self) -> anyhow::Result<Launch> {
        self.ports.release(&["airflow", TASK_LOGS, TRIGGER_LOGS]);
        Ok(self.command(&["standalone"]))
    }

    async fn ready(&self) -> anyhow::Result<()> {
        self.http.expect_ok(&format!("{}/api/v2/version", self.url())).await
    }

    /// At SIGTERM it leaves its parts behind.
    fn farewell(&self) -> Farewell {
        Farewell::INTERRUPT
    }
}
