//! `/v1/stats/daily` over a real mirror: days that changed since their build are computed, and all of it equals PostgreSQL.

use std::time::Duration;

use platform::config::{Auth, Settings};
use platform::domain::Lsn;
use platform::shutdown::Shutdown;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::mirrored::Mirrored;
use crate::support::wait::wait_until;

const DAYS: [&str; 3] = ["2024-05-01", "2024-05-02", "2024-05-03"];
const SPAN: &str = "from=2024-05-01&to=2024-05-04";

/// The API on the databases of a bench, without keys.
struct Api {
    url: String,
    shutdown: Shutdown,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shutdown.token().cancel();
    }
}

impl Api {
    async fn on(bench: &Mirrored) -> Self {
        let mut settings =
            Settings::from_overrides([("api.bind", "127.0.0.1:0"), ("api.workers", "1")]).expect("valid");
        let url = bench.variable("PLATFORM__POSTGRES__URL").replace("platform_etl@", "platform_api@");
        settings.postgres.url = url.into();
        settings.clickhouse = bench.clickhouse_settings();
        settings.api.auth = Auth::Off;
        let shutdown = Shutdown::manual();
        let running = platform::api::start(&settings, &shutdown).await.unwrap_or_else(|error| panic!("{error:#}"));
        Self { url: format!("http://{}", running.address), shutdown }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Waits until the mirror's state of `batch` is seen: answers from then on have what was there before.
    async fn sees(&self, batch: u64) {
        wait_until("the checkpoint is seen", Duration::from_secs(20), || async {
            self.get("/v1/pipeline").await.1["checkpoint"]["batch"] == batch
        })
        .await;
    }

    async fn daily(&self, freshness: &str) -> (Vec<String>, Vec<Value>) {
        let (status, set) = self.get(&format!("/v1/stats/daily?{SPAN}&freshness={freshness}")).await;
        assert_eq!(status, 200, "{set}");
        let rows = set["data"].as_array().expect("rows").iter().map(line);
        let mut rows: Vec<String> = rows.collect();
        rows.sort();
        (rows, set["days"].as_array().expect("days").clone())
    }
}

/// A row as `Mirrored::statistics_of_postgres` writes it.
fn line(row: &Value) -> String {
    let text = |name: &str| match &row[name] {
        Value::Null => "<null>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let decimal = |name: &str, scale: u32| match &row[name] {
        Value::Null => "<null>".to_owned(),
        value => {
            let mut number: Decimal = value.as_str().expect("decimals are texts").parse().expect("a number");
            number.rescale(scale);
            number.to_string()
        }
    };
    let mut parts: Vec<String> =
        ["day", "platform", "topic", "lang", "sentiment_label", "posts", "authors"].map(text).into();
    parts.push(decimal("mean_score", 6));
    parts.extend(["min_score", "max_score", "median_score"].map(|name| decimal(name, 3)));
    parts.extend(["likes", "replies", "shares"].map(text));
    parts.join("|")
}

async fn of_postgres(bench: &Mirrored) -> Vec<String> {
    let mut all = Vec::new();
    for day in DAYS {
        all.extend(bench.statistics_of_postgres(day).await);
    }
    all.sort();
    all
}

/// What the sink writes before the rows of `batch`.
async fn mark(bench: &Mirrored, day: Option<&str>, batch: u64) {
    let (whole, day) = day.map_or((1, "1970-01-01"), |day| (0, day));
    bench
        .ask(&format!("insert into platform.dirty_buckets values ('sentiment_daily', {whole}, '{day} 00:00:00', {batch}, now64(6))"))
        .await;
}

/// `day source dirty` of each.
fn told(days: &[Value]) -> Vec<String> {
    days.iter().map(|day| format!("{} {} {}", day["day"], day["source"], day["dirty"]).replace('"', "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_and_unbuilt_days_come_from_the_mirror_in_one_exact_result() {
    let bench = Mirrored::caught_up().await;
    for (number, day) in DAYS.iter().enumerate() {
        bench.run(&["generate", "--rows", "300", "--date", day, "--seed", &number.to_string()]).await;
    }
    bench.copy(10, "true").await;
    let api = Api::on(&bench).await;
    // Before anything was built there is no table of results at all.
    api.sees(1).await;
    let (rows, days) = api.daily("hybrid").await;
    assert_eq!(rows, of_postgres(&bench).await);
    assert_eq!(told(&days), ["2024-05-01 live true", "2024-05-02 live true", "2024-05-03 live true"]);
    assert_eq!(api.get("/v1/stats/daily?from=2023-01-01&to=2023-01-02").await.1["data"], json!([]));

    for day in &DAYS[..2] {
        assert_eq!(bench.etl(&["--date", day]).await.code, Some(0));
    }
    // From the moment when they are on record, whatever was seen of the tables before.
    assert_eq!(api.daily("hybrid").await.0, of_postgres(&bench).await);
    wait_until("the builds are seen", Duration::from_secs(20), || async {
        told(&api.daily("hybrid").await.1)
            == ["2024-05-01 build false", "2024-05-02 build false", "2024-05-03 live true"]
    })
    .await;
    let (rows, days) = api.daily("hybrid").await;
    assert_eq!(rows, of_postgres(&bench).await);
    assert!(days[0]["build_id"].is_string() && days[0]["rows_in"] == 300 && days[2]["build_id"].is_null(), "{days:?}");
    let built = api.daily("precomputed").await;
    assert_eq!(told(&built.1), ["2024-05-01 build false", "2024-05-02 build false"]);

    // Rows move from the second day to the first, and some go.
    bench
        .postgres(
            "update public.sentiment_social set posted_at = posted_at - interval '1 day', likes = 7 \
                    where posted_at >= '2024-05-02' and posted_at < '2024-05-03' and id % 3 = 0",
        )
        .await;
    let gone = bench
        .client
        .query("delete from public.sentiment_social where id % 10 = 1 and posted_at < '2024-05-02' returning id", &[])
        .await;
    let gone: Vec<i64> = gone.expect("deleted").iter().map(|row| row.get(0)).collect();
    assert!(!gone.is_empty());
    for day in &DAYS[..2] {
        mark(&bench, Some(day), 2).await;
    }
    bench.copy(20, "row_version > 1").await;
    bench.tombstones(20, &gone).await;
    bench.checkpoint(2, Lsn::new((u64::MAX >> 8) - 1)).await;
    api.sees(2).await;
    let (rows, days) = api.daily("hybrid").await;
    assert_eq!(rows, of_postgres(&bench).await, "as soon as the checkpoint is seen");
    assert_eq!(told(&days), ["2024-05-01 live true", "2024-05-02 live true", "2024-05-03 live true"]);
    assert!(days[0]["build_id"].is_string(), "which build is too old: {days:?}");
    let (old, days) = api.daily("precomputed").await;
    assert_eq!(
        (old, told(&days)),
        (built.0, vec!["2024-05-01 build true".to_owned(), "2024-05-02 build true".to_owned()])
    );
    let (_, freshness) = api.get("/v1/stats/freshness").await;
    let daily = &freshness["aggregates"][0];
    assert_eq!(
        (&daily["aggregate"], &daily["built_days"], &daily["dirty_days"]),
        (&json!("sentiment_daily"), &json!(2), &json!(2))
    );
    assert!(daily["oldest_mark"].is_string() && daily["newest_build"].is_string(), "{freshness}");

    then_built_and_truncated(&bench, &api).await;
}

/// A build cleans its day; a TRUNCATE makes all of them dirty.
async fn then_built_and_truncated(bench: &Mirrored, api: &Api) {
    assert_eq!(bench.etl(&["--date", DAYS[1], "--wait-lsn", "none"]).await.code, Some(0));
    wait_until("the second day is clean", Duration::from_secs(20), || async {
        told(&api.daily("hybrid").await.1)[1] == "2024-05-02 build false"
    })
    .await;
    assert_eq!(api.daily("hybrid").await.0, of_postgres(bench).await);

    // After a TRUNCATE nothing that was built counts.
    bench.postgres("truncate public.sentiment_social").await;
    mark(bench, None, 3).await;
    bench.floor(30).await;
    bench.checkpoint(3, Lsn::new((u64::MAX >> 8) - 1)).await;
    api.sees(3).await;
    let (rows, days) = api.daily("hybrid").await;
    assert_eq!((rows, told(&days).len()), (Vec::<String>::new(), 3), "{days:?}");
    assert!(days.iter().all(|day| day["source"] == "live"), "{days:?}");
    let (_, freshness) = api.get("/v1/stats/freshness").await;
    assert_eq!(freshness["aggregates"][0]["dirty_days"], 2, "{freshness}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_days_to_compute_are_refused() {
    let bench = Mirrored::caught_up().await;
    bench.ask("insert into mirror.sentiment_social (id, platform, posted_at, _version) \
               select number, 'x', toDateTime64('2020-01-01 00:00:00', 6, 'UTC') + interval number day, 1 from numbers(101)").await;
    let api = Api::on(&bench).await;
    api.sees(1).await;
    let (status, problem) = api.get("/v1/stats/daily?from=2020-01-01&to=2021-01-01").await;
    assert_eq!((status, &problem["code"]), (422, &json!("result-too-large")), "{problem}");
    let (status, set) = api.get("/v1/stats/daily?from=2020-01-01&to=2020-04-10").await;
    assert_eq!((status, set["rows"].as_u64()), (200, Some(100)), "{set}");
    assert_eq!(api.get("/v1/stats/daily?from=1900-01-01&to=2019-12-31").await.0, 200, "empty days cost nothing");
}
