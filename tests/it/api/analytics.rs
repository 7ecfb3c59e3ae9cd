//! The shipped analytics endpoints against the same numbers computed here.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{Answer, Api, send};

/// What the endpoints look at.
struct Row {
    platform: &'static str,
    author: Option<&'static str>,
    topic: Option<&'static str>,
    lang: Option<&'static str>,
    hashtags: Vec<&'static str>,
    label: &'static str,
    score: Option<Decimal>,
    likes: i64,
    shares: i64,
    at: DateTime<Utc>,
}

/// Reproducible rows over three days from `first`, with NULLs, and the moments at the ends of the span.
fn rows(seed: u64, first: &str, count: usize) -> Vec<Row> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let start: DateTime<Utc> = format!("{first}T00:00:00Z").parse().expect("a time");
    let mut rows: Vec<Row> = (0..count)
        .map(|_| {
            let mut pick = |words: &[Option<&'static str>]| words[random.random_range(0..words.len())];
            let platform = pick(&[Some("twitter"), Some("amazon"), Some("nytimes")]).expect("some");
            let (author, topic) =
                (pick(&[None, Some("ann"), Some("bob"), Some("O'Brien")]), pick(&[None, Some("x"), Some("y")]));
            let (lang, label) =
                (pick(&[None, Some("en"), Some("de")]), pick(&[Some("positive"), Some("negative"), Some("neutral")]));
            let tag = pick(&[None, Some("a"), Some("b")]);
            Row {
                platform,
                author,
                topic,
                lang,
                // Twice the same hashtag counts once.
                hashtags: tag.map_or_else(Vec::new, |tag| vec![tag, tag, "all"]),
                label: label.expect("some"),
                score: (random.random_range(0..5) > 0).then(|| Decimal::new(random.random_range(-1000..=1000), 3)),
                likes: random.random_range(0..100),
                shares: random.random_range(0..10),
                at: start + Duration::microseconds(random.random_range(0..2 * 86_400_000_000_i64)),
            }
        })
        .collect();
    rows[0].at = start;
    rows[1].at = start + Duration::days(2) - Duration::microseconds(1);
    rows
}

async fn insert(api: &Api, rows: &[Row]) {
    let quoted = |text: Option<&str>| text.map_or("null".to_owned(), |text| format!("'{}'", text.replace('\'', "\\'")));
    let values = rows.iter().enumerate().map(|(id, row)| {
        let tags: Vec<String> = row.hashtags.iter().map(|tag| quoted(Some(tag))).collect();
        let score = row.score.map_or("null".to_owned(), |score| score.to_string());
        let at = row.at.format("%Y-%m-%d %H:%M:%S%.6f");
        format!(
            "({id}, '{}', '{id}', {}, '', {}, {}, [{}], '{}', {score}, null, {}, 1, {}, null, null, '{at}', '{at}', '{at}', 1)",
            row.platform, quoted(row.author), quoted(row.lang), quoted(row.topic), tags.join(","), row.label, row.likes, row.shares
        )
    });
    let sql = format!("insert into analytics.sentiment_social values {}", values.collect::<Vec<_>>().join(", "));
    api.clickhouse().await.execute(&sql, &[]).await.expect("inserted");
}

/// Mean to six decimals, as the endpoints round it.
fn mean<'a>(rows: impl IntoIterator<Item = &'a &'a Row>) -> Option<f64> {
    let scores: Vec<Decimal> = rows.into_iter().filter_map(|row| row.score).collect();
    let sum: f64 = scores.iter().sum::<Decimal>().to_string().parse().expect("a number");
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    (!scores.is_empty()).then(|| sum / scores.len() as f64)
}

fn close(value: &Value, expected: Option<f64>) -> bool {
    match (value.as_f64(), expected) {
        (Some(value), Some(expected)) => (value - expected).abs() < 1e-6,
        (None, None) => value.is_null(),
        _ => false,
    }
}

