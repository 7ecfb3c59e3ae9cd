//! Statistics follow the rows by themselves: exactly, whatever happens to the rows, to the sink, or to the file.

use std::path::Path;
use std::time::{Duration, Instant};

use platform::failpoint::POINTS;

use super::{CATCH_UP, Hands};
use crate::support::own_sink::OwnSink;
use crate::support::wait::wait_until;
use crate::support::{Options, Stack};

/// How long a point may take to be passed.
const REACHED: Duration = Duration::from_secs(90);

const OF_CLICKHOUSE: &str = "select concat_ws('|', toString(day), platform, ifNull(topic, '<null>'), ifNull(lang, '<null>'), sentiment_label, \
    toString(posts), toString(authors), ifNull(toDecimalString(mean_score, 6), '<null>'), ifNull(toDecimalString(min_score, 3), '<null>'), \
    ifNull(toDecimalString(max_score, 3), '<null>'), ifNull(toDecimalString(median_score, 3), '<null>'), \
    toString(likes), toString(replies), toString(shares)) as line from analytics.sentiment_daily";
const OF_POSTGRES: &str = "select concat_ws('|', (posted_at at time zone 'UTC')::date, platform, coalesce(topic, '<null>'), \
    coalesce(lang, '<null>'), sentiment_label, count(*), count(distinct author), coalesce(round(avg(sentiment_score), 6)::text, '<null>'), \
    coalesce(min(sentiment_score)::text, '<null>'), coalesce(max(sentiment_score)::text, '<null>'), \
    coalesce((percentile_disc(0.5) within group (order by sentiment_score))::text, '<null>'), sum(likes), sum(replies), sum(shares)) \
    from sentiment_social group by (posted_at at time zone 'UTC')::date, platform, topic, lang, sentiment_label";
const HOURS_OF_CLICKHOUSE: &str = "select concat_ws('|', toString(hour), platform, sentiment_label, toString(sum(posts)), toString(sum(likes))) \
    as line from analytics.sentiment_hourly group by hour, platform, sentiment_label";
const HOURS_OF_POSTGRES: &str = "select concat_ws('|', date_trunc('hour', posted_at at time zone 'UTC'), platform, sentiment_label, count(*), \
    sum(likes)) from sentiment_social group by date_trunc('hour', posted_at at time zone 'UTC'), platform, sentiment_label";

/// Lines of ClickHouse; `None` while there is no result to read.
async fn of_clickhouse(hands: &Hands, sql: &str) -> Option<Vec<String>> {
    let rows: Vec<serde_json::Value> = hands.clickhouse.fetch_all(sql, &[]).await.ok()?;
    let mut lines: Vec<String> = rows.iter().map(|row| row["line"].as_str().expect("a text").to_owned()).collect();
    lines.sort();
    Some(lines)
}

async fn of_postgres(hands: &Hands, sql: &str) -> Vec<String> {
    let rows = hands.postgres.query(sql, &[]).await.expect("read");
    let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.sort();
    lines
}

/// Waits until both say the same; the time that it took.
async fn follow(hands: &Hands, what: &str) -> Duration {
    let begun = Instant::now();
    for (ours, theirs) in [(OF_CLICKHOUSE, OF_POSTGRES), (HOURS_OF_CLICKHOUSE, HOURS_OF_POSTGRES)] {
        let expected = of_postgres(hands, theirs).await;
        let equal = || async { of_clickhouse(hands, ours).await.as_ref() == Some(&expected) };
        wait_until(&format!("the statistics follow: {what}"), CATCH_UP, equal).await;
    }
    eprintln!("{what}: after {:?}", begun.elapsed());
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_follow_whatever_happens_to_the_rows() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    let insert = "insert into sentiment_social (platform, post_id, author, content, lang, topic, sentiment_label, sentiment_score, likes, replies, \
                  shares, posted_at) select 'p' || g % 3, g::text, nullif(g % 7, 0)::text, 'x', nullif(g % 2, 0)::text, 't' || g % 4, \
                  (array['positive','negative','neutral','mixed'])[1 + g % 4], nullif(g % 11, 0) / 10.0 - 0.5, g, g % 5, 1, \
                  '2024-05-01 23:00+00'::timestamptz + g * interval '7 minutes' from generate_series(1, 600) g";
    for (what, statement) in [
        ("rows come", insert),
        ("a value changes", "update sentiment_social set likes = likes + 1000, author = 'same' where id % 5 = 0"),
        (
            "rows move to another day",
            "update sentiment_social set posted_at = posted_at - interval '30 hours' where id % 3 = 0",
        ),
        ("rows move before 1970", "update sentiment_social set posted_at = '1931-02-03 04:05:06+00' where id % 50 = 1"),
        ("keys change", "update sentiment_social set id = id + 100000 where id % 4 = 0"),
        ("a day becomes empty", "delete from sentiment_social where posted_at < '2024-05-02'"),
        (
            "a row comes back",
            "insert into sentiment_social (id, platform, post_id, content, sentiment_label, posted_at) overriding system value \
                              values (3, 'p', 'back', 'x', 'mixed', '2024-05-01 01:00+00')",
        ),
        ("the table is emptied", "truncate sentiment_social"),
        ("rows come again", insert),
    ] {
        hands.run(statement).await;
        follow(&hands, what).await;
    }
    // Jobs at the same time: one of both builds a bucket, and neither is disturbed.
    let job = |arguments: &'static [&'static str]| {
        let code = tokio::task::block_in_place(|| stack.platform(arguments)).code;
        assert!(matches!(code, Some(0 | 75 | 99)), "{arguments:?} ended with {code:?}");
    };
    let changes = async {
        for round in 0..150 {
            hands.run(&format!("update sentiment_social set likes = likes + 1 where id % 10 = {}", round % 10)).await;
        }
    };
    let jobs = async {
        for _ in 0..3 {
            job(&["etl", "--from", "2024-05-01", "--to", "2024-05-04"]);
            job(&["etl", "--dirty", "--wait-lsn", "none"]);
        }
    };
    tokio::join!(changes, jobs);
    follow(&hands, "jobs at the same time").await;

    // What the sink has missed while it was down.
    hands.run("update sentiment_social set topic = null where id % 2 = 0").await;
    tokio::task::block_in_place(|| stack.crash_part("sink"));
    hands.run("delete from sentiment_social where id % 3 = 1").await;
    follow(&hands, "the sink was killed").await;
    let loaded = tokio::task::block_in_place(|| stack.platform(&["load", "sentiment_social"]));
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    follow(&hands, "the table was loaded").await;
}

