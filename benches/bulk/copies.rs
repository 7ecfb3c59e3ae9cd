//! `platform generate` and `platform import` against PostgreSQL's own `COPY … FROM` a file of the same rows, on the server's
//! disk. Each of ours is timed from the start of its process to its end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Instant;

use futures_util::StreamExt as _;
use platform::batch::post::COLUMNS;
use platform::store::postgres;
use tokio_postgres::Client;

use crate::figures::{Line, knob, line, median, repetitions};
use crate::support::{Options, Stack};

/// What is measured, beside COPY.
const OURS: [&str; 6] = [
    "generate",
    "import NDJSON",
    "import NDJSON.gz",
    "import CSV",
    "import NDJSON again, nothing to do",
    "again with update",
];

/// Posts; `PLATFORM_BENCH_POSTS` changes it.
fn posts() -> u64 {
    knob("PLATFORM_BENCH_POSTS", 500_000)
}

/// The same rows in every form.
struct Files {
    copy: PathBuf,
    ndjson: PathBuf,
    gzip: PathBuf,
    csv: PathBuf,
}

pub(crate) async fn measure() -> Vec<Line> {
    let stack = Stack::start_with(Options { parts: Some("postgres,clickhouse,migrate"), ..Options::default() });
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    client.batch_execute("set statement_timeout = 0").await.expect("set");
    println!("making {} posts and their files", posts());
    generate(&stack);
    let files = files(&stack, &client).await;
    let copy = format!("copy public.sentiment_social ({}) from '{}'", COLUMNS.join(", "), files.copy.display());
    let mut copies = Vec::new();
    let mut ours: Vec<Vec<f64>> = OURS.iter().map(|_| Vec::new()).collect();
    for repetition in 0..repetitions() {
        let begun = empty(&client).await;
        client.batch_execute(&copy).await.expect("copied");
        copies.push(begun.elapsed().as_secs_f64());
        for (what, samples) in OURS.iter().zip(&mut ours) {
            let begun = if what.contains("again") { Instant::now() } else { empty(&client).await };
            match *what {
                "generate" => generate(&stack),
                "import NDJSON" | "import NDJSON again, nothing to do" => import(&stack, &files.ndjson, "skip"),
                "import NDJSON.gz" => import(&stack, &files.gzip, "skip"),
                "import CSV" => import(&stack, &files.csv, "skip"),
                _ => import(&stack, &files.ndjson, "update"),
            }
            samples.push(begun.elapsed().as_secs_f64());
            let count: i64 =
                client.query_one("select count(*) from public.sentiment_social", &[]).await.expect("counted").get(0);
            assert_eq!(u64::try_from(count).expect("not negative"), posts(), "{what}");
        }
        println!(
            "{repetition}: COPY {:.2} s, ours {:?}",
            copies.last().unwrap(),
            ours.iter().map(|all| all.last().unwrap()).collect::<Vec<_>>()
        );
    }
    let peer = median(&copies);
    let rate = |seconds: f64| format!("{:.0} rows/s", posts() as f64 / seconds);
    let ours = OURS.iter().zip(&ours).map(|(what, samples)| {
        let own = median(samples);
        line(*what, rate(own), format!("COPY FROM a file: {}", rate(peer)), Some(peer / own))
    });
    ours.collect()
}

/// An empty table, and nothing left to be written to disk.
async fn empty(client: &Client) -> Instant {
    client.batch_execute("truncate public.sentiment_social").await.expect("empty");
    client.batch_execute("checkpoint").await.expect("written");
    Instant::now()
}

fn generate(stack: &Stack) {
    stack.platform(&["generate", "--rows", &posts().to_string(), "--date", "2026-01-01", "--seed", "7"]).json();
}

fn import(stack: &Stack, file: &Path, on_conflict: &str) {
    stack.platform(&["import", &file.display().to_string(), "--on-conflict", on_conflict]).json();
}

async fn files(stack: &Stack, client: &Client) -> Files {
    let folder = stack.data_dir().join("bench");
    std::fs::create_dir(&folder).expect("made");
    let path = |name: &str| folder.join(name);
    let files = Files {
        copy: path("rows.copy"),
        ndjson: path("rows.ndjson"),
        gzip: path("rows.ndjson.gz"),
        csv: path("rows.csv"),
    };
    let columns = COLUMNS.join(", ");
    let of = format!("select {columns} from public.sentiment_social order by id");
    // Quotes and a delimiter that no JSON text has: each line is the text itself.
    let json =
        format!("copy (select to_json(t) from ({of}) t) to stdout (format csv, quote e'\\x01', delimiter e'\\x02')");
    write(client, &format!("copy ({of}) to stdout"), &files.copy).await;
    write(client, &json, &files.ndjson).await;
    write(client, &format!("copy ({of}) to stdout (format csv, header)"), &files.csv).await;
    let gzip = std::fs::File::create(&files.gzip).expect("made");
    let mut gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
    std::io::copy(&mut std::fs::File::open(&files.ndjson).expect("there"), &mut gzip).expect("compressed");
    gzip.finish().expect("compressed");
    files
}

async fn write(client: &Client, sql: &str, path: &Path) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("made"));
    let mut rows = pin!(client.copy_out(sql).await.expect("a copy"));
    while let Some(piece) = rows.next().await {
        file.write_all(&piece.expect("a piece")).expect("written");
    }
    file.flush().expect("written");
}
