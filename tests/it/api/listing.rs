//! Lists: filters, order, and pages that stay right while posts come and go.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Api, send, small_post, unique};

fn ids(page: &Value) -> Vec<i64> {
    page["items"].as_array().expect("items").iter().map(|post| post["id"].as_i64().expect("an id")).collect()
}

/// The address that a `Link` header gives to a relation.
pub(super) fn linked(header: &str, rel: &str) -> Option<String> {
    let of_rel = |link: &str| link.strip_suffix(&format!("; rel=\"{rel}\"")).map(str::to_owned);
    let address = header.split(", ").find_map(of_rel)?;
    Some(address.trim_start_matches('<').trim_end_matches('>').to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_narrows_the_list() {
    let api = Api::start().await;
    let name = unique("filters");
    let mut all = Vec::new();
    for number in 0..8 {
        let mut post = small_post(&name, &number.to_string(), &format!("2020-01-0{}T00:00:00Z", number + 1));
        post["author"] = json!(["ann", "bob"][number % 2]);
        post["topic"] = json!(["x", "y"][number / 2 % 2]);
        post["lang"] = json!(["en", "de"][number / 4]);
        post["sentiment_label"] = json!(["positive", "negative", "neutral", "mixed"][number % 4]);
        post["hashtags"] = json!([format!("tag{}", number % 3), "all,\"of\" them"]);
        post["content"] = json!(format!("Line {number}: 100% of_{}\\", ["ÄPFEL", "Birnen"][number % 2]));
        all.push(api.create(&post).await);
    }
    let newest_first: Vec<i64> = all.iter().rev().copied().collect();
    let pick = |numbers: &[usize]| numbers.iter().map(|number| all[*number]).collect::<Vec<_>>();
    for (filter, expected) in [
        ("", newest_first.clone()),
        ("&sort=newest", newest_first.clone()),
        ("&sort=oldest", all.clone()),
        ("&author=ann", pick(&[6, 4, 2, 0])),
        ("&topic=y&sort=oldest", pick(&[2, 3, 6, 7])),
        ("&lang=de&author=bob", pick(&[7, 5])),
        ("&label=mixed", pick(&[7, 3])),
        ("&posted_from=2020-01-07", pick(&[7, 6])),
        ("&posted_to=2020-01-02", pick(&[0])),
        ("&posted_from=2020-01-03T00:00:00%2B01:00&posted_to=2020-01-04", pick(&[2])),
        ("&hashtag=tag1", pick(&[7, 4, 1])),
        ("&hashtag=all,%22of%22%20them", newest_first.clone()),
        ("&q=%C3%A4pfel", pick(&[6, 4, 2, 0])),
        ("&q=line%203", pick(&[3])),
        ("&q=100%25%20of_", newest_first.clone()),
        ("&q=1%25of", vec![]),
        ("&q=l_ne", vec![]),
        ("&q=%5C", newest_first.clone()),
        ("&q=%25", newest_first.clone()),
        ("&q=%27%20or%201%3D1--", vec![]),
        ("&author=nobody", vec![]),
        ("&author=ann'%20or%201=1--", vec![]),
    ] {
        let answer = api.get(&format!("/v1/sentiment-social?platform={name}{filter}")).await;
        assert_eq!(answer.status, 200, "{filter}: {answer:?}");
        assert_eq!(ids(&answer.json()), expected, "{filter}");
        assert_eq!(answer.json()["next"], Value::Null, "{filter}");
        assert_eq!(answer.header("link"), None, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_right_while_posts_come_and_go() {
    let api = Api::start().await;
    for sort in ["newest", "oldest"] {
        let name = unique("pages");
        // Many share a moment, so that the order depends on the id too.
        let moment = |number: usize| format!("2020-01-01T00:00:{:02}Z", number % 5);
        let mut stay = BTreeSet::new();
        let mut go = Vec::new();
        for number in 0..40 {
            let id = api.create(&small_post(&name, &number.to_string(), &moment(number))).await;
            if number % 4 == 0 {
                go.push(id);
            } else {
                stay.insert(id);
            }
        }
        let mut seen: Vec<(String, i64)> = Vec::new();
        let mut path = format!("/v1/sentiment-social?platform={name}&sort={sort}&limit=7");
        let mut pages = 0;
        loop {
            let answer = api.get(&path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let page = answer.json();
            let items = page["items"].as_array().expect("items");
            seen.extend(items.iter().map(|post| {
                (post["posted_at"].as_str().expect("a time").to_owned(), post["id"].as_i64().expect("an id"))
            }));
            pages += 1;
            // Between two pages one of the old posts goes and two new ones come, at both ends of the order.
            if let Some(id) = go.pop() {
                assert_eq!(send(api.request(Method::DELETE, &format!("/v1/sentiment-social/{id}"))).await.status, 204);
            }
            for (at, number) in [("2019-12-31", pages * 2 + 100), ("2020-01-02", pages * 2 + 101)] {
                api.create(&small_post(&name, &number.to_string(), at)).await;
            }
            let Some(next) = page["next"].as_str() else { break };
            let link = answer.header("link").expect("a link").to_owned();
            path = linked(&link, "next").expect("a link to the next page");
            assert!(path.ends_with(&format!("cursor={next}")), "{path}");
            assert!(pages < 20, "the pages do not end");
        }
        assert!(
            seen.is_sorted_by(|a, b| if sort == "newest" { a > b } else { a < b }),
            "in order, nothing twice: {seen:?}"
        );
        let seen: BTreeSet<i64> = seen.into_iter().map(|(_, id)| id).collect();
        assert!(stay.is_subset(&seen), "what was there all the time is seen: {:?}", stay.difference(&seen));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_belongs_to_its_filters() {
    let api = Api::start().await;
    let name = unique("cursor");
    for number in 0..3 {
        api.create(&small_post(&name, &number.to_string(), "2020-01-01")).await;
    }
    let first = api.get(&format!("/v1/sentiment-social?platform={name}&limit=1")).await.json();
    let cursor = first["next"].as_str().expect("a next page").to_owned();
    let with = |parameters: &str, cursor: &str| format!("/v1/sentiment-social?{parameters}&cursor={cursor}");
    let same = api.get(&with(&format!("limit=2&platform={name}"), &cursor)).await;
    assert_eq!((same.status, ids(&same.json()).len()), (200, 2), "limit may change");
    for path in [
        with("platform=other", &cursor),
        with(&format!("platform={name}&sort=oldest"), &cursor),
        with(&format!("platform={name}&label=mixed"), &cursor),
        with(&format!("platform={name}&posted_from=2019-01-01"), &cursor),
        with(&format!("author={name}"), &cursor),
        with(&format!("platform={name}"), cursor.split_at(1).1),
        with(&format!("platform={name}"), &format!("{cursor}A")),
        with(&format!("platform={name}"), &cursor.chars().rev().collect::<String>()),
        with(&format!("platform={name}"), ""),
        with(&format!("platform={name}"), "MTIz"),
    ] {
        let answer = api.get(&path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-cursor"), "{path}");
    }
}
