//! The pipeline's tables, requests, dead letters, runs, the lag and the event stream, on tables that the tests fill themselves.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Api, send, unique};
use platform::store::requests::{self, Kinds, Outcome};

/// Who may do what: reading needs `read`, asking needs `admin`.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_something_of_the_pipeline_needs_the_scope_admin() {
    let api = Api::start().await;
    let writer = api.new_key(&["read", "write"], "null").await;
    let writer = writer.expose();
    for (method, path, body) in [
        (Method::POST, "/v1/pipeline/tables/sentiment_social/resync", None),
        (Method::POST, "/v1/pipeline/connector/restart", None),
        (Method::GET, "/v1/dead-letters/YQ", None),
        (Method::POST, "/v1/dead-letters/YQ/retry", None),
        (Method::DELETE, "/v1/dead-letters/YQ", None),
        (Method::POST, "/v1/etl/runs", Some(json!({"date": "2014-01-01"}))),
        (Method::POST, "/v1/reconciliations", Some(json!({}))),
    ] {
        let mut request = api.http.request(method, format!("http://{}{path}", api.address)).bearer_auth(writer);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = send(request).await;
        assert_eq!((answer.status, answer.problem()), (403, "forbidden".to_owned()), "{path}");
        assert!(answer.body.contains("admin"), "{path}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_acted_upon() {
    let api = Api::start().await;
    let (table, pipeline) = (unique("letters"), api.settings.sink.pipeline.clone());
    let clickhouse = api.clickhouse().await;
    for number in 1..=3 {
        let sql = format!(
            "insert into platform.dead_letters (id, pipeline, table, key, version, reason, detail, message, state, changed_at, parked_at) \
             values ('cdc/{table}/{number}', '{pipeline}', '{table}', '[\"{number}\"]', {number}, 'not-representable', 'infinity', \
             '{{\"secret\": 1}}', 'parked', now64(6), toDateTime64('2024-01-0{number} 00:00:00', 6, 'UTC'))"
        );
        clickhouse.execute(&sql, &[]).await.expect("parked");
    }
    let first = api.get(&format!("/v1/dead-letters?table={table}&limit=2")).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert!(!first.body.contains("secret") && !first.body.contains("\"key\""), "a list shows neither keys nor values");
    let first = first.json();
    let cursor = first["next"].as_str().expect("another page");
    let second = api.get(&format!("/v1/dead-letters?table={table}&limit=2&cursor={cursor}")).await.json();
    assert_eq!((second["items"].as_array().map(Vec::len), &second["next"]), (Some(1), &Value::Null));
    let other = api.get(&format!("/v1/dead-letters?table=other&cursor={cursor}")).await;
    assert_eq!((other.status, other.problem()), (400, "invalid-cursor".to_owned()));
    assert_eq!(api.get(&format!("/v1/dead-letters?table={table}&state=dropped")).await.json()["items"], json!([]));

    let id = first["items"][0]["id"].as_str().expect("an id").to_owned();
    let letter = api.get(&format!("/v1/dead-letters/{id}")).await.json();
    assert_eq!((&letter["key"], &letter["message"]), (&json!(["1"]), &json!("{\"secret\": 1}")));
    assert_eq!(api.get("/v1/dead-letters/bm9uZQ").await.status, 404);

    let retried = send(api.request(Method::POST, &format!("/v1/dead-letters/{id}/retry"))).await;
    assert_eq!(retried.status, 202, "{retried:?}");
    let location = retried.header("location").expect("a place to look").to_owned();
    let shown = api.get(&location).await.json();
    assert_eq!((&shown["kind"], &shown["status"]), (&json!("replay"), &json!("waiting")));
    assert_eq!(shown["arguments"], json!({"letters": {"ids": [format!("cdc/{table}/1")]}}));

    // As the sink does it.
    let client = api.postgres().await;
    let request = requests::next(&client, &pipeline, Kinds::Sink).await.expect("read").expect("there");
    assert!(requests::begin(&client, request.id).await.expect("begun"));
    assert_eq!(api.get(&location).await.json()["status"], "begun");
    let outcome = Outcome::new("done", 0, "1 replayed").with("replayed", 1);
    requests::finish(&client, request.id, &outcome).await.expect("finished");
    let done = api.get(&location).await.json();
    assert_eq!(
        (&done["status"], &done["detail"], &done["result"]["replayed"]),
        (&json!("done"), &json!("1 replayed"), &json!(1))
    );
    assert_eq!(api.get("/v1/pipeline/requests/999999999").await.status, 404);
    assert_eq!(api.get("/v1/pipeline/requests/01").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_is_asked_once() {
    let api = Api::start().await;
    let key = unique("key");
    let ask = |body: Value| api.request(Method::POST, "/v1/etl/runs").header("Idempotency-Key", &key).json(&body);
    let first = send(ask(json!({"from": "2014-01-01", "to": "2014-01-07"}))).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = send(ask(json!({"from": "2014-01-01", "to": "2014-01-07"}))).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let other = send(ask(json!({"date": "2014-01-01"}))).await;
    assert_eq!((other.status, other.problem()), (422, "idempotency-key-reused".to_owned()));
    assert_eq!(
        first.json()["arguments"],
        json!({"from": "2014-01-01", "to": "2014-01-07", "aggregate": null, "force": false})
    );
    for (body, pointer) in [
        (json!({}), "/date"),
        (json!({"date": "2014-02-30"}), "/date"),
        (json!({"date": "2014-01-01", "to": "2014-01-02"}), "/date"),
        (json!({"from": "2014-01-02", "to": "2014-01-01"}), "/to"),
        (json!({"from": "2014-01-01", "to": "2019-01-01"}), "/to"),
    ] {
        let answer = send(api.request(Method::POST, "/v1/etl/runs").json(&body)).await;
        assert_eq!((answer.status, answer.json()["errors"][0]["pointer"].as_str()), (422, Some(pointer)), "{body}");
    }
    let unknown = send(api.request(Method::POST, "/v1/etl/runs").json(&json!({"day": "2014-01-01"}))).await;
    assert_eq!((unknown.status, unknown.problem()), (422, "invalid-body".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_runs_is_paged_and_says_no_database_text() {
    let api = Api::start().await;
    let clickhouse = api.clickhouse().await;
    let day = "1907-03-04";
    for (number, status) in [(1, "done"), (2, "failed"), (3, "unchanged")] {
        let sql = format!(
            "insert into platform.runs values (generateUUIDv4(), 'etl:sentiment_daily', '{day}', '{status}', 'PG says: relation x', '{{}}', \
             toUUID('00000000-0000-0000-0000-000000000000'), {number}, 0, 16, '2024-01-01 00:00:0{number}', '2024-01-01 00:01:00')"
        );
        clickhouse.execute(&sql, &[]).await.expect("stored");
    }
    let path = format!("/v1/etl/runs?date={day}");
    let first = api.get(&format!("{path}&limit=2")).await;
    assert!(!first.body.contains("relation"), "{first:?}");
    let first = first.json();
    let statuses = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().expect("items");
        items.iter().map(|run| run["status"].as_str().expect("a word").to_owned()).collect()
    };
    assert_eq!(statuses(&first), ["unchanged", "failed"]);
    assert_eq!((&first["items"][0]["build_id"], &first["items"][0]["as_of_lsn"]), (&Value::Null, &json!("0/10")));
    let cursor = first["next"].as_str().expect("another page");
    let second = api.get(&format!("{path}&limit=2&cursor={cursor}")).await.json();
    assert_eq!((statuses(&second), &second["next"]), (vec!["done".to_owned()], &Value::Null));
    assert_eq!(statuses(&api.get(&format!("{path}&status=failed")).await.json()), ["failed"]);
    let id = second["items"][0]["id"].as_str().expect("an id");
    assert_eq!(api.get(&format!("/v1/etl/runs/{id}")).await.json()["rows_in"], 1);
    assert_eq!(api.get(&format!("/v1/reconciliations/{id}")).await.status, 404);
    assert_eq!(api.get("/v1/etl/runs/nothing").await.status, 404);
    assert_eq!(api.get("/v1/etl/runs?date=today").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_shown_over_time() {
    let api = Api::start().await;
    let clickhouse = api.clickhouse().await;
    let sql = format!(
        "insert into platform.lag_history select '{}', now64(3) - number, 1000 + number, number, 10 from numbers(30)",
        api.settings.sink.pipeline
    );
    clickhouse.execute(&sql, &[]).await.expect("stored");
    for range in ["15m", "7d"] {
        let history = api.get(&format!("/v1/pipeline/lag?range={range}")).await.json();
        let points = history["points"].as_array().expect("points");
        let greatest = points.iter().filter_map(|point| point["lag_ms"].as_i64()).max();
        assert_eq!((greatest, &history["range"]), (Some(1029), &json!(range)), "{history}");
        assert!(points.len() <= 4, "{history}");
    }
    assert_eq!(api.get("/v1/pipeline/lag?range=1y").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_until_the_limit() {
    let api =
        Api::start_with(|settings| (settings.api.events_seconds_max, settings.api.event_streams_max) = (6, 1)).await;
    let clickhouse = api.clickhouse().await;
    let table = unique("events");
    let sql = format!(
        "insert into platform.tables (table, state, reason, load_version, snapshot_lsn, rows_loaded, changed_at, pipeline) \
         values ('{table}', 'live', 'load', 0, 0, 7, now64(6), '{}')",
        api.settings.sink.pipeline
    );
    clickhouse.execute(&sql, &[]).await.expect("stored");
    let ask = || api.request(Method::GET, "/v1/events").header("Accept", "text/event-stream");
    let (stream, second) = tokio::join!(send(ask()), async {
        // Once the first one is open.
        tokio::task::yield_now().await;
        send(ask()).await
    });
    let (stream, refused) = if stream.status == 200 { (stream, second) } else { (second, stream) };
    assert_eq!((refused.status, refused.problem()), (503, "overloaded".to_owned()));
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert!(stream.body.starts_with("retry: 2000\n\n"), "{stream:?}");
    assert!(
        stream.body.contains(&format!("event: table\ndata: {{\"table\":\"{table}\",\"state\":\"live\"")),
        "{stream:?}"
    );
}
