//! Aggregates over the same rows share what was read of them, as the refresher has it.

use platform::batch::aggregates::{self, BucketLock, DayRead, Outcome, Position, Request};
use platform::catalog::Aggregate;
use platform::domain::Lsn;
use platform::shutdown::Shutdown;
use platform::store::builds::Build;

use super::mirrored::Mirrored;

const DAY: &str = "2024-05-01";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_is_not_taken_for_what_was_built() {
    let bench = Mirrored::caught_up().await;
    insert(&bench, "generate_series(1, 10)").await;
    bench.copy(10, "true").await;
    let mut read = None;
    assert_eq!(build(&bench, "sentiment_daily", &mut read).await.rows_in, 10);

    // A row comes in between: the second aggregate has it, and is recorded as made of the rows that were read.
    insert(&bench, "generate_series(11, 11)").await;
    bench.copy(11, "post_id = '11'").await;
    assert_eq!(build(&bench, "sentiment_hourly", &mut read).await.rows_in, 10, "they share what was read");
    assert_eq!(bench.ask("select sum(posts) from analytics.sentiment_hourly").await, "11\n");

    // So the next look at either sees other rows, and builds again.
    for name in ["sentiment_daily", "sentiment_hourly"] {
        assert_eq!(build(&bench, name, &mut None).await.rows_in, 11);
        assert_eq!(bench.ask(&format!("select sum(posts) from analytics.{name}")).await, "11\n");
    }
    assert_eq!(bench.staging().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_may_differ_by_what_the_sink_has_taken_in_meanwhile() {
    let bench = Mirrored::caught_up().await;
    insert(&bench, "generate_series(1, 10)").await;
    bench.copy(10, "true").await;
    // It says three rows more than went in.
    let file = "-- summary: some\n-- table: sentiment_social\n-- bucket: day(posted_at)\n-- keys: platform\n-- rows: sum(n) + 3\n\n\
                select platform, count() as n from {source} group by platform\n";
    let folder = bench.file("wrong.sql", file).parent().expect("a folder").display().to_string();
    let wrong = aggregates::all(&folder).expect("parsed").remove(0);
    bench.checkpoint(10, Lsn::new(u64::MAX >> 8)).await;
    for (batch, exact, is_built) in [(10, false, false), (8, false, false), (7, true, false), (7, false, true)] {
        let outcome = request(&bench, &wrong, (batch, exact), &mut None).await;
        let shown = outcome.as_ref().map_err(|error| format!("{error:#}"));
        match shown {
            Ok(Outcome::Built(build)) => assert!(is_built, "{build:?}"),
            Err(error) => assert!(!is_built && error.contains("sum(n) + 3 = 13, but 10 rows went in"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.staging().await, "");
}

async fn insert(bench: &Mirrored, numbers: &str) {
    bench
        .postgres(&format!(
            "insert into public.sentiment_social (platform, post_id, content, sentiment_label, sentiment_score, posted_at) \
             select 'p', n::text, 'x', 'mixed', 0.5, '2024-05-01 12:00' from {numbers} n"
        ))
        .await;
}

/// Builds the day of an aggregate, which has to have changed.
async fn build(bench: &Mirrored, name: &str, read: &mut Option<DayRead>) -> Build {
    let all = aggregates::all("").expect("the shipped ones");
    let aggregate = all.iter().find(|aggregate| aggregate.name == name).expect("one of them");
    let outcome = request(bench, aggregate, (5, false), read).await.expect("built");
    let Outcome::Built(build) = outcome else { panic!("{name}: {outcome:?}") };
    build
}

/// What comes of a request behind `batch`.
async fn request(
    bench: &Mirrored,
    aggregate: &Aggregate,
    (batch, exact): (u64, bool),
    read: &mut Option<DayRead>,
) -> anyhow::Result<Outcome> {
    let day = DAY.parse().expect("a day");
    let lock = BucketLock::acquire(&bench.client, &aggregate.name, day).await.expect("asked").expect("taken");
    let request = Request {
        clickhouse: &bench.clickhouse,
        pipeline: "platform",
        aggregate,
        day,
        lock: &lock,
        position: Position { term: 1, batch, lsn: Lsn::new(0x50) },
        force: false,
        exact,
        is_shown: false,
        shutdown: &Shutdown::manual(),
    };
    let outcome = aggregates::build_bucket(&request, read).await;
    lock.release().await.expect("released");
    outcome
}
