//! `platform etl` of one day of 100,000 rows, against a pandas job and a GROUP BY in PostgreSQL that fill the same result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;

use crate::engine::{self, ask, run};
use crate::figures::{Line, knob, line, median, ms, repetitions};
use crate::process::{Timed, timed};
use crate::rows;
use crate::support::Stack;

/// Days of the peer's table follow its ids, each has 100,000 rows; this one needs 500,000 rows.
const DAY: &str = "2026-10-05";
const NEXT: &str = "2026-10-06";

const AGGREGATE: &str = "-- summary: Posts of a day, as the peer counts them.
-- table: social
-- bucket: day(posted_at)
-- keys: platform, sentiment, topic
-- rows: sum(n)
select platform, sentiment, topic, count() as n, avg(toFloat64(score)) as avg_score, sum(source.likes) as likes,
    sum(source.shares) as shares, uniqExact(author) as authors
from {source} as source
group by platform, sentiment, topic
";

const PEERS_RESULT: &str = "CREATE TABLE k.daily(day Date, platform LowCardinality(String), sentiment LowCardinality(String), topic LowCardinality(Nullable(String)), n UInt64, avg_score Float64, likes Int64, shares Int64, authors UInt64) ENGINE=MergeTree PARTITION BY day ORDER BY (platform,sentiment)";

/// A folder of aggregates with this one file, for `stack`.
pub(crate) fn aggregate(stack: &Stack, name: &str, sql: &str) -> PathBuf {
    let folder = stack.data_dir().join(format!("bench-{name}"));
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join(format!("{name}.sql")), sql).expect("written");
    folder
}

/// Builds `day` as it is in the mirror: without the wait for the mirror and the comparison with PostgreSQL.
pub(crate) fn build(stack: &Stack, folder: &Path, day: &str) -> Timed {
    let mut command = stack.command(&["etl", "--date", day, "--wait-lsn", "none", "--force"]);
    command.env("PLATFORM__ETL__AGGREGATES_DIR", folder);
    timed(command)
}

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    rows::generate(stack, knob("PLATFORM_BENCH_ROWS", 1_000_000)).await;
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    client.batch_execute("alter publication platform add table social").await.expect("published");
    stack.platform(&["load", "social"]).json();
    let clickhouse = engine::client(stack);
    for sql in ["CREATE DATABASE IF NOT EXISTS k", "DROP TABLE IF EXISTS k.daily SYNC", PEERS_RESULT] {
        run(&clickhouse, sql).await;
    }
    engine::settle(&clickhouse).await;
    let python = install();
    let folder = aggregate(stack, "social_daily", AGGREGATE);
    reached(stack, &folder);
    // A platform that has run for a while: Kafka and Connect compile their code during the first minute, beside whatever is measured.
    let warm = Instant::now() + Duration::from_secs(knob("PLATFORM_BENCH_WARM_UP_SECONDS", 60));
    while Instant::now() < warm {
        round(stack, &clickhouse, &python, &folder).await;
    }
    let mut samples: [Vec<f64>; 5] = Default::default();
    let mut memory: [f64; 3] = [0.0; 3];
    for repetition in 0..repetitions() {
        let (seconds, mib) = round(stack, &clickhouse, &python, &folder).await;
        println!("etl {repetition}: {seconds:?}");
        for (all, one) in samples.iter_mut().zip(seconds) {
            all.push(one);
        }
        memory = std::array::from_fn(|who| memory[who].max(mib[who]));
    }
    let whole: Vec<f64> = (0..repetitions()).map(|_| whole(stack, &folder, DAY).seconds).collect();
    let ours = median(&samples[0]);
    let against = |at: usize, who: usize, what: &str| {
        let peer = median(&samples[at]);
        let figure = format!("{}, {:.0} MiB", ms(ours), memory[0]);
        let what = format!("{what} {}, {:.0} MiB", ms(peer), memory[who]);
        line("etl of a day of 100,000 rows, the process from its start to its end", figure, what, Some(peer / ours))
    };
    vec![
        against(3, 1, "the pandas job from its start to its end"),
        against(1, 1, "the pandas job without the start of the interpreter and its imports"),
        against(4, 2, "GROUP BY in PostgreSQL, and an insert, from start to end"),
        against(2, 2, "the same without the start"),
        line("the same with the wait for the mirror and the comparison with PostgreSQL", ms(median(&whole)), "", None),
    ]
}

/// Ours, the peers' own time, the peers from the start of the interpreter to its end, in seconds; and the three's memory in MiB.
async fn round(stack: &Stack, clickhouse: &ClickHouse, python: &Path, folder: &Path) -> ([f64; 5], [f64; 3]) {
    let built = build(stack, folder, DAY);
    let pandas = timed(peer(stack, python, "pandas"));
    let theirs = ask(clickhouse, &sums("k.daily")).await;
    let grouped = timed(peer(stack, python, "postgres"));
    assert_eq!(ask(clickhouse, &sums("analytics.social_daily")).await, theirs, "both sides have the same day");
    let own = |peer: &Timed, what: &str| peer.report[what].as_f64().expect("a number");
    let seconds = [built.seconds, own(&pandas, "seconds"), own(&grouped, "seconds"), pandas.seconds, grouped.seconds];
    (seconds, [built.peak_mib, own(&pandas, "peak_mib"), own(&grouped, "peak_mib")])
}

/// A run as cron has it.
fn whole(stack: &Stack, folder: &Path, day: &str) -> Timed {
    let mut command = stack.command(&["etl", "--date", day, "--force"]);
    command.env("PLATFORM__ETL__AGGREGATES_DIR", folder);
    timed(command)
}

/// Lets the mirror reach the snapshot of the load before, without which it is not complete: a day without rows waits for it.
pub(crate) fn reached(stack: &Stack, folder: &Path) {
    whole(stack, folder, "2000-01-01");
}

fn sums(table: &str) -> String {
    format!(
        "select count(), sum(n), round(sum(avg_score * n), 2), sum(likes), sum(shares), sum(authors) from {table} where day = '{DAY}'"
    )
}

fn peer(stack: &Stack, python: &Path, who: &str) -> Command {
    let (url, user, password) = stack.clickhouse();
    let mut command = Command::new(python);
    command.arg(folder().join("etl_day.py")).args([who, &format!("{DAY} 00:00:00+00"), &format!("{NEXT} 00:00:00+00")]);
    command.env("PEER_POSTGRES", stack.postgres_url()).env("PEER_CLICKHOUSE", url.trim_start_matches("http://"));
    command.env("PEER_USER", user).env("PEER_PASSWORD", password);
    command
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bulk/peers")
}

/// The peer's interpreter with its packages, below the target folder.
fn install() -> PathBuf {
    let venv =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("bench-peers").join("pandas");
    if !venv.join("installed").exists() {
        println!("installing pandas into {}", venv.display());
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status().expect("started");
        assert!(made.success(), "no virtual environment: Debian package python3-venv");
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        assert!(pip.arg(folder().join("requirements.txt")).status().expect("started").success(), "pip");
        std::fs::write(venv.join("installed"), "").expect("written");
    }
    venv.join("bin/python")
}
