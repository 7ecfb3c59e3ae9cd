//! The requests: the same to each server, in its own words.

use std::net::SocketAddr;

/// Who is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Platform,
    /// Both peers.
    Peer,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Point,
    /// The answer names the new post.
    Create,
    /// The answer is the new post, which the peers do not give.
    CreateWhole,
    List,
}

impl Scenario {
    pub(crate) const ALL: [Self; 4] = [Self::Point, Self::Create, Self::CreateWhole, Self::List];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Point => "point read",
            Self::Create => "create",
            Self::CreateWhole => "create, answered with the post",
            Self::List => "list of 50",
        }
    }

    /// Status of a right answer.
    pub(crate) fn status(self) -> u16 {
        if matches!(self, Self::Create | Self::CreateWhole) { 201 } else { 200 }
    }
}

/// A number that looks random and is the same in every run (splitmix64).
pub(crate) fn scattered(number: u64) -> u64 {
    let mut value = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One request, as bytes. `key` is for the platform alone: the peers ask for none.
pub(crate) fn request(
    dialect: Dialect,
    scenario: Scenario,
    number: u64,
    posts: u64,
    address: SocketAddr,
    key: &str,
) -> Vec<u8> {
    let id = scattered(number) % posts + 1;
    let early = scattered(number) % (posts - posts / 30) + 1;
    match (dialect, scenario) {
        (Dialect::Platform, Scenario::Point) => get(address, &format!("/v1/sentiment-social/{id}"), key, ""),
        (Dialect::Peer, Scenario::Point) => get(address, &format!("/posts/{id}"), "", ""),
        (Dialect::Platform, Scenario::List) => {
            // `social` has a row each 0.864 s from 2026-10-01 on.
            let seconds = i64::try_from(early * 864 / 1000).expect("small");
            let first = chrono::DateTime::from_timestamp(1_790_812_800 + seconds, 0).expect("a time");
            let first = first.format("%Y-%m-%dT%H:%M:%SZ");
            get(address, &format!("/v1/sentiment-social?limit=50&sort=oldest&posted_from={first}"), key, "")
        }
        (Dialect::Peer, Scenario::List) => get(address, &format!("/posts?limit=50&cursor={early}"), "", ""),
        (Dialect::Platform, Scenario::Create | Scenario::CreateWhole) => {
            let body = format!(
                r#"{{"platform":"reddit","post_id":"{number}-{id}",{POST},"sentiment_label":"positive","sentiment_score":"0.731","hashtags":["price","tag7"],"raw":{RAW},{REST}}}"#
            );
            let prefer = if scenario == Scenario::Create { "Prefer: return=minimal\r\n" } else { "" };
            post(address, "/v1/sentiment-social", key, prefer, &body)
        }
        (Dialect::Peer, Scenario::Create | Scenario::CreateWhole) => {
            let body = format!(
                r#"{{"platform":"reddit",{POST},"sentiment":"positive","score":0.731,"tags":["price","tag7"],"metadata":{RAW},{REST}}}"#
            );
            post(address, "/posts", "", "", &body)
        }
    }
}

const POST: &str = r#""author":"user_42","content":"the service was really great today but delivery took way too long and support never answered my emails about refund harga naik lagi tapi kualitas tetap bagus","lang":"en""#;
const RAW: &str = r#"{"v":3,"app":"web","src":"campaign-9","verified":true}"#;
const REST: &str = r#""likes":3,"shares":1,"posted_at":"2026-11-01T12:34:56.789Z""#;

/// A GET; `more` are further header lines, each with its end.
pub(crate) fn get(address: SocketAddr, path: &str, key: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{}{more}\r\n", authorization(key)).into_bytes()
}

fn post(address: SocketAddr, path: &str, key: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{}{more}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        authorization(key)
    )
    .into_bytes()
}

fn authorization(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") }
}