#[track_caller]
fn data(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let set = answer.json();
    let data = set["data"].as_array().expect("rows").clone();
    assert_eq!(set["rows"], data.len());
    assert!(set["statistics"]["elapsed_ms"].as_f64().is_some_and(|elapsed| elapsed > 0.0), "{answer:?}");
    let columns: Vec<&str> = set["meta"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| column["name"].as_str().expect("a name"))
        .collect();
    assert!(data.iter().all(|row| row.as_object().expect("an object").len() == columns.len()), "{answer:?}");
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_counts_by_label_and_by_platform() {
    let api = Api::start().await;
    let rows = rows(1, "2041-03-01", 400);
    insert(&api, &rows).await;
    for (filter, keep) in [
        ("", Box::new(|_: &Row| true) as Box<dyn Fn(&Row) -> bool>),
        ("&platform=twitter", Box::new(|row| row.platform == "twitter")),
        ("&topic=x&lang=de", Box::new(|row| row.topic == Some("x") && row.lang == Some("de"))),
        ("&label=negative", Box::new(|row| row.label == "negative")),
    ] {
        let answer = api.get(&format!("/v1/analytics/summary?from=2041-03-01&to=2041-03-03{filter}")).await;
        let kept: Vec<&Row> = rows.iter().filter(|row| keep(row)).collect();
        assert!(!kept.is_empty());
        let mut expected: BTreeMap<[String; 3], Vec<&Row>> = BTreeMap::new();
        for row in &kept {
            let (platform, label) = (format!("{:?}", row.platform), format!("{:?}", row.label));
            for key in [
                ["total", "null", "null"],
                ["label", "null", &label],
                ["platform", &platform, "null"],
                ["platform_label", &platform, &label],
            ] {
                expected.entry(key.map(str::to_owned)).or_default().push(row);
            }
        }
        let found = data(&answer);
        assert_eq!(found.len(), expected.len(), "{filter}");
        for row in &found {
            let key = [
                row["dimension"].as_str().expect("a text").to_owned(),
                row["platform"].to_string(),
                row["sentiment_label"].to_string(),
            ];
            let group = expected.get(&key).unwrap_or_else(|| panic!("{filter}: {row}"));
            assert_eq!(row["posts"], group.len(), "{filter}: {row}");
            assert_eq!(row["scored"], group.iter().filter(|row| row.score.is_some()).count(), "{filter}: {row}");
            assert_eq!(row["likes"], group.iter().map(|row| row.likes).sum::<i64>(), "{filter}: {row}");
            assert_eq!(row["shares"], group.iter().map(|row| row.shares).sum::<i64>(), "{filter}: {row}");
            assert!(close(&row["mean_score"], mean(group)), "{filter}: {row} {:?}", mean(group));
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let share = group.len() as f64 / kept.len() as f64;
            assert!(close(&row["share"], Some(share)), "{filter}: {row}");
        }
        assert_eq!(found[0]["dimension"], "total");
    }
}

/// Times with offsets, ends of spans: `[from, to)` in UTC, to the microsecond.
#[tokio::test(flavor = "multi_thread")]
async fn spans_are_half_open_and_in_utc() {
    let api = Api::start().await;
    let rows = rows(2, "2042-03-01", 50);
    insert(&api, &rows).await;
    for (from, to) in [
        ("2042-03-01", "2042-03-03"),
        ("2042-03-01T00:00:00.000001Z", "2042-03-03"),
        ("2042-03-01", "2042-03-02T23:59:59.999999Z"),
        ("2042-03-01T02:00:00%2B02:00", "2042-03-02T22:30:00-05:30"),
    ] {
        let moment = |text: &str| -> DateTime<Utc> {
            let text = text.replace("%2B", "+");
            if text.len() == 10 {
                format!("{text}T00:00:00Z").parse().expect("a time")
            } else {
                text.parse().expect("a time")
            }
        };
        let expected = rows.iter().filter(|row| row.at >= moment(from) && row.at < moment(to)).count();
        let found = data(&api.get(&format!("/v1/analytics/summary?from={from}&to={to}")).await);
        assert_eq!(found[0]["posts"], expected, "{from} {to}");
    }
    let empty = data(&api.get("/v1/analytics/summary?from=2042-01-01&to=2042-01-02").await);
    assert_eq!(empty.len(), 1, "nothing is a total of nothing: {empty:?}");
    assert_eq!(
        (&empty[0]["dimension"], &empty[0]["posts"], &empty[0]["share"], &empty[0]["mean_score"]),
        (&json!("total"), &json!(0), &json!(0), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn timeseries_have_no_gaps() {
    let api = Api::start().await;
    let rows = rows(3, "2043-03-01", 60);
    insert(&api, &rows).await;
    for (interval, seconds, from, to, filter) in [
        ("day", 86_400, "2043-02-27T12:00:00Z", "2043-03-05T00:00:00Z", ""),
        ("hour", 3_600, "2043-03-01T00:30:00Z", "2043-03-03T00:00:00Z", ""),
        ("hour", 3_600, "2043-03-01T00:00:00Z", "2043-03-02T00:00:00.000001Z", "&platform=amazon&label=positive"),
        ("minute", 60, "2043-03-01T00:00:00Z", "2043-03-02T00:00:00Z", "&lang=en&topic=y"),
    ] {
        let answer =
            api.get(&format!("/v1/analytics/timeseries?from={from}&to={to}&interval={interval}{filter}")).await;
        let (first, end): (DateTime<Utc>, DateTime<Utc>) = (from.parse().expect("a time"), to.parse().expect("a time"));
        let keep = |row: &&Row| {
            let amazon = row.platform == "amazon" && row.label == "positive";
            let english = row.lang == Some("en") && row.topic == Some("y");
            row.at >= first
                && row.at < end
                && (!filter.contains("amazon") || amazon)
                && (!filter.contains("lang") || english)
        };
        let kept: Vec<&Row> = rows.iter().filter(keep).collect();
        let mut time = DateTime::from_timestamp(first.timestamp() / seconds * seconds, 0).expect("a time");
        let found = data(&answer);
        for row in &found {
            let next = time + Duration::seconds(seconds);
            let group: Vec<&Row> = kept.iter().filter(|row| row.at >= time && row.at < next).copied().collect();
            assert_eq!(row["time"], time.to_rfc3339_opts(SecondsFormat::Secs, true), "{interval}{filter}");
            assert_eq!(row["posts"], group.len(), "{interval}{filter}: {row}");
            for label in ["positive", "neutral", "negative", "mixed"] {
                assert_eq!(
                    row[label],
                    group.iter().filter(|row| row.label == label).count(),
                    "{interval}{filter}: {row}"
                );
            }
            assert!(close(&row["mean_score"], mean(&group)), "{interval}{filter}: {row}");
            time = next;
        }
        assert!(time >= end && time - Duration::seconds(seconds) < end, "{interval}{filter} ends at {time}");
    }
    let default = data(&api.get("/v1/analytics/timeseries?from=2043-03-01&to=2043-03-02").await);
    assert_eq!(default.len(), 24, "hours without `interval`");
}

#[tokio::test(flavor = "multi_thread")]
async fn top_orders_topics_authors_and_hashtags() {
    let api = Api::start().await;
    let rows = rows(4, "2044-03-01", 300);
    insert(&api, &rows).await;
    for (by, metric, limit) in [
        ("topics", "posts", 10),
        ("authors", "likes", 10),
        ("authors", "shares", 2),
        ("hashtags", "replies", 10),
        ("hashtags", "posts", 1),
    ] {
        let mut groups: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            let mut names = match by {
                "topics" => row.topic.into_iter().collect(),
                "authors" => row.author.into_iter().collect(),
                _ => row.hashtags.clone(),
            };
            names.dedup();
            for name in names {
                groups.entry(name).or_default().push(row);
            }
        }
        let value = |group: &[&Row]| match metric {
            "likes" => group.iter().map(|row| row.likes).sum::<i64>(),
            "shares" => group.iter().map(|row| row.shares).sum(),
            _ => i64::try_from(group.len()).expect("small"),
        };
        let mut expected: Vec<(&str, Vec<&Row>)> = groups.into_iter().collect();
        expected.sort_by(|a, b| value(&b.1).cmp(&value(&a.1)).then(a.0.cmp(b.0)));
        expected.truncate(limit);
        let path = format!("/v1/analytics/top?from=2044-03-01&to=2044-03-03&by={by}&metric={metric}&limit={limit}");
        let found = data(&api.get(&path).await);
        assert_eq!(found.len(), expected.len(), "{path}");
        for (row, (name, group)) in found.iter().zip(&expected) {
            assert_eq!((&row["name"], &row["posts"]), (&json!(name), &json!(group.len())), "{path}");
            assert!(close(&row["mean_score"], mean(group)), "{path}: {row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_json_ndjson_and_csv() {
    let api = Api::start().await;
    let rows = rows(5, "2045-03-01", 10);
    insert(&api, &rows).await;
    let path = "/v1/analytics/timeseries?from=2045-03-01&to=2045-03-03&interval=day";
    let ask = |suffix: &str, accept: Option<&'static str>| {
        let mut request = api.request(Method::GET, &format!("{path}{suffix}"));
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        send(request)
    };
    let json_rows = data(&ask("", None).await);
    for (suffix, accept) in
        [("&format=ndjson", None), ("", Some("application/x-ndjson")), ("&format=ndjson", Some("application/json"))]
    {
        let answer = ask(suffix, accept).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
        let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines, json_rows);
    }
    for (suffix, accept) in [("&format=csv", None), ("", Some("text/csv, application/json;q=0.5"))] {
        let answer = ask(suffix, accept).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/csv")));
        assert!(answer.body.starts_with("\"time\",\"group\",\"posts\""), "{answer:?}");
        assert_eq!(answer.body.lines().count(), 3);
        assert!(answer.body.contains("2045-03-01T00:00:00Z"), "{answer:?}");
    }
    let answer = ask("", Some("image/png")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (406, "not-acceptable"));
    let unknown = api.get("/v1/analytics/nothing").await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "not-found"));
    assert!(unknown.json()["detail"].as_str().expect("a detail").contains("distribution, summary, timeseries, top"));
}

#[tokio::test(flavor = "multi_thread")]
async fn distributions_count_labels_and_parts_of_the_scores() {
    let api = Api::start().await;
    let rows = rows(6, "2046-03-01", 300);
    insert(&api, &rows).await;
    let span = "from=2046-03-01&to=2046-03-03";
    let labels = data(&api.get(&format!("/v1/analytics/distribution?{span}")).await);
    for (row, label) in labels.iter().zip(["positive", "neutral", "negative", "mixed"]) {
        let posts = rows.iter().filter(|row| row.label == label).count();
        assert_eq!(
            (&row["sentiment_label"], &row["posts"], &row["lower"]),
            (&json!(label), &json!(posts), &Value::Null)
        );
    }
    assert_eq!(labels.len(), 4, "those without posts too");
    for bins in [1, 3, 4, 200] {
        let parts =
            data(&api.get(&format!("/v1/analytics/distribution?{span}&of=scores&bins={bins}&platform=twitter")).await);
        assert_eq!(parts.len(), bins);
        let scored = || rows.iter().filter(|row| row.platform == "twitter").filter_map(|row| row.score);
        for (number, part) in parts.iter().enumerate() {
            // In thirds of thousandths nothing is rounded: -1 is part 0, and 1 belongs to the last part.
            let part_of = |score: Decimal| {
                let thousandths = (score * Decimal::from(1000)).round() + Decimal::from(1000);
                let part = (thousandths * Decimal::from(bins) / Decimal::from(2000)).floor();
                part.min(Decimal::from(bins - 1))
            };
            let posts = scored().filter(|score| part_of(*score) == Decimal::from(number)).count();
            assert_eq!(part["posts"], posts, "part {number} of {bins}: {part}");
            assert_eq!(part["sentiment_label"], Value::Null);
        }
        let total: u64 = parts.iter().map(|part| part["posts"].as_u64().expect("a number")).sum();
        assert_eq!(usize::try_from(total).expect("small"), scored().count());
        assert_eq!((&parts[0]["lower"], &parts[bins - 1]["upper"]), (&json!(-1), &json!(1)));
    }
    let nothing = data(&api.get("/v1/analytics/distribution?from=1903-01-01&to=1903-01-02").await);
    assert!(nothing.iter().all(|row| row["posts"] == 0 && row["share"] == 0), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn timeseries_tell_groups_apart_and_fill_gaps_as_asked() {
    let api = Api::start().await;
    let rows = rows(7, "2047-03-01", 60);
    insert(&api, &rows).await;
    let path = "/v1/analytics/timeseries?from=2047-03-01&to=2047-03-03&interval=hour";
    for (group_by, of) in [
        ("platform", Box::new(|row: &Row| Some(row.platform)) as Box<dyn Fn(&Row) -> Option<&'static str>>),
        ("topic", Box::new(|row| row.topic)),
        ("lang", Box::new(|row| row.lang)),
        ("label", Box::new(|row| Some(row.label))),
    ] {
        let found = data(&api.get(&format!("{path}&group_by={group_by}&fill=null")).await);
        let groups: std::collections::BTreeSet<Option<&str>> = rows.iter().map(&of).collect();
        assert_eq!(found.len(), 48 * groups.len(), "{group_by}: every hour of every group");
        for row in &found {
            let group = row["group"].as_str();
            let hour: DateTime<Utc> = row["time"].as_str().expect("a time").parse().expect("a time");
            let inside = |at: DateTime<Utc>| hour <= at && at < hour + Duration::hours(1);
            let kept: Vec<&Row> = rows.iter().filter(|row| of(row) == group && inside(row.at)).collect();
            if kept.is_empty() {
                assert_eq!(
                    (&row["posts"], &row["positive"], &row["mean_score"]),
                    (&Value::Null, &Value::Null, &Value::Null)
                );
            } else {
                let positive = kept.iter().filter(|row| row.label == "positive").count();
                assert_eq!((&row["posts"], &row["positive"]), (&json!(kept.len()), &json!(positive)), "{row}");
                assert!(close(&row["mean_score"], mean(&kept)), "{row}");
            }
        }
    }
    let zeros = data(&api.get(&format!("{path}&topic=none-has-it")).await);
    assert_eq!(zeros.len(), 48);
    assert!(zeros.iter().all(|row| row["posts"] == 0 && row["mixed"] == 0 && row["group"].is_null()), "{zeros:?}");
}
