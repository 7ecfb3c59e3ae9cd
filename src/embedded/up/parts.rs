//! The list of steps: what is started with what, and in which order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::data_dir::DataDir;
use super::engines::Engines;
use super::environment::{Environment, with_variables};
use super::part::airflow::{Airflow, TASK_LOGS, TRIGGER_LOGS};
use super::part::api_key::StoreApiKey;
use super::part::connect::Connect;
use super::part::http::Http;
use super::part::kafka::{CONTROLLER, Kafka};
use super::part::own::{Check, OwnJob, OwnService};
use super::part::postgres::{DATABASE, Postgres};
use super::ports::Wish;
use super::postgres_home::PostgresHome;
use super::process::{Farewell, Launch};
use super::secrets::Owner;
use super::service::{Kind, Step};
use crate::config::{self, Settings};
use crate::domain::Failure;
use crate::store::clickhouse::ClickHouse;

/// Every step with its title and what it needs, in an order in which they could be started one by one.
const STEPS: [(&str, &str, &[&str]); 11] = [
    ("postgres", "PostgreSQL", &[]),
    ("kafka", "Kafka", &[]),
    ("connect", "Kafka Connect", &["kafka", "postgres"]),
    ("clickhouse", "ClickHouse's engine", &[]),
    ("migrate", "schema", &["postgres", "kafka", "clickhouse"]),
    ("key", "API key", &["migrate", "postgres"]),
    ("load", "first load", &["migrate", "connect", "postgres", "kafka", "clickhouse"]),
    ("connector", "connector", &["load", "migrate", "connect"]),
    ("sink", "sink", &["connector", "load", "migrate", "connect", "postgres", "kafka", "clickhouse"]),
    ("serve", "API", &["key", "load", "migrate", "postgres", "clickhouse"]),
    (AIRFLOW, "Airflow", &["load", "migrate", "postgres", "clickhouse"]),
];

/// The step that runs only when it is asked for.
const AIRFLOW: &str = "airflow";

/// A request for readiness that takes longer is asked again.
const READY_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The names of all steps, or of those in a list with commas; Airflow only with `airflow`. `key` comes with `migrate`.
///
/// # Errors
/// `Failure::Usage` that names an unknown one.
pub(super) fn selected(list: Option<&str>, airflow: bool) -> anyhow::Result<BTreeSet<&'static str>> {
    let Some(list) = list else {
        return Ok(STEPS.iter().map(|(name, ..)| *name).filter(|name| airflow || *name != AIRFLOW).collect());
    };
    let mut names: BTreeSet<&str> = airflow.then_some(AIRFLOW).into_iter().collect();
    for wanted in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = STEPS.iter().find(|(name, ..)| *name == wanted).map(|(name, ..)| *name);
        names.insert(known.ok_or_else(|| Failure::Usage(format!("--parts: there is no part {wanted:?}")))?);
    }
    if names.contains("migrate") {
        names.insert("key");
    }
    Ok(names)
}

/// Names in the order in which they are stopped, with how.
pub(super) fn farewells() -> Vec<(&'static str, Farewell)> {
    let way = |name| match name {
        "postgres" => Farewell::POSTGRES,
        AIRFLOW => Farewell::INTERRUPT,
        _ => Farewell::TERMINATE,
    };
    STEPS.iter().rev().map(|(name, ..)| (*name, way(*name))).collect()
}

/// The ports that the parts in `parts` want.
pub(super) fn wishes(settings: &Settings, parts: &BTreeSet<&str>, data_dir: &DataDir) -> Vec<Wish> {
    let up = &settings.up;
    let controller = std::fs::read_to_string(Kafka::controller_port_file(&data_dir.root().join("kafka")));
    let controller = controller.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let all = [
        ("postgres", "postgres", "PostgreSQL", up.postgres_port),
        ("kafka", "kafka", "Kafka", up.kafka_port),
        ("kafka", CONTROLLER, "Kafka's controller", controller),
        ("connect", "connect", "Kafka Connect", up.connect_port),
        ("clickhouse", "clickhouse", "ClickHouse's engine", up.clickhouse_port),
        ("sink", "sink", "the sink's health", up.sink_port),
        ("serve", "api", "the API", up.api_port),
        (AIRFLOW, AIRFLOW, "Airflow", up.airflow_port),
        (AIRFLOW, TASK_LOGS, "Airflow's logs of tasks", 0),
        (AIRFLOW, TRIGGER_LOGS, "Airflow's logs of triggers", 0),
    ];
    let wanted = all.into_iter().filter(|(step, ..)| parts.contains(step));
    wanted.map(|(_, part, title, port)| Wish { part, title, port, flexible: part == CONTROLLER }).collect()
}

