//! Read your writes: tokens, waits, barriers, and what is said when the mirror is not there yet.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use platform::domain::{Lsn, Token};
use platform::store::checkpoint::{self, Checkpoint};
use reqwest::Method;
use tokio_postgres::Client;

use super::{Answer, Api, send, small_post, unique};
use crate::support::wait::wait_until;

const SUMMARY: &str = "/v1/analytics/summary?from=1901-01-01&to=1901-01-02";

/// What the sink would write: everything below `watermark` is applied.
pub(super) async fn advance(api: &Api, batch: u64, log: u16, watermark: Lsn) -> DateTime<Utc> {
    let committed_at = DateTime::from_timestamp_micros(Utc::now().timestamp_micros() - 1_500_000).expect("a time");
    let checkpoint = Checkpoint {
        term: 1,
        batch,
        log,
        topic: "platform.cdc".into(),
        next_offset: 7,
        watermark,
        record_hash: String::new(),
        heartbeat: -1,
        committed_at,
    };
    checkpoint::store(&api.clickhouse().await, &api.settings.sink.pipeline, &checkpoint).await.expect("stored");
    committed_at
}

/// An API whose pipeline has a slot and somebody who holds the sink's lease, for as long as the client lives.
pub(super) async fn with_pipeline() -> (Api, Client) {
    let api = Api::start_with(|settings| settings.sink.pipeline = unique("tokens").replace('-', "_")).await;
    let sink = stand_in(&api).await;
    (api, sink)
}

pub(super) async fn stand_in(api: &Api) -> Client {
    let client = api.postgres().await;
    let pipeline = &api.settings.sink.pipeline;
    let sql = "select pg_advisory_lock(hashtextextended('platform.sink.' || $1, 0))";
    client.execute(sql, &[pipeline]).await.expect("locked");
    let slot = "select pg_create_logical_replication_slot($1, 'pgoutput', true)";
    client.execute(slot, &[pipeline]).await.expect("a slot");
    client
}

pub(super) async fn write(api: &Api) -> Token {
    let answer = api.post(&small_post(&unique("token"), "1", "1901-01-01")).await;
    answer.header("x-consistency-token").expect("a token").parse().expect("a token")
}

