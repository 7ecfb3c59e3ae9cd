//! What a caller may use up, and what it is told: rate limits, places, queues; origins, traces, times.

use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{Api, send, small_post, stack, unique};
use crate::support::wait::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_over_its_limit_is_told_when_to_come_back() {
    let api = Api::start_with(|settings| {
        settings.api.rate_limit_requests = 5;
        settings.api.rate_limit_window_s = 3600;
    })
    .await;
    let other = api.new_key(&["read"], "null").await;
    let ask = |key: String| {
        send(api.http.get(format!("http://{}/v1/sentiment-social?limit=1", api.address)).bearer_auth(key))
    };
    for left in (0..5).rev() {
        let answer = ask(api.key.clone()).await;
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, Some("\"key\";q=5;w=3600")), "{answer:?}");
        assert!(
            answer.header("ratelimit").is_some_and(|limit| limit.starts_with(&format!("\"key\";r={left};t="))),
            "{answer:?}"
        );
    }
    for path in ["/v1/sentiment-social", "/v1/keys", "/v1/pipeline", "/v1/sentiment-social/1"] {
        let answer = api.get(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (429, "rate-limited"), "{path}");
        let wait: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
        assert!((1..=720).contains(&wait), "{wait}");
        assert!(answer.header("ratelimit").is_some_and(|limit| limit.starts_with("\"key\";r=0;")), "{answer:?}");
    }
    assert_eq!(ask(other.expose().to_owned()).await.status, 200, "keys do not share a limit");
    for path in ["/livez", "/readyz", "/v1/version"] {
        assert_eq!(api.get(path).await.status, 200, "{path} needs no key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_over_all_workers_and_comes_back_with_time() {
    let api = Api::start_with(|settings| {
        settings.api.rate_limit_requests = 20;
        settings.api.rate_limit_window_s = 2;
    })
    .await;
    let ask = || async { api.get("/v1/sentiment-social?limit=1").await.status };
    let statuses = futures_util::future::join_all((0..100).map(|_| ask())).await;
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert!((20..100).contains(&good) && statuses.iter().all(|status| [200, 429].contains(status)), "{good} of 100");
    wait_until("requests are let in again", Duration::from_secs(10), || async { ask().await == 200 }).await;
}

/// A row that is locked keeps a request under way for as long as the test wants.
#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_places_are_shed_at_once_and_probes_are_not() {
    let api = Api::start_with(|settings| {
        settings.api.workers = 1;
        settings.api.in_flight_max = 1;
        settings.api.query_timeout_ms = 60_000;
    })
    .await;
    let id = api.create(&small_post(&unique("shed"), "1", "2020-01-01")).await;
    let path = format!("/v1/sentiment-social/{id}");
    let mut other = api.postgres().await;
    let transaction = other.transaction().await.expect("begun");
    transaction.execute("select 1 from sentiment_social where id = $1 for update", &[&id]).await.expect("locked");
    let patch = json!({"likes": 1});
    let (held, ()) = tokio::join!(api.send_json(Method::PATCH, &path, &patch), async {
        wait_until("the place is taken", Duration::from_secs(20), || async { api.get(&path).await.status == 503 })
            .await;
        for path in [path.as_str(), "/v1/sentiment-social", "/v1/keys", "/v1/analytics/summary", "/v1/nothing"] {
            let answer = api.get(path).await;
            assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"), "{path}");
            assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
        }
        for path in ["/livez", "/readyz", "/metrics", "/"] {
            assert_eq!(api.get(path).await.status, 200, "{path}");
        }
        transaction.rollback().await.expect("ended");
    });
    assert_eq!(held.status, 200, "{held:?}");
    assert_eq!(api.get(&path).await.status, 200, "the place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_for_connections_sheds_at_once() {
    let api = Api::start_with(|settings| {
        settings.api.workers = 1;
        settings.api.postgres_connections_per_worker = 1;
        settings.api.postgres_waiting_max = 1;
        settings.api.acquire_timeout_ms = 60_000;
        settings.api.query_timeout_ms = 60_000;
    })
    .await;
    let id = api.create(&small_post(&unique("queue"), "1", "2020-01-01")).await;
    let path = format!("/v1/sentiment-social/{id}");
    let mut other = api.postgres().await;
    let transaction = other.transaction().await.expect("begun");
    transaction.execute("select 1 from sentiment_social where id = $1 for update", &[&id]).await.expect("locked");
    let ask = || async {
        let patch = json!({"likes": 1});
        api.send_json(Method::PATCH, &path, &patch).await
    };
    let (mut answers, ()) = tokio::join!(futures_util::future::join_all((0..6).map(|_| ask())), async {
        let (blocked, watching) = (transaction.client(), api.postgres().await);
        let pid: i32 = blocked.query_one("select pg_backend_pid()", &[]).await.expect("a number").get(0);
        wait_until("one waits for the row", Duration::from_secs(20), || async {
            let sql = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
            watching.query_one(sql, &[&pid]).await.is_ok_and(|row| row.get::<_, i64>(0) == 1)
        })
        .await;
        wait_until("the queue is full", Duration::from_secs(20), || async { api.get(&path).await.status == 503 }).await;
        transaction.rollback().await.expect("ended");
    });
    answers.sort_by_key(|answer| answer.status);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.problem(), "overloaded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_origins_may_ask_from_a_browser() {
    let api = Api::start_with(|settings| {
        "https://app.example, http://localhost:3000".clone_into(&mut settings.api.cors_origins);
    })
    .await;
    let ask = |method: Method, origin: &'static str| {
        let request = api.request(method, "/v1/sentiment-social").header("origin", origin);
        send(request.header("access-control-request-method", "POST"))
    };
    for origin in ["https://app.example", "http://localhost:3000"] {
        let preflight = ask(Method::OPTIONS, origin).await;
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some(origin)));
        assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS, POST"));
        assert!(preflight.header("access-control-allow-headers").is_some_and(|names| names.contains("Authorization")));
        let answer = ask(Method::GET, origin).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert!(
            answer.header("access-control-expose-headers").is_some_and(|names| names.contains("X-Consistency-Token"))
        );
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    for origin in ["https://app.example.evil", "https://evil.example", "null", "https://app.example:444", "*"] {
        for method in [Method::OPTIONS, Method::GET] {
            let answer = ask(method.clone(), origin).await;
            assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {origin}");
            assert_eq!(answer.header("access-control-allow-methods"), None, "{method} {origin}");
            let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
            assert!(
                vary.iter().any(|name| *name == "origin") && vary.iter().any(|name| *name == "accept-encoding"),
                "{vary:?}"
            );
        }
    }
    let refused = ask(Method::DELETE, "https://app.example").await;
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (405, Some("https://app.example")),
        "problems can be read too"
    );
    let settings = Api::settings(|settings| "*".clone_into(&mut settings.api.cors_origins)).await;
    let error = platform::api::start(&settings, &platform::shutdown::Shutdown::manual()).await.expect_err("refused");
    assert_eq!(platform::domain::Failure::exit_code_of(&error), 78);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_where_the_time_went() {
    let api = Api::start().await;
    let times = |answer: &super::Answer| -> Vec<(String, f64)> {
        let header = answer.header("server-timing").expect("times").to_owned();
        let one = |part: &str| {
            let (name, time) = part.split_once(";dur=").expect("a name and a time");
            (name.trim().to_owned(), time.parse().expect("milliseconds"))
        };
        header.split(',').map(one).collect()
    };
    let answer = api.get("/v1/sentiment-social?limit=1").await;
    let told = times(&answer);
    assert_eq!(told.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["db", "total"], "{told:?}");
    assert!(told[0].1 > 0.0 && told[0].1 <= told[1].1, "{told:?}");
    assert_eq!(times(&api.get("/livez").await).len(), 1, "no database was asked");
}

