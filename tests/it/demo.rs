//! `make demo` on a running platform: the posts are those of the package, as people rated them, and each is there once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use platform::store::clickhouse::ClickHouse;
use platform::store::postgres;
use rust_decimal::Decimal;
use tokio_postgres::Client;

use crate::support::Stack;
use crate::support::stack::PLATFORM;

const PACKAGE: &str = "vaderSentiment-3.3.2.tar.gz";
/// The archive of the rated texts inside of the package.
const INNER: &str = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz";
/// Its file of each platform: lines of an id, the mean rating and the text.
const FILES: [(&str, &str); 4] = [
    ("twitter", "tweets_GroundTruth.txt"),
    ("amazon", "amazonReviewSnippets_GroundTruth.txt"),
    ("rottentomatoes", "movieReviewSnippets_GroundTruth.txt"),
    ("nytimes", "nytEditorialSnippets_GroundTruth.txt"),
];

/// What a post is: content, label, score.
type Rated = (String, String, Decimal);
/// By platform and post_id.
type Posts = BTreeMap<(String, String), Rated>;

/// Unpacks one file of an archive to its text.
fn unpacked(archive: &Path, file: &str) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(["--extract", "--gzip", "--to-stdout", "--file"]).arg(archive).arg(file);
    let output = command.stderr(Stdio::inherit()).output().expect("tar runs");
    assert!(output.status.success(), "{file} of {}", archive.display());
    output.stdout
}

/// The posts as the README of the demo says they come of the package, read without the demo's own code.
fn of_the_package(package: &Path, folder: &Path) -> Posts {
    let inner = folder.join("inner.tar.gz");
    std::fs::write(&inner, unpacked(package, INNER)).expect("written");
    let half = Decimal::new(5, 1);
    let mut posts = Posts::new();
    for (platform, file) in FILES {
        let text = String::from_utf8(unpacked(&inner, &format!("hutto_ICWSM_2014/{file}"))).expect("UTF-8");
        for line in text.lines() {
            let mut fields = line.splitn(3, '\t');
            let mut field = || fields.next().unwrap_or_else(|| panic!("three fields: {line:?}"));
            let (id, rating, content) = (field(), field(), field());
            let rating: Decimal = rating.parse().unwrap_or_else(|error| panic!("{error}: {line:?}"));
            let label = match rating {
                good if good >= half => "positive",
                bad if bad <= -half => "negative",
                _ => "neutral",
            };
            let score = (rating / Decimal::from(4)).round_dp(3);
            let rated = (content.trim().to_owned(), label.to_owned(), score);
            assert!(posts.insert((platform.to_owned(), id.to_owned()), rated).is_none(), "{platform} {id} comes twice");
        }
    }
    posts
}

async fn of_postgresql(client: &Client) -> Posts {
    let sql = "select platform, post_id, content, sentiment_label, sentiment_score from sentiment_social \
               where model_name = 'human-raters' and lang = 'en' \
               and posted_at >= '2014-01-01T00:00:00Z' and posted_at < '2014-04-01T00:00:00Z'";
    let rows = client.query(sql, &[]).await.expect("posts");
    rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3), row.get(4)))).collect()
}

/// Rows of ClickHouse, one text each.
async fn ask(clickhouse: &ClickHouse, select: &str) -> Vec<String> {
    let sql = format!("select concat_ws(' ', {select}");
    let rows: Vec<BTreeMap<String, String>> = clickhouse.fetch_all(&sql, &[]).await.expect("rows");
    rows.into_iter().flat_map(BTreeMap::into_values).collect()
}

/// What `make demo` runs, and what it said on stdout.
async fn demo(stack: &Stack, folder: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("examples/vader/demo.sh"));
    command.arg(PLATFORM).current_dir(folder).stdin(Stdio::null()).envs(stack.environment());
    let run = tokio::process::Command::from(command).kill_on_drop(true).output();
    // 180 builds, each behind a position of the log.
    let run = tokio::time::timeout(Duration::from_secs(600), run).await.expect("it ends in time").expect("it runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}: {stdout}\n{stderr}", run.status);
    stdout.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_imports_the_posts_as_people_rated_them_and_each_once() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join(".vader").join(PACKAGE);
    assert!(package.is_file(), "{} is missing: run `make test`, which fetches it", package.display());
    let stack = tokio::task::spawn_blocking(Stack::shared).await.expect("started");
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(".platform/vader");
    std::fs::create_dir_all(&place).expect("made");
    std::os::unix::fs::symlink(&package, place.join(PACKAGE)).expect("linked");

    let first = demo(stack, folder.path()).await;
    assert!(first.contains(r#""read":23703,"inserted":23703,"#), "{first}");

    let expected = of_the_package(&package, folder.path());
    let client = postgres::connect(&stack.settings().postgres, "test").await.expect("connected");
    let posts = of_postgresql(&client).await;
    let different = expected.iter().find(|(key, rated)| posts.get(*key) != Some(*rated));
    assert_eq!((posts.len(), different), (expected.len(), None));
    assert_eq!(posts.len(), 23_703, "what the README says");
    let labelled = |label: &str| posts.values().filter(|(_, found, _)| found == label).count();
    assert_eq!(["positive", "negative", "neutral"].map(labelled), [10_278, 9_181, 4_244], "what the README says");
    assert_eq!(posts.values().map(|(.., score)| score).sum::<Decimal>(), Decimal::new(714_714, 3), "likewise");

    // The statistics are built, of every day, and say the same.
    let clickhouse = ClickHouse::new(&stack.settings().clickhouse).expect("a client");
    let days = "where day between '2014-01-01' and '2014-03-31' and platform in ('twitter', 'amazon', 'rottentomatoes', 'nytimes')";
    let built = format!(
        "sentiment_label, toString(sum(posts))) as text from analytics.sentiment_daily {days} group by sentiment_label order by text"
    );
    assert_eq!(ask(&clickhouse, &built).await, ["negative 9181", "neutral 4244", "positive 10278"]);
    let number = format!("toString(uniqExact(day))) as text from analytics.sentiment_daily {days}");
    assert_eq!(ask(&clickhouse, &number).await, ["90"]);

    let state = "select md5(string_agg(t::text || xmin::text, ',' order by id)) from sentiment_social t where model_name = 'human-raters'";
    let before: String = client.query_one(state, &[]).await.expect("a text").get(0);
    let again = demo(stack, folder.path()).await;
    assert!(again.contains(r#""read":23703,"inserted":0,"updated":0,"unchanged":23703,"#), "{again}");
    assert!(again.contains(r#""status":"unchanged""#), "{again}");
    let after: String = client.query_one(state, &[]).await.expect("a text").get(0);
    assert_eq!(after, before, "no row was written again");
}
