//! `platform import` of small files that become a gibibyte: it ends with 65, in bounded memory and on bounded disk.

use std::fs::File;
use std::time::Duration;

use super::{Bench, Ended};
use crate::support::bomb::{self, GIB};
use crate::support::processes;
use crate::support::wait::wait_until;

/// A record of the greatest length is 16 MiB, and stands a few times on its way.
const MEMORY_MAX: u64 = 256 << 20;

/// Imports a file, in no more memory than it may have.
async fn import(bench: &Bench, file: &str) -> Ended {
    let child = bench.command(&["import", file]).spawn().expect("starts");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process number");
    let mut peak = 0;
    let ended = tokio::spawn(child.wait_with_output());
    wait_until("the import ends", Duration::from_secs(300), || {
        peak = processes::peak_memory(pid).unwrap_or(0).max(peak);
        assert!(peak <= MEMORY_MAX, "{file}: {peak} bytes of memory");
        let ended = ended.is_finished();
        async move { ended }
    })
    .await;
    let output = ended.await.expect("a task").expect("ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    assert!(peak > 0, "it was looked at");
    println!("{file}: {} MiB of memory", peak >> 20);
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn bytes_of(bench: &Bench, name: &str) -> u64 {
    bench.dir.path().join(name).metadata().map_or(0, |metadata| metadata.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_is_set_aside_up_to_the_limit() {
    let bench = Bench::start().await;
    let path = bench.dir.path().join("zeros.ndjson.gz");
    tokio::task::spawn_blocking(move || bomb::gzip(b"\0", GIB + 1, File::create(path).expect("made")))
        .await
        .expect("written");
    assert!(bytes_of(&bench, "zeros.ndjson.gz") < 2 << 20, "the file itself is small");
    let ended = import(&bench, "zeros.ndjson.gz").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("and their reasons have more than 1073741824 bytes"), "{}", ended.stderr);
    assert!(bytes_of(&bench, "zeros.ndjson.gz.rejected") <= GIB);
    assert!(bytes_of(&bench, "zeros.ndjson.gz.rejected.reasons") < 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_all_look_right_end_at_the_limit_of_rejected_records() {
    let bench = Bench::start().await;
    let json =
        r#"{"platform":"t","post_id":"1","content":"c","sentiment_label":"nice","posted_at":"2024-05-01T12:00:00Z"}"#;
    let ndjson = bench.dir.path().join("lines.ndjson.zst");
    let csv = bench.dir.path().join("lines.csv.gz");
    let written = tokio::task::spawn_blocking(move || {
        bomb::zstd(format!("{json}\n").as_bytes(), GIB, File::create(ndjson).expect("made"));
        // The header, which every further line repeats, is no post.
        let header = b"platform,post_id,content,sentiment_label,posted_at\n";
        bomb::gzip(header, GIB, File::create(csv).expect("made"));
    });
    written.await.expect("written");
    for (file, line) in
        [("lines.ndjson.zst", json), ("lines.csv.gz", "platform,post_id,content,sentiment_label,posted_at")]
    {
        assert!(bytes_of(&bench, file) < 8 << 20, "{file} itself is small");
        let ended = import(&bench, file).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
        assert!(ended.stderr.contains("more than 10000 records were rejected"), "{}", ended.stderr);
        let rejected = bench.read(&format!("{file}.rejected"));
        let lines = rejected.lines().count();
        assert!(
            (10_001..=10_002).contains(&lines) && rejected.lines().all(|found| found == line),
            "{file}: {lines} lines"
        );
        assert!(bytes_of(&bench, &format!("{file}.rejected.reasons")) < 2 << 20, "{file}");
    }
    assert_eq!(bench.text("select count(*) from public.sentiment_social").await, "0");
}

/// One quoted field that does not end, of lines.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_without_end_is_set_aside_whole() {
    let bench = Bench::start().await;
    let path = bench.dir.path().join("field.csv.zst");
    let written = tokio::task::spawn_blocking(move || {
        let mut file = File::create(path).expect("made");
        // Two frames one behind the other are one stream.
        let header = b"platform,post_id,content,sentiment_label,posted_at\nt,1,\"";
        std::io::Write::write_all(&mut file, &zstd::encode_all(&header[..], 1).expect("compressed")).expect("written");
        bomb::zstd(b"a line of a text\n", GIB / 4, file);
    });
    written.await.expect("written");
    let ended = import(&bench, "field.csv.zst").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("not one of 1 records could be imported"), "{}", ended.stderr);
    assert!(bytes_of(&bench, "field.csv.zst.rejected") >= GIB / 4, "verbatim");
    assert_eq!(bench.read("field.csv.zst.rejected.reasons"), "field.csv.zst:2: is longer than 16777216 bytes\n");
}
