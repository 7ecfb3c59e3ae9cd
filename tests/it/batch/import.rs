//! `platform import`.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::{Bench, Ended, ended};

fn line(post_id: &str, more: &str) -> String {
    format!(
        r#"{{"platform":"t","post_id":"{post_id}","content":"c {post_id}","sentiment_label":"neutral","posted_at":"2024-05-01T12:00:00.000001+02:00"{more}}}"#
    )
}

fn counts(ended: &Ended) -> [u64; 5] {
    let result = ended.result();
    ["read", "inserted", "updated", "unchanged", "rejected"].map(|key| result[key].as_u64().expect("a number"))
}

const STATE: &str = "select md5(string_agg(t::text || xmin::text, ',' order by id)) from public.sentiment_social t";

#[tokio::test(flavor = "multi_thread")]
async fn every_column_arrives_exactly() {
    let bench = Bench::start().await;
    let long = "ä\u{1F600}\\n".repeat(4000);
    let row = json!({
        "platform": "t", "post_id": "1", "author": "a\"b", "content": long, "lang": "de", "topic": null,
        "hashtags": ["x", "y,z", null, ""], "sentiment_label": "mixed", "sentiment_score": "-0.120", "confidence": "1",
        "likes": 2_147_483_647, "replies": 0, "shares": 7, "model_name": "", "posted_at": "1999-12-31T23:59:59.999999Z",
    });
    let mut text = row.to_string();
    text.truncate(text.len() - 1);
    text.push_str(r#","raw":{"n":12345678901234567890.10, "s":"\u00e9"}}"#);
    let file = bench.file("all.ndjson", &text);
    let ended = bench.run(&["import", file.to_str().expect("a path")]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [1, 1, 0, 0, 0]), "{}", ended.stderr);
    let stored = bench
        .text(
            "select jsonb_build_array(platform, post_id, author, content, lang, topic, hashtags, sentiment_label, \
             sentiment_score::text, confidence::text, likes, replies, shares, model_name, raw::text, posted_at, row_version) \
             from public.sentiment_social",
        )
        .await;
    let stored: serde_json::Value = serde_json::from_str(&stored).expect("JSON");
    let expected = json!([
        "t",
        "1",
        "a\"b",
        long,
        "de",
        null,
        ["x", "y,z", null, ""],
        "mixed",
        "-0.120",
        "1.000",
        2_147_483_647,
        0,
        7,
        "",
        r#"{"n": 12345678901234567890.10, "s": "é"}"#,
        "1999-12-31T23:59:59.999999+00:00",
        1
    ]);
    assert_eq!(stored, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_records_are_set_aside_and_the_rest_goes_in() {
    let bench = Bench::start().await;
    let bad = [
        "not json".to_owned(),
        r#"{"platform":"t"}"#.to_owned(),
        line("2", r#","secret":1"#),
        line("3", r#","likes":"many""#),
        line("4", r#","sentiment_score":1.5"#),
        line("5", r#","sentiment_score":"0.1234""#),
        line("6", "").replace("neutral", "nice"),
        line("7", "").replace("2024-05-01T12", "yesterday"),
        line("8", r#","author":"a\u0000b""#),
        // Only PostgreSQL knows that these cannot be: an index row that is too large, and a number beyond numeric.
        line(&(0..1500).map(|n| format!("{:x}", n * 7919 % 65536)).collect::<String>(), ""),
        line("9", r#","raw":{"n":1e200000}"#),
    ];
    let mut text = String::from("\u{feff}");
    for (number, bad) in bad.iter().enumerate() {
        text.push_str(&format!("{}\r\n\n{bad}\n", line(&format!("good{number}"), "")));
    }
    let file = bench.file("mixed.ndjson", &text);
    let file = file.to_str().expect("a path");
    let ended = bench.run(&["import", file]).await;
    let (good, all) = (bad.len() as u64, 2 * bad.len() as u64);
    assert_eq!((ended.code, counts(&ended)), (Some(0), [all, good, 0, 0, good]), "{}", ended.stderr);
    assert!(ended.stderr.contains("is not JSON from column 2 on"), "{}", ended.stderr);
    assert_eq!(
        bench.text("select count(*) from public.sentiment_social where post_id like 'good%'").await,
        good.to_string()
    );

    let mut rejected: Vec<String> = bench.read("mixed.ndjson.rejected").lines().map(str::to_owned).collect();
    let mut expected = bad.to_vec();
    rejected.sort();
    expected.sort();
    assert_eq!(rejected, expected, "verbatim");
    let reasons = bench.read("mixed.ndjson.rejected.reasons");
    assert_eq!(reasons.lines().count(), bad.len());
    for reason in [
        "mixed.ndjson:6: platform is missing".replace("platform is missing", "post_id is missing"),
        "mixed.ndjson:9: unknown field \"secret\"".into(),
        "mixed.ndjson:12: likes is not a number".into(),
        "mixed.ndjson:15: sentiment_score is outside -1..1".into(),
        "mixed.ndjson:18: sentiment_score has more than three decimals".into(),
        "mixed.ndjson:21: sentiment_label is none of".into(),
        "mixed.ndjson:30: PostgreSQL refuses it: index row size".into(),
        "mixed.ndjson:33: PostgreSQL refuses it: ".into(),
    ] {
        assert!(reasons.contains(&reason), "{reason:?} in {reasons}");
    }
    assert!(!ended.stderr.contains("a\\u0000b") && !reasons.contains("nice"), "no values in messages");

    // What was set aside can be mended and imported from where it lies.
    let mended = bench.read("mixed.ndjson.rejected").replace("nice", "positive");
    let mended = bench.file("mixed.ndjson.rejected", &mended);
    let ended = bench.run(&["import", mended.to_str().expect("a path")]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [good, 1, 0, 0, good - 1]), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_long_is_set_aside_whole() {
    let bench = Bench::start().await;
    let long = line("long", &format!(r#","author":"{}""#, "x".repeat(17 * 1024 * 1024)));
    bench.file("long.ndjson", &format!("{}\n{long}\n{}\n", line("1", ""), line("2", "")));
    let ended = bench.run(&["import", "long.ndjson", "--rejected", "aside"]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [3, 2, 0, 0, 1]), "{}", ended.stderr);
    assert!(bench.read("aside").trim_end() == long);
    assert_eq!(bench.read("aside.reasons"), "long.ndjson:2: is longer than 16777216 bytes\n");
    let ended = bench.run(&["import", "long.ndjson", "--rejected", "./long.ndjson"]).await;
    assert_eq!(ended.code, Some(2), "the file itself is not overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_again_changes_nothing() {
    let bench = Bench::start().await;
    let text: String = (0..30_000).map(|n| format!("{}\n", line(&n.to_string(), r#","raw":{"a":1.0}"#))).collect();
    let file = bench.file("posts.jsonl", &text);
    let file = file.to_str().expect("a path");
    assert_eq!(counts(&bench.run(&["import", file]).await), [30_000, 30_000, 0, 0, 0]);
    let before = bench.text(STATE).await;
    for mode in ["skip", "update"] {
        let ended = bench.run(&["import", file, "--on-conflict", mode]).await;
        assert_eq!((ended.code, counts(&ended)), (Some(0), [30_000, 0, 0, 30_000, 0]), "{mode}: {}", ended.stderr);
        assert_eq!(bench.text(STATE).await, before, "{mode} wrote no row");
    }
    let ended = bench.run(&["import", file, "--on-conflict", "error"]).await;
    assert_eq!(ended.code, Some(65), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("posts.jsonl:1: a post with this platform and post_id exists already"),
        "{}",
        ended.stderr
    );
    assert_eq!((ended.stdout.as_str(), bench.text(STATE).await), ("", before));
}

#[tokio::test(flavor = "multi_thread")]
async fn update_touches_only_what_differs_and_error_imports_all_or_nothing() {
    let bench = Bench::start().await;
    let file = bench.file("a.ndjson", &[line("1", ""), line("2", r#","raw":{"n":1.0}"#), line("3", "")].join("\n"));
    bench.run(&["import", file.to_str().expect("a path")]).await;
    let changed = [
        line("1", ""),
        line("2", r#","raw":{"n":1.00}"#),
        line("3", r#","likes":1"#),
        line("3", r#","likes":2"#),
        line("4", r#","likes":1"#),
        line("4", r#","likes":2"#),
    ];
    let file = bench.file("b.ndjson", &changed.join("\n"));
    let file = file.to_str().expect("a path");

    let ended = bench.run(&["import", file, "--on-conflict", "update"]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [6, 1, 2, 3, 0]), "{}", ended.stderr);
    let state = "select string_agg(concat_ws(' ', post_id, likes, row_version, raw), ', ' order by post_id) from public.sentiment_social";
    assert_eq!(bench.text(state).await, "1 0 1, 2 0 2 {\"n\": 1.00}, 3 2 2, 4 2 1");
    let again = bench.run(&["import", file, "--on-conflict", "update"]).await;
    assert_eq!(counts(&again), [6, 0, 0, 6, 0]);

    let file = bench.file("c.ndjson", &[line("5", ""), line("6", ""), line("5", "")].join("\n"));
    let ended = bench.run(&["import", file.to_str().expect("a path"), "--on-conflict", "error"]).await;
    assert_eq!(ended.code, Some(65));
    assert!(ended.stderr.contains("c.ndjson:3: a post with"), "{}", ended.stderr);
    assert_eq!(bench.text("select count(*) from public.sentiment_social").await, "4");
    let ended = bench.run(&["import", file.to_str().expect("a path"), "--on-conflict", "skip"]).await;
    assert_eq!(counts(&ended), [3, 2, 0, 1, 0], "the first of two stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_imports_nothing_when_a_record_is_bad() {
    let bench = Bench::start().await;
    // The bad record is in the second chunk, so that the first one has been written already.
    let mut lines: Vec<String> = (0..25_000).map(|n| line(&n.to_string(), "")).collect();
    for (bad, reason) in [
        (line("x", r#","likes":-1"#), "likes is not a whole number"),
        (line("y", r#","raw":1e200000"#), "PostgreSQL refuses it"),
    ] {
        lines[24_000] = bad;
        let file = bench.file("strict.ndjson", &lines.join("\n"));
        let ended = bench.run(&["import", "--strict", file.to_str().expect("a path")]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("strict.ndjson:24001: {reason}")), "{}", ended.stderr);
        assert_eq!(bench.text("select count(*) from public.sentiment_social").await, "0");
    }
    lines.remove(24_000);
    let file = bench.file("strict.ndjson", &lines.join("\n"));
    let ended = bench.run(&["import", "--strict", file.to_str().expect("a path")]).await;
    assert_eq!(counts(&ended), [24_999, 24_999, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_comes_as_postgresql_writes_it() {
    let bench = Bench::start().await;
    let file = bench.file(
        "a.ndjson",
        &[line("1", r#","author":"","hashtags":["a b","c\"d",null],"raw":{"k":["v"]}"#), line("2", "")].join("\n"),
    );
    bench.run(&["import", file.to_str().expect("a path")]).await;
    let columns = "platform, post_id, author, content, lang, topic, hashtags, sentiment_label, sentiment_score, confidence, likes, replies, shares, model_name, raw, posted_at";
    let copy =
        format!("copy (select {columns} from public.sentiment_social order by id) to stdout (format csv, header)");
    let copied = bench.client.copy_out(&copy).await.expect("a copy");
    let pieces: Vec<bytes::Bytes> = futures_util::TryStreamExt::try_collect(copied).await.expect("all of it");
    let csv = String::from_utf8(pieces.concat()).expect("UTF-8");
    let all = format!("select md5(string_agg(({columns})::text, ',' order by post_id)) from public.sentiment_social");
    let before = bench.text(&all).await;
    bench.client.batch_execute("truncate public.sentiment_social").await.expect("empty");

    let file = bench.file("posts.csv", &format!("{csv}t,3,too short\n"));
    let ended = bench.run(&["import", file.to_str().expect("a path")]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [3, 2, 0, 0, 1]), "{}", ended.stderr);
    assert_eq!(bench.text(&all).await, before);
    let header = csv.lines().next().expect("a header");
    assert_eq!(
        bench.read("posts.csv.rejected"),
        format!("{header}\nt,3,too short\n"),
        "with its header, to be imported again"
    );

    let file = bench.file("wrong.csv", "platform,nonsense\na,b\n");
    let ended = bench.run(&["import", file.to_str().expect("a path")]).await;
    assert_eq!(ended.code, Some(65));
    assert!(ended.stderr.contains("unknown column \"nonsense\""), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_and_compressed_files_are_read() {
    let bench = Bench::start().await;
    let mut command = bench.command(&["import", "-", "--format", "ndjson"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = format!("{}\nbad\n{}", line("1", ""), line("2", ""));
    stdin.write_all(text.as_bytes()).await.expect("taken");
    drop(stdin);
    let output = child.wait_with_output().await.expect("ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.read("stdin.rejected"), "bad\n");

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(line("3", "").as_bytes()).expect("compressed");
    let bytes = gzip.finish().expect("compressed");
    std::fs::write(bench.dir.path().join("a.ndjson.gz"), &bytes).expect("written");
    let bytes_zstd = zstd::encode_all(line("4", "").as_bytes(), 1).expect("compressed");
    std::fs::write(bench.dir.path().join("b.ndjson.zst"), bytes_zstd).expect("written");
    let ended = bench.run(&["import", "a.ndjson.gz", "b.ndjson.zst"]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [2, 2, 0, 0, 0]), "{}", ended.stderr);

    std::fs::write(bench.dir.path().join("cut.ndjson.gz"), &bytes[..bytes.len() - 6]).expect("written");
    let ended = bench.run(&["import", "cut.ndjson.gz"]).await;
    assert_eq!(ended.code, Some(65), "a damaged file is no retry: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_begin_says_why() {
    let bench = Bench::start().await;
    let ended = bench.run(&["import", "missing.ndjson"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("missing.ndjson cannot be opened: No such file"), "{}", ended.stderr);
    assert_eq!(bench.run(&["import", "-"]).await.code, Some(2), "standard input needs a format");
    bench.file("posts.txt", "");
    assert_eq!(bench.run(&["import", "posts.txt"]).await.code, Some(2), "an unknown kind of file");
    bench.file("bad.ndjson", "x\ny\n");
    let ended = bench.run(&["import", "bad.ndjson"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
    bench.file("empty.ndjson", "");
    assert_eq!(counts(&bench.run(&["import", "empty.ndjson"]).await), [0; 5]);
    drop(bench.postgres);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_platform"));
    command.args(["import", "empty.ndjson"]).current_dir(bench.dir.path()).env_clear();
    command.env("PLATFORM__POSTGRES__URL", "postgres://x@127.0.0.1:1/x");
    assert_eq!(ended_of(command).await, Some(69));
}

async fn ended_of(mut command: tokio::process::Command) -> Option<i32> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command).await.code
}
