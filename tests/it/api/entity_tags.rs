//! Entity tags and compressed answers: equal strong tags are equal bytes, and every tag that was given is good for a change.

use std::collections::BTreeMap;

use reqwest::{Method, Response};
use serde_json::json;

use super::caching::{insert, until_kept, with_table};
use super::{Api, send, small_post, unique};

/// What `Accept-Encoding` may ask for, and the coding that the answer then has.
const CODINGS: [(&str, Option<&str>); 7] = [
    ("identity", None),
    ("gzip", Some("gzip")),
    ("br", Some("br")),
    ("zstd", Some("zstd")),
    ("deflate", Some("deflate")),
    ("gzip;q=0.2, zstd;q=0.7", Some("zstd")),
    ("compress, gzip;q=0", None),
];

async fn get(api: &Api, path: &str, coding: &str, tags: Option<&str>) -> Response {
    let request = api.request(Method::GET, path).header("accept-encoding", coding);
    let request = match tags {
        Some(tags) => request.header("if-none-match", tags),
        None => request,
    };
    request.send().await.expect("an answer")
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("a text"))
}

/// The tag of each coding of `path`, after checking that equal tags are equal bytes and that each gives 304 in its coding alone.
async fn tags(api: &Api, path: &str) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let mut bytes_of = BTreeMap::new();
    for (asked, coding) in CODINGS {
        let answer = get(api, path, asked, None).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-encoding")), (200, coding), "{asked} {path}");
        let tag = header(&answer, "etag").expect("a tag").to_owned();
        assert!(tag.starts_with('"'), "a strong tag: {tag}");
        let bytes = answer.bytes().await.expect("bytes");
        assert_eq!(bytes_of.entry(tag.clone()).or_insert_with(|| bytes.clone()), &bytes, "{asked} {path}: {tag}");
        tags.insert(asked.to_owned(), tag);
    }
    assert_eq!(bytes_of.len(), 5, "one tag a coding: {tags:?}");
    for (asked, tag) in &tags {
        for (other, others_tag) in &tags {
            for given in [others_tag.clone(), format!("W/{others_tag}"), format!("\"x\", {others_tag}")] {
                let answer = get(api, path, asked, Some(&given)).await;
                let expected = if tag == others_tag { 304 } else { 200 };
                assert_eq!(answer.status().as_u16(), expected, "{asked} {path} with {given} of {other}");
                assert_eq!(header(&answer, "etag"), Some(tag.as_str()), "{asked} {path} with {given} of {other}");
            }
        }
        let answer = get(api, path, asked, Some("*")).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (304, Some(tag.as_str())), "{asked} {path}");
        let head = send(api.request(Method::HEAD, path).header("accept-encoding", asked)).await;
        assert_eq!(head.header("etag"), Some(tag.as_str()), "HEAD {asked} {path}");
    }
    tags
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_can_be_changed_with_the_tag_of_any_coding() {
    let api = Api::start().await;
    let id = api.create(&small_post(&unique("coded"), "1", "2020-01-01")).await;
    let path = format!("/v1/sentiment-social/{id}");
    let mut stale: Vec<String> = Vec::new();
    for (number, (asked, _)) in CODINGS.into_iter().enumerate() {
        let tag = tags(&api, &path).await.remove(asked).expect("a tag");
        let patch = |tag: &str| {
            let request = api.request(Method::PATCH, &path).header("accept-encoding", asked).header("if-match", tag);
            request.json(&json!({ "likes": number + 1 })).send()
        };
        for old in &stale {
            assert_eq!(patch(old).await.expect("an answer").status().as_u16(), 412, "{asked} with {old}");
        }
        for weak in [format!("W/{tag}"), "\"x-gzip\"".to_owned()] {
            assert_eq!(patch(&weak).await.expect("an answer").status().as_u16(), 412, "{asked} with {weak}");
        }
        let patched = patch(&format!("\"x\", {tag}")).await.expect("an answer");
        assert_eq!(patched.status().as_u16(), 200, "{asked} with {tag}");
        // The answer to a change has the tag that a read in its coding has now.
        let told = header(&patched, "etag").expect("a tag").to_owned();
        assert_eq!(header(&get(&api, &path, asked, None).await, "etag"), Some(told.as_str()), "{asked}");
        stale.push(tag);
    }
    let gzip = get(&api, &path, "gzip", None).await;
    let tag = header(&gzip, "etag").expect("a tag");
    let deleted = send(api.request(Method::DELETE, &path).header("if-match", tag)).await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn analytics_have_a_tag_for_each_coding() {
    let (api, table) = with_table(&[], |_| {}).await;
    insert(&api, &table, 1).await;
    for path in ["/v1/analytics/count", "/v1/analytics/count?format=csv"] {
        until_kept(&api, path).await;
        tags(&api, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_of_tags_is_refused_in_every_coding() {
    let api = Api::start().await;
    let path = format!("/v1/sentiment-social/{}", api.create(&small_post(&unique("coded"), "1", "2020-01-01")).await);
    for (asked, _) in CODINGS {
        let answer = get(&api, &path, asked, Some("1-gzip")).await;
        assert_eq!(answer.status().as_u16(), 400, "{asked}");
    }
}