/// A folder with one file, whose SELECT is another one in each round.
fn write_aggregate(folder: &Path, round: usize) {
    std::fs::create_dir_all(folder).expect("made");
    let text = format!(
        "-- summary: rows by kind\n-- table: refreshed\n-- bucket: month(at)\n-- keys: kind\n-- rows: sum(n)\n\n\
         select kind, count() as n, uniqExact(note) as notes, {round} as round from {{source}} group by kind\n"
    );
    std::fs::write(folder.join("kinds_monthly.sql"), text).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresher_killed_at_any_point_leaves_what_the_next_one_mends() {
    if !cfg!(feature = "failpoints") {
        panic!("crash points need --features failpoints; `make test` gives it");
    }
    let parts = "postgres,kafka,connect,clickhouse,migrate,load,connector";
    let stack = Stack::start_with(Options { parts: Some(parts), ..Options::default() });
    let hands = Hands::of(&stack).await;
    hands
        .run(
            "create table refreshed (id int primary key, at date not null, kind text not null, note text);
             insert into refreshed select g, '2024-01-01'::date + g, 'k' || g % 3, g % 10 from generate_series(1, 100) g;
             alter publication platform add table refreshed",
        )
        .await;
    let folder = stack.data_dir().join("aggregates");
    let dir = folder.to_str().expect("plain").to_owned();
    let common = [("PLATFORM__ETL__AGGREGATES_DIR", dir.as_str()), ("PLATFORM__SINK__SUPERVISE_INTERVAL_MS", "200")];
    let points =
        POINTS.iter().map(|(name, _)| *name).filter(|name| name.starts_with("build.") || name.starts_with("publish."));
    for (round, point) in points.enumerate() {
        write_aggregate(&folder, round);
        let mut sink = OwnSink::start(&stack, &[common[0], common[1], ("PLATFORM_FAILPOINT", point)]);
        hands.run("update refreshed set at = at + 31, note = note || '!' where id % 7 = 0").await;
        let killed = tokio::task::block_in_place(|| sink.was_killed(REACHED));
        assert!(killed, "{point} was not reached:\n{}", stack.log("own-sink"));
        if round > 0 {
            let sql = "select count() as n from (select month, kind from analytics.kinds_monthly group by month, kind having count() > 1)";
            let twice: Vec<serde_json::Value> =
                hands.clickhouse.fetch_all(sql, &[]).await.expect("readable all the time");
            assert_eq!(twice[0]["n"], "0", "killed at {point}");
        }
        let sink = OwnSink::start(&stack, &common);
        let ours = format!(
            "select concat_ws('|', toString(month), kind, toString(n), toString(notes)) as line from analytics.kinds_monthly where round = {round}"
        );
        let theirs = "select concat_ws('|', date_trunc('month', at)::date, kind, count(*), count(distinct note)) from refreshed \
                      group by date_trunc('month', at), kind";
        let expected = of_postgres(&hands, theirs).await;
        let mended = || async { of_clickhouse(&hands, &ours).await.as_ref() == Some(&expected) };
        wait_until(&format!("it is mended after {point}"), CATCH_UP, mended).await;
        let left = "select name as line from system.tables where database = 'platform' and (startsWith(name, '_staging') or startsWith(name, 'result_'))";
        let tidy = || async { of_clickhouse(&hands, left).await.is_some_and(|names| names.len() == 1) };
        wait_until(&format!("nothing is left after {point}"), CATCH_UP, tidy).await;
        sink.stop();
    }
}