/// The trace of a request that fails is in the log; one that is malformed counts as absent.
#[tokio::test(flavor = "multi_thread")]
async fn traces_are_in_the_log() {
    let mut settings = Api::settings(|_| {}).await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let mut command = stack().await.command(&["serve", "--bind", &address.to_string()]);
    command.env("PLATFORM__POSTGRES__URL", settings.postgres.url.expose_secret());
    command.env("PLATFORM__LOG__LEVEL", "info,platform::api=debug").env("PLATFORM__LOG__FORMAT", "json");
    "unused".clone_into(&mut settings.api.bind);
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut child = command.stdout(Stdio::null()).stderr(log.reopen().expect("opened")).spawn().expect("started");
    let http = reqwest::Client::new();
    wait_until("it serves", Duration::from_secs(60), || async {
        http.get(format!("http://{address}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    for (id, trace) in [
        ("with-trace", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("bad-trace", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
    ] {
        let request = http.get(format!("http://{address}/v1/nothing")).header("x-request-id", id);
        assert_eq!(request.header("traceparent", trace).send().await.expect("an answer").status(), 404);
    }
    let said = || std::fs::read_to_string(log.path()).expect("readable");
    wait_until("both are logged", Duration::from_secs(20), || async { said().contains("bad-trace") }).await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid")),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("signalled");
    wait_until("it ends", Duration::from_secs(20), || {
        let ended = child.try_wait().expect("a child").is_some();
        async move { ended }
    })
    .await;
    let log = said();
    let line =
        |id: &str| log.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{id} in {log}")).to_owned();
    assert!(line("with-trace").contains("0af7651916cd43dd8448eb211c80319c"), "{log}");
    assert!(!line("bad-trace").contains("trace_id") && !log.to_lowercase().contains("bearer"), "{log}");
}
