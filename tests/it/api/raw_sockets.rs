//! Bad inputs as bytes, without a client that would not send them: none is answered 5xx, hangs, or shows a database's text.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Api, small_post, unique};

/// Longer than any limit of the server that ends a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `bytes` and reads until the server closes; what it says begins with a status, or it is empty.
async fn exchange(api: &Api, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(api.address).await.expect("connected");
    // The server may close before it has read everything.
    let _ = timeout(PATIENCE, stream.write_all(bytes)).await.expect("the server reads or closes");
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server answers and closes");
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn get(api: &Api, path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{headers}\r\n", api.key)
        .into_bytes()
}

fn post(api: &Api, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
        api.key
    );
    [head.as_bytes(), body].concat()
}

fn json(api: &Api, body: &[u8]) -> Vec<u8> {
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    post(api, "/v1/sentiment-social", &headers, body)
}

/// 0 stands for a connection that is closed without an answer.
async fn check(api: &Api, name: &str, bytes: &[u8], expected: &[u16]) {
    let answer = exchange(api, bytes).await;
    assert!(expected.contains(&status(&answer)), "{name}: {answer}");
    for word in ["SQLSTATE", "ERROR:", "DB::", "syntax error", "panicked", "sentiment_social_", "/src/", "relation"] {
        assert!(!answer.contains(word), "{name}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused() {
    let api = Api::start().await;
    let many: String = (0..97).map(|number| format!("X-{number}: y\r\n")).collect();
    let huge = format!("X: {}\r\n", "y".repeat(200 * 1024));
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("garbage", b"\x00\x01\x02\xff\xfe garbage\r\n\r\n".to_vec(), &[400, 0]),
        ("another version", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(), &[400, 505, 0]),
        ("bare carriage returns", b"GET / HTTP/1.1\rHost: x\r\r".to_vec(), &[400, 408, 0]),
        ("NUL in a header", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n".to_vec(), &[400, 0]),
        ("folded header", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n".to_vec(), &[400, 0]),
        ("97 headers", get(&api, "/livez", &many), &[400, 431, 0]),
        ("a header of 200 KiB", get(&api, "/livez", &huge), &[400, 431, 413, 0]),
        ("a long path", get(&api, &format!("/v1/{}", "x".repeat(8193)), ""), &[414]),
        (
            "two lengths",
            post(&api, "/v1/sentiment-social", "Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"),
            &[400, 0],
        ),
        ("a signed length", post(&api, "/v1/sentiment-social", "Content-Length: +2\r\n", b"{}"), &[400, 0]),
        ("a length and a space", post(&api, "/v1/sentiment-social", "Content-Length: 2 3\r\n", b"{}"), &[400, 0]),
        (
            "a chunk's size that is too large for a number",
            post(
                &api,
                "/v1/sentiment-social",
                "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
                b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
            ),
            &[400, 413, 0],
        ),
        (
            "a body that breaks off",
            {
                // The rest never comes: the time for a body ends.
                post(
                    &api,
                    "/v1/sentiment-social",
                    "Content-Type: application/json\r\nContent-Length: 10\r\n",
                    b"{\"a\":",
                )
            },
            &[408, 400, 0],
        ),
        ("no host", b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), &[200, 400]),
        ("another host", b"GET /livez HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_vec(), &[200]),
        (
            "an absolute address",
            b"GET http://evil/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            &[200, 404],
        ),
        ("a tunnel", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[400, 404, 405, 0]),
        ("an asterisk", b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[204, 400, 404]),
    ];
    for (name, bytes, expected) in cases {
        check(&api, name, &bytes, expected).await;
    }
    assert_eq!(api.get("/livez").await.status, 200);
}

/// Two requests that a proxy and this server could see differently: the one inside must never be executed.
#[tokio::test(flavor = "multi_thread")]
async fn requests_cannot_be_smuggled() {
    let api = Api::start().await;
    let name = unique("smuggled");
    let inner = json(&api, small_post(&name, "1", "2020-01-01").to_string().as_bytes());
    let close = "Content-Type: application/json\r\n";
    for (headers, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", [b"0\r\n\r\n", inner.as_slice()].concat()),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", [b"0\r\n\r\n", inner.as_slice()].concat()),
        ("Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n", inner.clone()),
        ("Content-Length: 0\r\nContent-Length: 400\r\n", inner.clone()),
    ] {
        let bytes = post(&api, "/v1/sentiment-social", &format!("{close}{headers}"), &body);
        let answer = exchange(&api, &bytes).await;
        assert!(status(&answer) < 500, "{headers}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count().max(1), 1, "one answer at most: {answer}");
    }
    let stored = api.get(&format!("/v1/sentiment-social?platform={name}")).await.json();
    assert_eq!(stored["items"].as_array().map(Vec::len), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_ids_and_parameters_that_mean_nothing_are_refused() {
    let api = Api::start().await;
    let list = "/v1/sentiment-social";
    let terms = (0..700).map(|number| format!("or%20id={number}")).collect::<Vec<_>>().join("%20");
    let keys = (0..50).map(|_| "id").collect::<Vec<_>>().join(",");
    let mut cases: Vec<(String, Vec<u16>)> = Vec::new();
    for id in [
        "0",
        "-1",
        "9223372036854775808",
        "abc",
        "%00",
        "..%2f",
        "%EF%BC%91",
        "1;drop",
        &"1".repeat(4096),
        "1%20or%201=1",
    ] {
        cases.push((format!("{list}/{id}"), vec![404]));
    }
    for wrong in [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=1e3",
        "limit=%EF%BC%91%EF%BC%90",
        "offset=5",
        "limit=1&limit=1",
        "id=1%20or%201=1",
    ] {
        cases.push((format!("{list}?{wrong}"), vec![400]));
    }
    for sort in [
        "x",
        "id;drop%20table%20x",
        "id%20desc,(select%201)",
        "1",
        "%60id%60",
        "'id'",
        "%22id%22",
        "id,",
        keys.as_str(),
    ] {
        cases.push((format!("{list}?sort={sort}"), vec![400]));
    }
    for cursor in ["x", "AAAA", "%00", "../../etc/passwd", &"A".repeat(4000), "e30", "%F0%9F%98%80"] {
        cases.push((format!("{list}?cursor={cursor}"), vec![400]));
    }
    for text in [
        "'",
        "\\'",
        "%bf%27",
        "{x:String}",
        "/*",
        "--",
        "$1",
        "%25%25%25",
        "(a+)+$",
        terms.as_str(),
        "%5C",
        "%F0%9F%98%80",
    ] {
        cases.push((format!("{list}?author={text}&q={text}&topic={text}&hashtag={text}"), vec![200, 400, 414]));
        cases.push((
            format!("/v1/analytics/top?from=2020-01-01&to=2020-01-02&by=topic&platform={text}"),
            vec![200, 400, 414, 503],
        ));
    }
    for smuggled in ["param_x=1", "max_threads=64", "query=select%201", "platform=%5CN", "platform='%20FORMAT%20TSV"] {
        cases.push((format!("/v1/analytics/summary?from=2020-01-01&to=2020-01-02&{smuggled}"), vec![200, 400, 503]));
    }
    for moment in [
        "2024-02-30",
        "2024-01-01T24:00:00Z",
        "2024-06-30T23:59:60Z",
        "2024-01-01T00:00:00%2B14:60",
        "10000-01-01",
        "2024-01-01T00:00",
        "now",
    ] {
        cases.push((format!("{list}?posted_from={moment}"), vec![400]));
        cases.push((format!("/v1/analytics/summary?from={moment}&to=2024-01-02"), vec![400]));
    }
    for path in [
        "/V1/sentiment-social",
        "//v1/sentiment-social",
        "/v1//sentiment-social",
        "/v1/sentiment-social/",
        "/v1/../livez",
        "/%2e%2e/etc",
    ] {
        cases.push((path.to_owned(), vec![404]));
    }
    for (path, expected) in cases {
        check(&api, &path, &get(&api, &path, ""), &expected).await;
    }
    let header = get(&api, "/livez", "X-HTTP-Method-Override: DELETE\r\nX-Forwarded-For: 1.2.3.4\r\n");
    check(&api, "method override", &header, &[200]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_mean_nothing_are_refused() {
    let api = Api::start().await;
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let with = |member: &str| {
        let post = small_post(&unique("raw"), "1", "2020-01-01").to_string();
        format!("{},{member}}}", post.trim_end_matches('}'))
    };
    let not_json = ["", "{", "{} {}", "\u{feff}{}", "{\"likes\":NaN}", "{'a':1}", "[]", "nul", "{\"a\":1,\"a\":1}"];
    for body in not_json.iter().map(|body| (*body).to_owned()).chain([deep("[", "]"), deep("{\"a\":", "}")]) {
        check(&api, &body, &json(&api, body.as_bytes()), &[400]).await;
    }
    check(&api, "invalid UTF-8", &json(&api, b"{\"content\":\"\xff\xfe\"}"), &[400]).await;
    let wrong = [
        "\"likes\":9223372036854775808",
        "\"likes\":1e400",
        "\"likes\":-1",
        "\"likes\":\"1\"",
        "\"likes\":1.5",
        "\"likes\":true",
        "\"sentiment_score\":1e400",
        "\"sentiment_score\":\"1_0\"",
        "\"sentiment_score\":{}",
        "\"author\":7",
        "\"hashtags\":[[\"a\"]]",
        "\"id\":1",
        "\"row_version\":9",
        "\"__proto__\":{}",
        "\"likes; drop table x\":1",
        "\"raw\":\"\\u0000\"",
        "\"raw\":\"\\ud800\"",
        "\"raw\":1e999999",
    ];
    for member in wrong {
        check(&api, member, &json(&api, with(member).as_bytes()), &[422]).await;
    }
    check(&api, "minus zero", &json(&api, with("\"likes\":-0").as_bytes()), &[201]).await;
    let nested = format!("\"raw\":{}1{}", "[".repeat(100), "]".repeat(100));
    check(&api, "a hundred levels", &json(&api, with(&nested).as_bytes()), &[201]).await;
    for kind in ["text/plain", "application/json; charset=utf-16", "application/xml", "", "application/jsonx"] {
        let headers = format!("Content-Type: {kind}\r\nContent-Length: 2\r\n");
        check(&api, kind, &post(&api, "/v1/sentiment-social", &headers, b"{}"), &[415]).await;
    }
    check(&api, "an image", &get(&api, "/v1/sentiment-social", "Accept: image/png\r\n"), &[406]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_none_are_refused_alike() {
    let api = Api::start().await;
    let short = api.key.get(..api.key.len() - 1).expect("a key");
    let near = format!("{short}{}", if api.key.ends_with('0') { '1' } else { '0' });
    let mut answers = Vec::new();
    let huge = "x".repeat(100_000);
    for value in [near.as_str(), short, "pk_", "", &huge, "null", "' or 1=1--", "pk_00000000_%00"] {
        let bytes = format!(
            "GET /v1/keys HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: same\r\nAuthorization: Bearer {value}\r\n\r\n"
        );
        let answer = exchange(&api, bytes.as_bytes()).await;
        assert_eq!(status(&answer), 401, "{value}: {answer}");
        answers.push(answer.rsplit("\r\n\r\n").next().expect("a body").to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one body for all");
    let twice = format!("Authorization: Bearer {}\r\n", api.key);
    check(&api, "two keys", &get(&api, "/v1/keys", &twice), &[401]).await;
    let in_query = format!("GET /v1/keys?api_key={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", api.key);
    check(&api, "a key in the query", in_query.as_bytes(), &[401]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_have_the_same_limits() {
    use std::io::Write as _;
    let api = Api::start().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("written");
        encoder.finish().expect("finished")
    };
    let send = |encoding: &str, body: &[u8]| {
        let headers = format!(
            "Content-Type: application/json\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n",
            body.len()
        );
        post(&api, "/v1/sentiment-social", &headers, body)
    };
    let good = |encoding: &str| small_post(&unique(encoding), "1", "2020-01-01").to_string().into_bytes();
    check(&api, "gzip", &send("gzip", &gzip(&good("gzip"))), &[201]).await;
    check(&api, "zstd", &send("zstd", &zstd::encode_all(&*good("zstd"), 3).expect("packed")), &[201]).await;
    check(&api, "identity", &send("identity", &good("identity")), &[201]).await;
    for (encoding, body) in [("gzip", &b"{}"[..]), ("zstd", b"{}"), ("gzip", b"")] {
        check(&api, encoding, &send(encoding, body), &[400]).await;
    }
    for encoding in ["br", "compress", "deflate", "gzip, gzip", "x"] {
        let answer = exchange(&api, &send(encoding, b"{}")).await;
        assert_eq!(status(&answer), 415, "{encoding}: {answer}");
        assert!(answer.to_lowercase().contains("accept-encoding: gzip, zstd"), "{answer}");
    }
}
