//! `platform import`: where records come from, and how an interrupted import goes on.

use std::io::Write as _;

use nix::sys::signal::Signal;

use super::{Bench, Ended};
use crate::support::processes;

fn line(post_id: usize, more: &str) -> String {
    format!(
        r#"{{"platform":"t","post_id":"{post_id}","content":"c","sentiment_label":"neutral","posted_at":"2024-05-01T12:00:00Z"{more}}}"#
    )
}

fn counts(ended: &Ended) -> [u64; 5] {
    let result = ended.result();
    ["read", "inserted", "unchanged", "rejected", "resumed"].map(|key| result[key].as_u64().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_mapped_and_columns_may_be_constant() {
    let bench = Bench::start().await;
    let json = r#"{"id":17,"text":"hallo","when":"2024-05-01T12:00:00Z","mood":"mixed","user":{"name":"x"}}"#;
    bench.file("a.ndjson", json);
    bench.file("b.csv", "when,mood,text,id,nothing\n2024-05-02T12:00:00Z,positive,hello,18,x\n");
    let flags = [
        "--map",
        "post_id=id",
        "--map",
        "content=text",
        "--map",
        "posted_at=when",
        "--map",
        "sentiment_label=mood",
        "--set",
        "platform=blog",
        "--set",
        "hashtags={a,b}",
    ];
    let mut arguments = vec!["import", "a.ndjson", "b.csv"];
    arguments.extend(flags);
    let ended = bench.run(&arguments).await;
    assert_eq!(ended.code, Some(65), "the header has an unknown column: {}", ended.stderr);
    assert!(bench.read("a.ndjson.rejected.reasons").contains("unknown field \"user\""));
    arguments.push("--ignore-unknown");
    let ended = bench.run(&arguments).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [2, 2, 0, 0, 0]), "{}", ended.stderr);
    let posts = "select string_agg(concat_ws(' ', platform, post_id, content, sentiment_label, hashtags), ', ' order by post_id) \
                 from public.sentiment_social";
    assert_eq!(bench.text(posts).await, "blog 17 hallo mixed {a,b}, blog 18 hello positive {a,b}");
    for wrong in [["--map", "content"], ["--map", "id=content"], ["--set", "content=x"]] {
        let ended = bench.run(&["import", "a.ndjson", "--map", "content=text", wrong[0], wrong[1]]).await;
        assert_eq!(ended.code, Some(2), "{wrong:?}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_and_content_decide_what_is_read() {
    let bench = Bench::start().await;
    let folder = bench.dir.path().join("in");
    std::fs::create_dir(&folder).expect("made");
    // Named as plain text, and compressed all the same.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(line(1, "").as_bytes()).expect("compressed");
    std::fs::write(folder.join("a.ndjson"), gzip.finish().expect("compressed")).expect("written");
    std::fs::write(folder.join("b.jsonl.gz"), zstd::encode_all(line(2, "").as_bytes(), 1).expect("compressed"))
        .expect("written");
    std::fs::write(folder.join("c.ndjson.gz"), line(3, "")).expect("written");
    std::fs::write(folder.join("notes.txt"), "not read").expect("written");
    let ended = bench.run(&["import", "in"]).await;
    assert_eq!((ended.code, counts(&ended)), (Some(0), [3, 3, 0, 0, 0]), "{}", ended.stderr);
    assert_eq!(ended.result()["files"], 3);
    bench.file("dump", &format!("\u{feff}\n{}", line(4, "")));
    let ended = bench.run(&["import", "dump"]).await;
    assert_eq!(counts(&ended), [1, 1, 0, 0, 0], "a brace tells the format: {}", ended.stderr);
    std::fs::create_dir(bench.dir.path().join("empty")).expect("made");
    assert_eq!(bench.run(&["import", "empty"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_ended_early_goes_on_unless_what_it_read_has_changed() {
    let bench = Bench::start().await;
    let mut lines: Vec<String> = (0..50_000).map(|number| line(number, "")).collect();
    lines[10] = "bad one".into();
    lines[45_000] = "bad two".into();
    bench.file("p.ndjson", &lines.join("\n"));
    let ended = bench.run(&["import", "p.ndjson", "--max-rejected", "1"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("more than 1 records were rejected"), "{}", ended.stderr);
    let count = "select count(*) from public.sentiment_social";
    assert_eq!(bench.text(count).await, "39999", "two chunks without the bad record");

    lines[45_000] = line(45_000, "");
    bench.file("p.ndjson", &lines.join("\n"));
    let ended = bench.run(&["import", "p.ndjson", "--map", "content=content"]).await;
    assert_eq!(counts(&ended), [10_000, 10_000, 0, 0, 40_000], "the same mapping in other words: {}", ended.stderr);
    assert_eq!(bench.read("p.ndjson.rejected"), "bad one\n", "what came later is cut off, what came before is kept");
    assert_eq!(bench.text("select count(*) from platform.imports").await, "0", "nothing is left of a good end");
    assert_eq!(counts(&bench.run(&["import", "p.ndjson"]).await), [50_000, 0, 49_999, 1, 0]);

    // Another beginning: it is read again, and only what differs is written.
    lines[45_000] = "bad two".into();
    bench.file("p.ndjson", &lines.join("\n"));
    bench.run(&["import", "p.ndjson", "--max-rejected", "1"]).await;
    lines[10] = line(10, "");
    lines[45_000] = line(45_000, "");
    bench.file("p.ndjson", &lines.join("\n"));
    let ended = bench.run(&["import", "p.ndjson"]).await;
    assert_eq!(counts(&ended), [50_000, 1, 49_999, 0, 0], "{}", ended.stderr);
    assert!(ended.stderr.contains("has changed since"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_goes_on() {
    let bench = Bench::start().await;
    const ROWS: usize = 200_000;
    let header = "platform,post_id,content,sentiment_label,posted_at\r\n";
    let rows: String =
        (0..ROWS).map(|number| format!("t,{number},\"two\r\nlines\",mixed,2024-05-01T12:00:00Z\r\n")).collect();
    bench.file("p.csv", &format!("{header}{rows}t,bad\r\n"));
    let mut child = bench.command(&["import", "p.csv"]).spawn().expect("starts");
    bench.wait_for("select count(*) > 0 from platform.imports", "true").await;
    // Nobody writes the table now, and the import waits in the middle of its work.
    bench.client.batch_execute("begin; lock table public.sentiment_social in share mode").await.expect("locked");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process number");
    processes::signal(pid, Signal::SIGKILL);
    child.wait().await.expect("ended");
    bench.client.batch_execute("commit").await.expect("unlocked");
    let ended = bench.run(&["import", "p.csv"]).await;
    let [read, inserted, unchanged, rejected, resumed] = counts(&ended);
    assert!((20_000..200_000).contains(&resumed), "{ended:?}");
    assert_eq!((read + resumed, unchanged, rejected), (200_001, 0, 1), "{ended:?}");
    assert_eq!(inserted + resumed, 200_000);
    assert_eq!(bench.text("select count(distinct post_id) from public.sentiment_social").await, "200000");
    let line = 2 * ROWS + 2;
    assert!(
        bench.read("p.csv.rejected.reasons").contains(&format!("p.csv:{line}: has 2 fields")),
        "lines are counted on"
    );
    assert_eq!(bench.read("p.csv.rejected"), format!("{}\nt,bad\n", header.trim_end()));
}