/// What all parts are made from.
#[derive(Debug)]
pub(super) struct Workshop<'a> {
    /// The platform's folder.
    pub(super) data_dir: &'a DataDir,
    /// The programs of others.
    pub(super) engines: &'a Engines,
    /// Addresses and secrets.
    pub(super) environment: &'a Environment,
    /// Settings.
    pub(super) settings: &'a Settings,
    /// This program, with the flags that all subcommands get.
    pub(super) own: Launch,
    /// Whether a person watches.
    pub(super) is_terminal: bool,
    /// For asking parts whether they are ready.
    http: Http,
}

impl<'a> Workshop<'a> {
    /// Prepares to make parts.
    ///
    /// # Errors
    /// This program's own file cannot be found.
    pub(super) fn new(
        data_dir: &'a DataDir,
        engines: &'a Engines,
        environment: &'a Environment,
        settings: &'a Settings,
        own: Launch,
        is_terminal: bool,
    ) -> anyhow::Result<Self> {
        let http = Http::new(READY_REQUEST_TIMEOUT)?;
        Ok(Self { data_dir, engines, environment, settings, own, is_terminal, http })
    }

    /// The steps of this start.
    ///
    /// # Errors
    /// `Failure::Config` when an engine is missing.
    pub(super) async fn steps(&self) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (name, title, needs) in STEPS {
            if !self.environment.parts.contains(name) || (name == "load" && self.loaded_file().exists()) {
                continue;
            }
            let kind = match name {
                "postgres" => Kind::Service(Arc::new(self.postgres().await?)),
                "kafka" => Kind::Service(Arc::new(self.kafka()?)),
                "connect" => Kind::Service(Arc::new(self.connect()?)),
                "clickhouse" => Kind::Service(Arc::new(self.clickhouse()?)),
                "sink" => Kind::Service(Arc::new(self.own_service("sink", "sink", self.environment.sink()))),
                "serve" => Kind::Service(Arc::new(self.own_service("serve", "api", self.environment.api()))),
                AIRFLOW => Kind::Service(Arc::new(self.airflow()?)),
                "key" => Kind::Job(Arc::new(self.api_key())),
                "load" => Kind::Job(Arc::new(self.load())),
                "connector" => Kind::Job(Arc::new(self.job("connector", &["connector", "apply"]))),
                _ => Kind::Job(Arc::new(self.job("migrate", &["migrate"]))),
            };
            steps.push(Step { name, title, needs, kind });
        }
        Ok(steps)
    }

    /// Exists once the first load has succeeded.
    fn loaded_file(&self) -> std::path::PathBuf {
        self.data_dir.root().join("loaded")
    }

    async fn postgres(&self) -> anyhow::Result<Postgres> {
        Ok(Postgres {
            home: PostgresHome::settle(self.data_dir, &self.engines.postgres()?).await?,
            ports: self.environment.ports.clone(),
            maintenance: self.environment.postgres_settings(&self.settings.postgres, "postgres"),
            password: self.environment.secrets.password(Owner::PostgresAdmin).to_owned(),
        })
    }

    fn kafka(&self) -> anyhow::Result<Kafka> {
        Ok(Kafka {
            folder: self.data_dir.part("kafka")?,
            jvm: self.engines.jvm("broker")?,
            ports: self.environment.ports.clone(),
            client: config::Kafka { brokers: self.environment.address("kafka"), ..self.settings.kafka.clone() },
        })
    }

    fn connect(&self) -> anyhow::Result<Connect> {
        Ok(Connect {
            folder: self.data_dir.part("connect")?,
            jvm: self.engines.jvm("connect")?,
            plugins: self.engines.plugins()?,
            ports: self.environment.ports.clone(),
            http: self.http.clone(),
        })
    }

    fn clickhouse(&self) -> anyhow::Result<OwnService> {
        let launch = self
            .own
            .clone()
            .args(["clickhouse", "--data-dir"])
            .path(&self.data_dir.part("clickhouse")?)
            .arg("--engine")
            .path(&self.engines.chdb()?)
            .args(["--bind".to_owned(), self.environment.address("clickhouse")]);
        let settings = self.environment.clickhouse_settings(&self.settings.clickhouse);
        Ok(OwnService {
            port_name: "clickhouse",
            launch: with_variables(launch, self.environment.clickhouse_front()),
            ports: self.environment.ports.clone(),
            check: Check::Query(Box::new(ClickHouse::new(&settings)?.with_timeout(READY_REQUEST_TIMEOUT))),
        })
    }

    fn airflow(&self) -> anyhow::Result<Airflow> {
        let up = &self.settings.up;
        let platform = std::env::current_exe().context("finding this program's own file")?;
        Ok(Airflow {
            folder: self.data_dir.part(AIRFLOW)?,
            bin: airflow_bin(&up.airflow_dir)?,
            dags: up.airflow_dags_dir.canonicalize().with_context(|| {
                Failure::Config(format!("there are no DAGs in {} (up.airflow_dags_dir)", up.airflow_dags_dir.display()))
            })?,
            platform: platform.parent().context("a program lies in a folder")?.to_owned(),
            variables: self.environment.etl(),
            password: self.environment.secrets.password(Owner::Airflow).to_owned(),
            ports: self.environment.ports.clone(),
            http: self.http.clone(),
        })
    }

    fn own_service(
        &self,
        name: &'static str,
        port_name: &'static str,
        variables: Vec<(&'static str, String)>,
    ) -> OwnService {
        // Requests in flight end before `up` loses its patience.
        let drain_s = self.settings.api.drain_timeout_s.min(self.settings.up.stop_timeout_s / 3);
        let launch = self.own.clone().arg(name).env("PLATFORM__API__DRAIN_TIMEOUT_S", drain_s.to_string());
        OwnService {
            port_name,
            launch: with_variables(launch, variables),
            ports: self.environment.ports.clone(),
            check: Check::Url(self.http.clone(), format!("{}/readyz", self.environment.url(port_name))),
        }
    }

    fn job(&self, name: &'static str, arguments: &[&str]) -> OwnJob {
        let launch = self.own.clone().args(arguments.iter().copied());
        OwnJob { name, launch: with_variables(launch, self.environment.administrator()), done_file: None }
    }

    /// The first load, whose progress a person may watch.
    fn load(&self) -> OwnJob {
        let job = self.job("load", &["load"]);
        OwnJob { launch: job.launch.shows_errors(self.is_terminal), done_file: Some(self.loaded_file()), ..job }
    }

    fn api_key(&self) -> StoreApiKey {
        StoreApiKey {
            administrator: self.environment.postgres_settings(&self.settings.postgres, DATABASE),
            secrets: self.environment.secrets.clone(),
        }
    }
}