pub(super) async fn summary(api: &Api, token: &str, prefer: Option<&str>) -> Answer {
    let mut request = api.request(Method::GET, SUMMARY).header("x-consistency-token", token);
    if let Some(prefer) = prefer {
        request = request.header("prefer", prefer);
    }
    send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_how_fresh_it_is() {
    let api = Api::start().await;
    let committed_at = advance(&api, 1, 1, Lsn::new(0x1_0000_00ff)).await;
    wait_until("the checkpoint is seen", Duration::from_secs(10), || async {
        api.get(SUMMARY).await.header("x-data-as-of-lsn") == Some("1/FF")
    })
    .await;
    let answer = api.get(SUMMARY).await;
    let as_of = DateTime::parse_from_rfc3339(answer.header("x-data-as-of").expect("as of")).expect("a time");
    assert_eq!(as_of, committed_at);
    let lag: i64 = answer.header("x-replication-lag-ms").expect("a lag").parse().expect("a number");
    assert!((1500..60_000).contains(&lag), "{lag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_satisfied_refused_or_waited_for() {
    let (api, _sink) = with_pipeline().await;
    let early = write(&api).await;
    let before = summary(&api, &early.to_string(), None).await;
    assert_eq!((before.status, before.problem().as_str()), (503, "replica-behind"), "nothing is loaded yet");
    let late = write(&api).await;
    assert!(early.lsn < late.lsn && early.log == 1);

    advance(&api, 1, 1, early.lsn).await;
    let answer = summary(&api, &early.to_string(), None).await;
    assert_eq!(answer.status, 200, "the watermark is where the token is: {answer:?}");
    assert_eq!(answer.header("preference-applied"), None);

    let began = Instant::now();
    let behind = summary(&api, &late.to_string(), None).await;
    assert_eq!((behind.status, behind.problem().as_str()), (503, "replica-behind"));
    assert_eq!(behind.header("retry-after"), Some("1"));
    assert!(began.elapsed() < Duration::from_secs(2), "without Prefer nobody waits");

    let began = Instant::now();
    let behind = summary(&api, &late.to_string(), Some("wait=1")).await;
    assert_eq!((behind.status, behind.problem().as_str()), (503, "replica-behind"));
    assert!((1..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let token = late.to_string();
    let mut waiting = Box::pin(summary(&api, &token, Some("wait=25")));
    let early_answer = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early_answer.is_err(), "it answered before the mirror came: {early_answer:?}");
    advance(&api, 2, 1, Lsn::new(late.lsn.get() + 8)).await;
    let waited = waiting.await;
    assert_eq!((waited.status, waited.header("preference-applied")), (200, Some("wait=25")), "{waited:?}");
    assert_eq!(waited.header("x-data-as-of-lsn"), Some(Lsn::new(late.lsn.get() + 8).to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_cannot_be_are_refused() {
    let (api, _sink) = with_pipeline().await;
    let token = write(&api).await;
    advance(&api, 1, 1, Lsn::new(1)).await;
    for text in ["", "v1", "v1.1", "v2.1.1", "v1.1.XYZ", "v1.1.01", "v1.1.1.1", "v1.70000.1", "16/B374D848"] {
        let answer = summary(&api, text, Some("wait=5")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-consistency-token"), "{text}");
    }
    let twice = api.request(Method::GET, SUMMARY).header("x-consistency-token", token.to_string());
    let twice = send(twice.header("x-consistency-token", token.to_string())).await;
    assert_eq!((twice.status, twice.problem().as_str()), (400, "invalid-consistency-token"));
    let future = Token { lsn: Lsn::new(token.lsn.get() + (1 << 40)), ..token };
    for prefer in [None, Some("wait=5")] {
        let answer = summary(&api, &future.to_string(), prefer).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-consistency-token"), "{prefer:?}");
    }
    let other = summary(&api, &Token { log: 2, ..token }.to_string(), None).await;
    assert_eq!((other.status, other.problem().as_str()), (409, "other-log"));
    advance(&api, 2, 3, Lsn::new(u64::MAX >> 8)).await;
    let other = summary(&api, &token.to_string(), Some("wait=5")).await;
    assert_eq!(
        (other.status, other.problem().as_str()),
        (409, "other-log"),
        "a position of another log proves nothing"
    );
    let statistics = api.request(Method::GET, "/v1/stats/daily?from=2014-01-01&to=2014-01-02&freshness=precomputed");
    let answer = send(statistics.header("x-consistency-token", token.to_string())).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "consistency-not-supported"));
}

/// The stream may be idle: whoever waits writes a message into the log, but many who wait write one.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_move_an_idle_stream_once() {
    let (api, _sink) = with_pipeline().await;
    let postgres = api.postgres().await;
    let slot = unique("barriers").replace('-', "_");
    postgres
        .execute("select pg_create_logical_replication_slot($1, 'pgoutput', true)", &[&slot])
        .await
        .expect("a slot");
    let token = write(&api).await.to_string();
    advance(&api, 1, 1, Lsn::new(1)).await;
    // The barriers of this pipeline that were written since the last call.
    let barriers = async || {
        let sql = "select data from pg_logical_slot_get_binary_changes($1, null, null, \
                   'proto_version', '1', 'publication_names', 'platform', 'messages', 'true')";
        let rows = postgres.query(sql, &[&slot]).await.expect("changes");
        let wanted = "platform.barrier\0";
        let ours = |data: &[u8]| {
            let contains = |text: &str| data.windows(text.len()).any(|part| part == text.as_bytes());
            // 'M' is a logical message.
            data.first() == Some(&b'M') && contains(wanted) && contains(&api.settings.sink.pipeline)
        };
        rows.iter().filter(|row| ours(row.get(0))).count()
    };
    assert_eq!(summary(&api, &token, None).await.status, 503);
    assert_eq!(barriers().await, 0, "who does not wait writes nothing");
    assert_eq!(summary(&api, &token, Some("wait=1")).await.status, 503);
    assert_eq!(barriers().await, 1);
    let waits = (0..5).map(|_| summary(&api, &token, Some("wait=1")));
    for answer in futures_util::future::join_all(waits).await {
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(barriers().await, 0, "the first barrier serves all tokens below it");
    let later = write(&api).await.to_string();
    assert_eq!(summary(&api, &later, Some("wait=1")).await.status, 503);
    assert_eq!(barriers().await, 1);
    postgres.execute("select pg_drop_replication_slot($1)", &[&slot]).await.expect("dropped");
    let metrics = api.get("/metrics").await.body;
    assert!(metrics.contains("platform_api_barriers_total"), "counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_answer_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let tables =
        [unique("loading"), unique("halted"), unique("behind"), unique("live")].map(|name| name.replace('-', "_"));
    for table in &tables {
        let sql = format!("-- summary: x\n-- table: {table}\nselect 1 as one");
        std::fs::write(folder.path().join(format!("{}.sql", table.replace('_', "-"))), sql).expect("written");
    }
    let api = Api::start_with(|settings| settings.api.endpoints_dir = folder.path().display().to_string()).await;
    let clickhouse = api.clickhouse().await;
    advance(&api, 1, 1, Lsn::new(1000)).await;
    for (table, state, snapshot) in [
        (&tables[0], "loading", "0"),
        (&tables[1], "halted", "0"),
        (&tables[2], "live", "1001"),
        (&tables[3], "live", "1000"),
    ] {
        let sql = "insert into platform.tables (table, state, reason, snapshot_lsn, changed_at) \
                   select {table:String}, {state:String}, 'because of a test', {snapshot:UInt64}, now64(6)";
        clickhouse.execute(sql, &[("table", table), ("state", state), ("snapshot", snapshot)]).await.expect("stored");
    }
    let parked = "insert into platform.dead_letters (id, table, state, changed_at) \
                  select concat({table:String}, number), {table:String}, if(number = 2, 'replayed', 'parked'), now64(6) from numbers(3)";
    clickhouse.execute(parked, &[("table", &tables[3])]).await.expect("stored");
    let path = |number: usize| format!("/v1/analytics/{}", tables[number].replace('_', "-"));
    wait_until("the checkpoint is seen", Duration::from_secs(10), || async {
        let answer = api.get(&path(3)).await;
        answer.status == 200 && answer.header("x-data-parked-rows").is_some()
    })
    .await;
    assert_eq!(api.get(&path(3)).await.header("x-data-parked-rows"), Some("2"));
    let behind = api.get(&path(2)).await;
    assert_eq!((behind.status, behind.problem().as_str()), (503, "table-unavailable"), "its load is not complete yet");
    for (number, state) in [(0, "loading"), (1, "halted")] {
        wait_until(state, Duration::from_secs(10), || async { api.get(&path(number)).await.status == 503 }).await;
        let answer = api.get(&path(number)).await;
        assert_eq!(answer.problem(), "table-unavailable");
        let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(state) && detail.contains("because of a test"), "{detail}");
    }
    let pipeline = api.get("/v1/pipeline").await.json();
    let states = pipeline["tables"].as_array().expect("tables");
    let halted = states.iter().find(|table| table["table"] == tables[1].as_str()).expect("there");
    assert_eq!((&halted["state"], &halted["reason"]), (&"halted".into(), &"because of a test".into()));
    let live = states.iter().find(|table| table["table"] == tables[3].as_str()).expect("there");
    assert_eq!(live["parked_rows"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pipeline_shows_its_checkpoint() {
    let api = Api::start().await;
    let before = api.get("/v1/pipeline").await.json();
    assert_eq!((&before["checkpoint"], &before["connector"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    let committed_at = advance(&api, 3, 2, Lsn::new(0x1_0000_0001)).await;
    wait_until("the checkpoint is seen", Duration::from_secs(10), || async {
        !api.get("/v1/pipeline").await.json()["checkpoint"].is_null()
    })
    .await;
    let pipeline = api.get("/v1/pipeline").await.json();
    assert_eq!((&pipeline["pipeline"], &pipeline["log"]), (&api.settings.sink.pipeline.as_str().into(), &2.into()));
    let checkpoint = &pipeline["checkpoint"];
    assert_eq!(
        (&checkpoint["watermark_lsn"], &checkpoint["batch"], &checkpoint["next_offset"]),
        (&"1/1".into(), &3.into(), &7.into())
    );
    let as_of = DateTime::parse_from_rfc3339(checkpoint["as_of"].as_str().expect("a text")).expect("a time");
    assert_eq!(as_of, committed_at);
}
