//! The DAGs of deploy/airflow in a real Airflow, which `platform up --airflow` runs beside everything else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::stack::finish;
use crate::support::wait::wait_until;
use crate::support::{Options, Stack, processes};

/// A task takes some seconds to start, and beside tests of others on a slow machine some minutes.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);

/// Airflow's REST interface.
struct Airflow {
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Airflow {
    async fn log_in(stack: &Stack) -> Self {
        let (url, password) = (stack.variable("PLATFORM_AIRFLOW_URL"), stack.variable("PLATFORM_AIRFLOW_PASSWORD"));
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("a client");
        let user = json!({ "username": "admin", "password": password });
        let answer = http.post(format!("{url}/auth/token")).json(&user).send().await.expect("answered");
        let answer: Value = answer.json().await.expect("JSON");
        let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned();
        Self { url: url.to_owned(), token, http }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}/api/v2/{path}", self.url)).bearer_auth(&self.token).send().await.ok()?;
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    /// Triggers a run; its path below `dags/`.
    async fn trigger(&self, dag: &str, conf: Value) -> String {
        let body = json!({ "logical_date": null, "conf": conf });
        let url = format!("{}/api/v2/dags/{dag}/dagRuns", self.url);
        let answer = self.http.post(url).bearer_auth(&self.token).json(&body).send().await.expect("answered");
        let answer: Value = answer.json().await.expect("JSON");
        let id = answer["dag_run_id"].as_str().unwrap_or_else(|| panic!("not triggered: {answer}"));
        format!("dags/{dag}/dagRuns/{id}")
    }

    /// The scheduler leaves the runs of a paused DAG alone.
    async fn pause(&self, dag: &str, paused: bool) {
        let url = format!("{}/api/v2/dags/{dag}?update_mask=is_paused", self.url);
        let request = self.http.patch(url).bearer_auth(&self.token).json(&json!({ "is_paused": paused }));
        let answer: Value = request.send().await.expect("answered").json().await.expect("JSON");
        assert_eq!(answer["is_paused"], paused, "{answer}");
    }

    /// State and number of tries of a task of a run.
    async fn task(&self, run: &str, task: &str) -> (String, u64) {
        let Some(found) = self.get(&format!("{run}/taskInstances/{task}")).await else { return (String::new(), 0) };
        (found["state"].as_str().unwrap_or_default().to_owned(), found["try_number"].as_u64().unwrap_or(0))
    }

    /// Waits until the tasks have these states.
    async fn states(&self, run: &str, expected: &[(&str, &str)]) {
        for (task, state) in expected {
            let ended = ["success", "skipped", "failed", "upstream_failed"];
            wait_until(&format!("{task} of {run} ends"), RUN_TIMEOUT, async || {
                ended.contains(&self.task(run, task).await.0.as_str())
            })
            .await;
            assert_eq!(&self.task(run, task).await.0, state, "{task} of {run}");
        }
    }
}

async fn ask(stack: &Stack, sql: &str) -> String {
    let (url, user, password) = stack.clickhouse();
    let request = reqwest::Client::new().post(url).basic_auth(user, Some(password)).body(sql.to_owned());
    let answer = request.send().await.expect("answered").text().await.expect("a text");
    answer.trim_end().to_owned()
}

fn platform(stack: &Stack, arguments: &[&str]) {
    let finished = stack.platform(arguments);
    assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
}

/// `airflow …` as the service of `platform up` would run it.
fn airflow(stack: &Stack, arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = root.join(".airflow/bin");
    let program = Path::new(env!("CARGO_BIN_EXE_platform")).parent().expect("a folder");
    let path = platform::config::environment().remove("PATH").unwrap_or_default();
    let mut command = Command::new(bin.join("airflow"));
    command.args(arguments).current_dir(stack.data_dir()).envs(stack.environment());
    command.env("PATH", format!("{}:{}:{path}", bin.display(), program.display()));
    command.env("AIRFLOW_HOME", stack.data_dir().join("airflow"));
    command.env("AIRFLOW__CORE__DAGS_FOLDER", root.join("deploy/airflow/dags"));
    command.env("AIRFLOW__CORE__LOAD_EXAMPLES", "false").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn start() -> Stack {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = |name: &str| root.join(name).display().to_string();
    let environment = [
        ("PLATFORM__UP__AIRFLOW_DIR", path(".airflow")),
        ("PLATFORM__UP__AIRFLOW_DAGS_DIR", path("deploy/airflow/dags")),
        ("PLATFORM__UP__READY_TIMEOUT_S", "240".into()),
        // Days are built by the tasks alone.
        ("PLATFORM__ETL__REFRESH_INTERVAL_MS", "0".into()),
        ("PLATFORM_RETRY_DELAY_S", "1".into()),
    ];
    Stack::start_with(Options {
        flags: ["--airflow", "--airflow-port", "0"].map(str::to_owned).to_vec(),
        environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        ..Options::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn days_run_are_skipped_fail_and_are_tried_again_as_their_exit_codes_say() {
    let stack = start();
    let airflow_api = Airflow::log_in(&stack).await;
    for dag in ["platform_daily", "platform_backfill"] {
        let path = format!("dags/{dag}");
        wait_until(dag, RUN_TIMEOUT, async || airflow_api.get(&path).await.is_some()).await;
    }
    let errors = airflow_api.get("importErrors").await.expect("answered");
    assert_eq!(errors["total_entries"], 0, "{errors}");
    let pool = airflow_api.get("pools/platform_etl").await.expect("the pool");
    assert_eq!(pool["slots"], 1);

    a_real_day_succeeds(&stack, &airflow_api).await;
    a_day_with_nothing_to_do_is_skipped(&airflow_api).await;
    a_failed_check_fails_at_once(&stack, &airflow_api).await;
    a_killed_task_leaves_the_day_whole_and_the_retry_mends_it(&stack, &airflow_api).await;
    a_week_is_built_again(&stack, &airflow_api).await;
}

async fn a_real_day_succeeds(stack: &Stack, api: &Airflow) {
    let conf = r#"{"date":"2026-03-02","rows":500}"#;
    let command = airflow(stack, &["dags", "test", "platform_daily", "--conf", conf]);
    // `dags test` runs the tasks itself, and the scheduler would run the same ones of the same run: whichever is second is
    // refused ("invalid_state"), and the command then calls the task failed.
    api.pause("platform_daily", true).await;
    let tested = tokio::task::spawn_blocking(move || finish(command)).await.expect("ended");
    api.pause("platform_daily", false).await;
    // Shown if the test fails: why a task did.
    println!("{}\n{}", tested.stdout, tested.stderr);
    let runs = api.get("dags/platform_daily/dagRuns?order_by=-run_after&limit=20").await.expect("runs");
    let run = runs["dag_runs"].as_array().expect("a list").iter().find(|run| run["conf"]["date"] == "2026-03-02");
    let run = run.unwrap_or_else(|| panic!("no run: {tested:?}"))["dag_run_id"].as_str().expect("an id").to_owned();
    let path = format!("dags/platform_daily/dagRuns/{run}");
    api.states(&path, &[("fill", "success"), ("etl", "success"), ("verify", "success")]).await;
    assert_eq!(ask(stack, "select sum(posts) from analytics.sentiment_daily where day = '2026-03-02'").await, "500");

    let result = api.get(&format!("{path}/taskInstances/etl/xcomEntries/return_value")).await.expect("an XCom");
    // The interface gives a value as it is or as its JSON text, by its version.
    let result = match &result["value"] {
        Value::String(text) => serde_json::from_str(text).expect("JSON"),
        value => value.clone(),
    };
    // Several aggregates are told as a range of one day.
    assert_eq!((&result["from"], &result["status"]), (&json!("2026-03-02"), &json!("done")), "{result}");
    let context = ask(stack, "select context from platform.runs final where bucket = '2026-03-02' limit 1").await;
    let context: Value = serde_json::from_str(&context).unwrap_or_else(|error| panic!("{error}: {context}"));
    assert_eq!(context["AIRFLOW_CTX_DAG_RUN_ID"], run.as_str(), "{context}");
    assert_eq!(
        (&context["AIRFLOW_CTX_DAG_ID"], &context["AIRFLOW_CTX_TASK_ID"]),
        (&json!("platform_daily"), &json!("etl"))
    );
}

async fn a_day_with_nothing_to_do_is_skipped(api: &Airflow) {
    let run = api.trigger("platform_daily", json!({ "date": "2026-03-02" })).await;
    api.states(&run, &[("fill", "skipped"), ("etl", "skipped"), ("verify", "success")]).await;
}

async fn a_failed_check_fails_at_once(stack: &Stack, api: &Airflow) {
    platform(stack, &["generate", "--rows", "50", "--date", "2026-03-03", "--seed", "5"]);
    let mirrored = "select count() from analytics.sentiment_social where toDate(posted_at, 'UTC') = '2026-03-03'";
    wait_until("the mirror has the day", RUN_TIMEOUT, async || ask(stack, mirrored).await == "50").await;
    let table = ask(stack, "select concat(database, '.', name) from system.tables where name = 'sentiment_social' and engine like '%MergeTree'").await;
    let lost = format!(
        "alter table {table} delete where toDate(posted_at, 'UTC') = '2026-03-03' and likes >= 0 and post_id like '%7' \
         settings mutations_sync = 2"
    );
    assert_eq!(ask(stack, &lost).await, "");
    assert_ne!(ask(stack, mirrored).await, "50", "rows are gone");
    let run = api.trigger("platform_daily", json!({ "date": "2026-03-03" })).await;
    api.states(&run, &[("etl", "failed"), ("verify", "upstream_failed")]).await;
    // Airflow itself may start a task again that did not come up in time; the check alone would have been tried six times.
    assert!(api.task(&run, "etl").await.1 < 3, "no further try");
    platform(stack, &["verify", "--repair"]);
}

async fn a_killed_task_leaves_the_day_whole_and_the_retry_mends_it(stack: &Stack, api: &Airflow) {
    // The task waits for a sink that stands still.
    processes::signal(stack.pid_of("sink"), Signal::SIGSTOP);
    let run = api.trigger("platform_daily", json!({ "date": "2026-03-04", "rows": 300 })).await;
    let running = || {
        let etl = |line: &str| line.contains("platform etl --date 2026-03-04");
        processes::naming("2026-03-04").into_iter().find(|(_, line)| etl(line)).map(|(pid, _)| pid)
    };
    wait_until("the task runs", RUN_TIMEOUT, async || running().is_some()).await;
    let pid = running().expect("it waits");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
    assert_eq!(
        program.file_name().and_then(|name| name.to_str()),
        Some("platform"),
        "a signal reaches no shell before it"
    );
    processes::signal(pid, Signal::SIGKILL);
    wait_until("Airflow sees it", RUN_TIMEOUT, async || {
        let (state, tries) = api.task(&run, "etl").await;
        state == "up_for_retry" || tries > 1
    })
    .await;
    let posts = "select sum(posts) from analytics.sentiment_daily where day = '2026-03-04'";
    assert_eq!(ask(stack, posts).await, "0", "the day is as it was");
    processes::signal(stack.pid_of("sink"), Signal::SIGCONT);
    api.states(&run, &[("etl", "success"), ("verify", "success")]).await;
    assert!(api.task(&run, "etl").await.1 > 1);
    assert_eq!(ask(stack, posts).await, "300");
}

async fn a_week_is_built_again(stack: &Stack, api: &Airflow) {
    platform(stack, &["generate", "--rows", "100", "--from", "2026-04-06", "--to", "2026-04-12"]);
    // Forced: the last step of the daily run before this may have built these days as dirty ones.
    let conf = json!({ "from": "2026-04-06", "to": "2026-04-12", "force": true });
    let run = api.trigger("platform_backfill", conf).await;
    api.states(&run, &[("etl", "success"), ("verify", "success")]).await;
    let days = "select uniqExact(day), sum(posts) > 500 from analytics.sentiment_daily where day between '2026-04-06' and '2026-04-12'";
    assert_eq!(ask(stack, days).await, "7\t1");
}
