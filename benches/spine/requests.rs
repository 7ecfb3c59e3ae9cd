//! The API: one point read against PostgreSQL without anything around it, one analytics query against the engine's own time.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use platform::store::postgres;

use crate::figures::{Line, line, ms, percentile};
use crate::support::Stack;
use crate::support::wait::wait_until;

const CLIENTS: usize = 16;
const SPAN: Duration = Duration::from_secs(8);

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let mut serve = stack.command(&["serve"]);
    serve.env("PLATFORM__API__BIND", "127.0.0.1:0".replace(":0", &format!(":{}", free_port())));
    let bind = serve
        .get_envs()
        .find(|(name, _)| *name == "PLATFORM__API__BIND")
        .and_then(|(_, value)| value)
        .expect("an address");
    let url = format!("http://{}", bind.to_string_lossy());
    let mut server = serve.stderr(Stdio::null()).spawn().expect("started");
    let http = reqwest::Client::builder().pool_max_idle_per_host(CLIENTS).no_proxy().build().expect("a client");
    wait_until("the API is ready", Duration::from_secs(60), || async {
        http.get(format!("{url}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let settings = stack.settings();
    let client = postgres::connect(&settings.postgres, "bench").await.expect("connected");
    let id: i64 = client.query_one("select max(id) from sentiment_social", &[]).await.expect("read").get(0);

    let (point_rate, point_p99) =
        closed_loop(&http, &format!("{url}/v1/sentiment-social/{id}"), stack.api_key(), CLIENTS).await;
    let bare = bare_reads(&settings, id).await;
    let summary = format!("{url}/v1/analytics/summary?from=2026-01-01&to=2026-01-02");
    let (query_rate, query_p99) = closed_loop(&http, &summary, stack.api_key(), 4).await;
    let answer: serde_json::Value = get(&http, &summary, stack.api_key()).await.json().await.expect("JSON");
    let engine_ms = answer["statistics"]["elapsed_ms"].as_f64();

    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id()).expect("a process number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("stopped");
    server.wait().expect("ended");
    vec![
        line(
            format!("point read, {CLIENTS} clients"),
            format!("{point_rate:.0} requests/s, p99 {}", ms(point_p99)),
            format!("the same row by the driver alone {bare:.0}/s"),
            Some(point_rate / bare),
        ),
        line(
            "analytics summary of one day, 4 clients",
            format!("{query_rate:.1} requests/s, p99 {}", ms(query_p99)),
            engine_ms.map_or_else(String::new, |ms| format!("one query alone takes {ms:.1} ms")),
            None,
        ),
    ]
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

async fn get(http: &reqwest::Client, url: &str, key: &str) -> reqwest::Response {
    let answer = http.get(url).bearer_auth(key).send().await.expect("answered");
    assert!(answer.status().is_success(), "{url}: {}", answer.status());
    answer
}

/// Requests a second and the 99th percentile, each client sending its next request when it has its answer.
async fn closed_loop(http: &reqwest::Client, url: &str, key: &str, clients: usize) -> (f64, f64) {
    let (url, key) = (Arc::new(url.to_owned()), Arc::new(key.to_owned()));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (http, url, key) = (http.clone(), Arc::clone(&url), Arc::clone(&key));
            tokio::spawn(async move {
                let end = Instant::now() + SPAN;
                let mut times = Vec::new();
                while Instant::now() < end {
                    let begun = Instant::now();
                    get(&http, &url, &key).await.bytes().await.expect("a body");
                    times.push(begun.elapsed().as_secs_f64());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client"));
    }
    times.sort_by(f64::total_cmp);
    (times.len() as f64 / SPAN.as_secs_f64(), percentile(&times, 0.99))
}

/// The limit: the same row, by one prepared statement a connection.
async fn bare_reads(settings: &platform::config::Settings, id: i64) -> f64 {
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let settings = settings.postgres.clone();
            tokio::spawn(async move {
                let client = postgres::connect(&settings, "bench").await.expect("connected");
                let statement = client.prepare("select * from sentiment_social where id = $1").await.expect("prepared");
                let end = Instant::now() + SPAN;
                let mut reads = 0u32;
                while Instant::now() < end {
                    client.query_one(&statement, &[&id]).await.expect("read");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut reads = 0;
    for task in tasks {
        reads += task.await.expect("a reader");
    }
    f64::from(reads) / SPAN.as_secs_f64()
}
