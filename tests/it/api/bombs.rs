//! Small compressed bodies that become a gibibyte: refused at once, by a process whose memory hardly grows.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::header::CONTENT_TYPE;
use secrecy::ExposeSecret as _;

use super::{Api, send, small_post, stack, unique};
use crate::support::bomb::{self, GIB};
use crate::support::processes;
use crate::support::wait::wait_until;

/// At once, each of them.
const TOGETHER: usize = 16;
/// What the process may take more: each of them as it came, in a buffer of at most `api.batch_bytes_max`, and one for each worker
/// that is decompressed, in a buffer that has just been doubled.
const MEMORY_MAX: u64 = (16 * 8 + 2 * 2 * 8 + 32) << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_become_a_gibibyte_are_refused_at_once() {
    let settings = Api::settings(|_| {}).await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let mut command = tokio::process::Command::from(stack().await.command(&["serve", "--bind", &address.to_string()]));
    command.env("PLATFORM__POSTGRES__URL", settings.postgres.url.expose_secret()).env("PLATFORM__API__WORKERS", "2");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("started");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process number");
    let (http, key) = (reqwest::Client::new(), stack().await.api_key());
    let post = |path: &str, kind: &str| {
        let request = http.post(format!("http://{address}{path}")).bearer_auth(key).header(CONTENT_TYPE, kind);
        request.timeout(Duration::from_secs(60))
    };
    wait_until("it serves", Duration::from_secs(60), || async {
        http.get(format!("http://{address}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;

    const JSON: &str = "application/json";
    const NDJSON: &str = "application/x-ndjson";
    let line = format!("{}\n", small_post(&unique("bomb"), "1", "2020-01-01"));
    let mut bombs = Vec::new();
    for (path, kind, pattern) in [
        ("/v1/sentiment-social", JSON, " "),
        ("/v1/sentiment-social/batch", JSON, "["),
        ("/v1/sentiment-social/batch?mode=partial", NDJSON, line.as_str()),
    ] {
        for (encoding, pack) in [("gzip", pack_gzip as fn(&str) -> Vec<u8>), ("zstd", pack_zstd)] {
            bombs.push((path, kind, encoding, bytes::Bytes::from(pack(pattern))));
        }
    }
    let before = processes::peak_memory(pid).expect("it runs");
    for (path, kind, encoding, bomb) in bombs {
        assert!(bomb.len() < 8 << 20, "{encoding} {path}: {} bytes", bomb.len());
        let began = Instant::now();
        let one = || send(post(path, kind).header("content-encoding", encoding).body(bomb.clone()));
        for answer in join_all((0..TOGETHER).map(|_| one())).await {
            assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"), "{encoding} {path}");
        }
        // To decompress one of them takes most of a second.
        assert!(began.elapsed() < Duration::from_secs(10), "{encoding} {path}: {:?}", began.elapsed());
        let grown = processes::peak_memory(pid).expect("it runs") - before;
        assert!(grown < MEMORY_MAX, "{encoding} {path}: {} MiB more", grown >> 20);
        println!(
            "{encoding} {path}: {} bytes, {TOGETHER} in {:?}, {} MiB more",
            bomb.len(),
            began.elapsed(),
            grown >> 20
        );
    }
    let small = send(post("/v1/sentiment-social", JSON).body(line)).await;
    assert_eq!(small.status, 201, "it goes on: {small:?}");
}

fn pack_gzip(pattern: &str) -> Vec<u8> {
    let mut packed = Vec::new();
    bomb::gzip(pattern.as_bytes(), GIB, &mut packed);
    packed
}

fn pack_zstd(pattern: &str) -> Vec<u8> {
    let mut packed = Vec::new();
    bomb::zstd(pattern.as_bytes(), GIB, &mut packed);
    packed
}
