//! Lists in any order: pages forward and back, members, counts.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::listing::linked;
use super::{Api, send, small_post, unique};

async fn make(api: &Api, name: &str) -> Vec<Value> {
    let mut items = Vec::new();
    for number in 0..30_u32 {
        let mut post = small_post(name, &number.to_string(), &format!("2020-01-0{}T00:00:00Z", number % 4 + 1));
        post["likes"] = json!(number * 7 % 5);
        post["sentiment_score"] = if number % 3 == 0 { Value::Null } else { json!(format!("0.{}", number * 3 % 4)) };
        post["sentiment_label"] = json!(["positive", "negative", "mixed"][usize::try_from(number % 3).expect("small")]);
        items.push(post);
    }
    let answer = api.send_json(Method::POST, "/v1/sentiment-social/batch", &json!(items)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let path = format!("/v1/sentiment-social?platform={name}&sort=id&limit=200");
    api.get(&path).await.json()["items"].as_array().expect("items").clone()
}

fn ids(posts: &[Value]) -> Vec<i64> {
    posts.iter().map(|post| post["id"].as_i64().expect("an id")).collect()
}

/// What a post is compared by: numbers of one width, so that texts compare as values do.
fn key(post: &Value, column: &str) -> String {
    match &post[column] {
        Value::Number(number) => format!("{number:0>20}"),
        Value::Null => String::new(),
        other => other.as_str().expect("a text").to_owned(),
    }
}

fn sorted(posts: &[Value], sort: &str) -> Vec<i64> {
    let mut steps: Vec<&str> = sort.split(',').collect();
    let id = if steps.last().is_some_and(|last| last.starts_with('-')) { "-id" } else { "id" };
    steps.push(id);
    let mut posts = posts.to_vec();
    posts.sort_by(|a, b| {
        let orders = steps.iter().map(|step| match step.strip_prefix('-') {
            Some(column) => key(b, column).cmp(&key(a, column)),
            None => key(a, step).cmp(&key(b, step)),
        });
        orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    ids(&posts)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_is_kept_over_pages_forward_and_back() {
    let api = Api::start().await;
    let name = unique("orders");
    let posts = make(&api, &name).await;
    for sort in [
        "id",
        "-id",
        "-likes",
        "likes,-posted_at",
        "-posted_at,likes",
        "sentiment_label,-sentiment_score,posted_at",
        "-sentiment_score",
    ] {
        let expected = sorted(&posts, sort);
        let mut path = format!("/v1/sentiment-social?platform={name}&sort={sort}&limit=7");
        let mut forward = Vec::new();
        let mut pages = Vec::new();
        loop {
            let answer = api.get(&path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let page = answer.json();
            let items = ids(page["items"].as_array().expect("items"));
            assert_eq!(page["prev"].is_null(), pages.is_empty(), "{sort}");
            forward.extend(items.clone());
            pages.push(items);
            match answer.header("link").and_then(|link| linked(link, "next")) {
                Some(next) => path = next,
                None => break,
            }
        }
        assert_eq!(forward, expected, "{sort}");
        let mut back = vec![pages.len() - 1];
        while let Some(prev) = api.get(&path).await.header("link").and_then(|link| linked(link, "prev")) {
            let answer = api.get(&prev).await;
            let page = ids(answer.json()["items"].as_array().expect("items"));
            let number = back.last().expect("a page") - 1;
            assert_eq!(page, pages[number], "{sort}: page {number} again");
            assert!(answer.json()["next"].is_string());
            back.push(number);
            path = prev;
        }
        assert_eq!(back.last(), Some(&0), "{sort}: back at the first page");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_stays_right_while_posts_come_and_go() {
    let api = Api::start().await;
    let name = unique("back");
    let posts = make(&api, &name).await;
    let first = format!("/v1/sentiment-social?platform={name}&sort=-likes,posted_at&limit=10");
    let second = linked(api.get(&first).await.header("link").expect("links"), "next").expect("a next page");
    let answer = api.get(&second).await;
    let prev = linked(answer.header("link").expect("links"), "prev").expect("a page before");
    let on_second = ids(answer.json()["items"].as_array().expect("items"));
    let before = ids(api.get(&first).await.json()["items"].as_array().expect("items"));
    // The row that the cursor names goes, one of the page before goes, and one comes at its front.
    for id in [on_second[0], before[3]] {
        assert_eq!(send(api.request(Method::DELETE, &format!("/v1/sentiment-social/{id}"))).await.status, 204);
    }
    let mut new = small_post(&name, "new", "2020-01-01");
    new["likes"] = json!(1000);
    let new = api.create(&new).await;
    let again = api.get(&prev).await.json();
    let again: BTreeSet<i64> = ids(again["items"].as_array().expect("items")).into_iter().collect();
    let expected: BTreeSet<i64> = before.iter().copied().filter(|id| *id != before[3]).chain([new]).collect();
    assert_eq!(again, expected, "the ten before the place, whatever has come and gone");
    assert_eq!(posts.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_of_other_lists_and_forged_ones_are_refused() {
    let api = Api::start().await;
    let name = unique("forged");
    make(&api, &name).await;
    let page = api.get(&format!("/v1/sentiment-social?platform={name}&sort=-likes&limit=3")).await.json();
    let cursor = page["next"].as_str().expect("a cursor").to_owned();
    for changed in [
        "sort=likes",
        "sort=-likes,posted_at",
        "sort=-likes&q=x",
        "sort=-likes&hashtag=x",
        "sort=-likes&label=mixed",
        "",
    ] {
        let answer = api.get(&format!("/v1/sentiment-social?platform={name}&{changed}&cursor={cursor}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-cursor"), "{changed}");
    }
    let same = api
        .get(&format!("/v1/sentiment-social?cursor={cursor}&fields=id&platform={name}&limit=1&sort=-likes,-id"))
        .await;
    assert_eq!(same.status, 200, "limit, fields and another spelling of the same order: {same:?}");
    let keys = api.get(&format!("/v1/keys?cursor={cursor}")).await;
    assert_eq!((keys.status, keys.problem().as_str()), (400, "invalid-cursor"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_members_asked_for_are_sent() {
    let api = Api::start().await;
    let name = unique("fields");
    make(&api, &name).await;
    let answer =
        api.get(&format!("/v1/sentiment-social?platform={name}&fields=likes,id,raw&limit=2&sort=-likes")).await;
    let page = answer.json();
    for post in page["items"].as_array().expect("items") {
        let members: Vec<&String> = post.as_object().expect("a post").keys().collect();
        assert_eq!(members, ["id", "likes", "raw"]);
    }
    assert!(page["next"].is_string(), "pages work without the members they are sorted by");
    let all = api.get(&format!("/v1/sentiment-social?platform={name}&limit=1&sort=id")).await.json();
    let id = &all["items"][0]["id"];
    assert_eq!(api.get(&format!("/v1/sentiment-social/{id}")).await.json(), all["items"][0], "the same post in a list");
    for wrong in ["", "id,", "password", "id;drop", "*"] {
        let answer = api.get(&format!("/v1/sentiment-social?fields={wrong}")).await;
        assert_eq!((answer.status, answer.named()), (400, vec!["fields invalid".to_owned()]), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_counted_for_those_who_ask() {
    let api = Api::start().await;
    let name = unique("count");
    make(&api, &name).await;
    let path = format!("/v1/sentiment-social?platform={name}&limit=3");
    let plain = api.get(&path).await;
    assert_eq!((plain.json().get("total"), plain.header("preference-applied")), (None, None));
    let exact = send(api.request(Method::GET, &path).header("prefer", "count=exact")).await;
    assert_eq!((&exact.json()["total"], exact.header("preference-applied")), (&json!(30), Some("count=exact")));
    let filtered = format!("{path}&label=mixed&q=hello&posted_from=2020-01-02");
    let filtered = send(api.request(Method::GET, &filtered).header("prefer", "count=exact")).await;
    assert!(filtered.json()["total"].as_i64().is_some_and(|total| (1..10).contains(&total)), "{filtered:?}");
    let estimated = send(api.request(Method::GET, &path).header("prefer", "count=estimated")).await;
    assert_eq!(estimated.header("preference-applied"), Some("count=estimated"));
    assert!(estimated.json()["total"].is_i64(), "{estimated:?}");
    let other = send(api.request(Method::GET, &path).header("prefer", "count=maybe")).await;
    assert_eq!((other.status, other.header("preference-applied")), (200, None));
}