/// The `bin` of Airflow's virtual environment; the path as it is, because Python finds its packages by it.
fn airflow_bin(folder: &Path) -> anyhow::Result<PathBuf> {
    let bin = std::path::absolute(folder).context("finding Airflow")?.join("bin");
    if !bin.join("airflow").is_file() {
        let text =
            format!("Airflow is not installed ({} is missing): run `make airflow`", bin.join("airflow").display());
        return Err(Failure::Config(text).into());
    }
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_needs_comes_before_it() {
        let mut before = BTreeSet::new();
        for (name, _, needs) in STEPS {
            assert!(needs.iter().all(|need| before.contains(need)), "{name}");
            before.insert(name);
        }
    }

    #[test]
    fn parts_are_chosen_by_name() {
        let some = selected(Some("postgres, migrate"), false).expect("known");
        assert_eq!(some.into_iter().collect::<Vec<_>>(), ["key", "migrate", "postgres"]);
        assert_eq!(selected(None, true).expect("all").len(), STEPS.len());
        assert!(!selected(None, false).expect("all").contains(AIRFLOW));
        assert!(selected(Some("postgres"), true).expect("two").contains(AIRFLOW));
        let error = selected(Some("postgres,oracle"), false).expect_err("unknown");
        assert_eq!(Failure::exit_code_of(&error), 2);
        assert!(error.to_string().contains("oracle"), "{error}");
    }
}
