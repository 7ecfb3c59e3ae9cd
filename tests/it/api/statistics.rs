//! `/v1/stats/daily`: the rows of the aggregate and what is known about their builds.

use serde_json::{Value, json};

use super::{Api, daily};

#[tokio::test(flavor = "multi_thread")]
async fn daily_statistics_come_with_their_builds() {
    let api = Api::start().await;
    let clickhouse = api.clickhouse().await;
    let (first, second) = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222");
    let rows = format!(
        "insert into {} values \
         ('2051-01-01', 'twitter', 'x', 'en', 'positive', 3, 2, 0.25, -0.5, 1, 0.25, 10, 20, 30, '{first}'), \
         ('2051-01-01', 'twitter', null, null, 'negative', 1, 0, null, null, null, null, 0, 0, 0, '{first}'), \
         ('2051-01-02', 'amazon', 'x', 'de', 'neutral', 5, 4, 0, 0, 0, 0, 1, 2, 3, '{second}')",
        daily().result_table()
    );
    clickhouse.execute(&rows, &[]).await.expect("inserted");
    let key = daily().key();
    let builds = format!(
        "insert into platform.builds values \
         ('{key}', '2051-01-01', '{first}', 7, 4294967297, 'f', 4, 2, '2051-02-01 00:00:00.5'), \
         ('{key}', '2051-01-02', '{second}', 8, 4294967298, 'f', 5, 1, '2051-02-02 00:00:00'), \
         ('other', '2051-01-01', '{second}', 8, 1, 'f', 5, 1, '2051-02-02 00:00:00')"
    );
    clickhouse.execute(&builds, &[]).await.expect("inserted");

    let answer = api.get("/v1/stats/daily?from=2051-01-01&to=2051-01-03").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let set = answer.json();
    assert_eq!(set["rows"], 3);
    assert_ne!(set["statistics"], Value::Null);
    let row = &set["data"]
        .as_array()
        .expect("rows")
        .iter()
        .find(|row| row["sentiment_label"] == "positive")
        .expect("there")
        .clone();
    assert_eq!((&row["day"], &row["posts"], &row["authors"]), (&json!("2051-01-01"), &json!(3), &json!(2)));
    assert_eq!((&row["mean_score"], &row["min_score"], &row["likes"]), (&json!("0.25"), &json!("-0.5"), &json!(10)));
    let day = |day: &str, build: &str, lsn: &str, at: &str, rows: [u64; 2]| {
        json!({"day": day, "source": "build", "dirty": false, "as_of_lsn": lsn, "build_id": build, "built_at": at,
               "rows_in": rows[0], "rows_out": rows[1]})
    };
    assert_eq!(
        set["days"],
        json!([
            day("2051-01-01", first, "1/1", "2051-02-01T00:00:00.500Z", [4, 2]),
            day("2051-01-02", second, "1/2", "2051-02-02T00:00:00Z", [5, 1]),
        ])
    );
    let built = api.get("/v1/stats/daily?from=2051-01-01&to=2051-01-03&freshness=precomputed").await;
    assert_eq!((&built.json()["data"], &built.json()["days"]), (&set["data"], &set["days"]));
    assert_eq!(
        (built.header("x-data-as-of-lsn"), built.header("x-data-as-of")),
        (Some("1/1"), Some("2051-02-01T00:00:00.500Z"))
    );

    for (filter, posts) in [
        ("to=2051-01-02", vec![1, 3]),
        ("to=2051-01-03&platform=amazon", vec![5]),
        ("to=2051-01-03&topic=x", vec![3, 5]),
        ("to=2051-01-03&lang=en", vec![3]),
        ("to=2051-01-03&label=neutral", vec![5]),
        ("to=2051-01-03&label=mixed", vec![]),
    ] {
        let set = api.get(&format!("/v1/stats/daily?from=2051-01-01&{filter}")).await.json();
        let mut found: Vec<u64> =
            set["data"].as_array().expect("rows").iter().map(|row| row["posts"].as_u64().expect("a number")).collect();
        found.sort_unstable();
        assert_eq!(found, posts, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_without_days_has_columns_and_no_rows() {
    let api = Api::start().await;
    let nothing = api.get("/v1/stats/daily?from=2052-01-01&to=2052-01-02").await;
    assert_eq!((&nothing.json()["data"], &nothing.json()["days"]), (&json!([]), &json!([])));
    assert_eq!(nothing.header("x-data-as-of"), None);
    assert_eq!(
        api.get("/v1/stats/daily?from=2051-01-01&to=2051-01-02&freshness=live").await.problem(),
        "invalid-parameters"
    );
    let csv = api.get("/v1/stats/daily?from=2052-01-01&to=2052-01-02&format=csv").await;
    assert_eq!((csv.header("content-type"), csv.body.lines().count()), (Some("text/csv"), 1), "{csv:?}");
    assert_eq!(nothing.json()["meta"][0], json!({"name": "day", "type": "Date32"}));
}
