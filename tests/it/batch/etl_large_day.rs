//! A day of a large table: read by a range of keys where they stand close together, and the same rows as otherwise.

use platform::batch::aggregates;
use platform::domain::RunDate;
use platform::store::mirror_day::MirrorDay;

use super::mirrored::Mirrored;

/// The second day has the keys from 432,000 to 863,999.
const ROWS: &str = "insert into mirror.big select number, \
     toDateTime64('2024-05-01 00:00:00', 6, 'UTC') + toIntervalMillisecond(number * 200), number % 7, 10, 0 from numbers(1200000)";
const FILE: &str = "-- summary: rows by group\n-- table: big\n-- bucket: day(at)\n-- keys: g\n-- rows: sum(n)\n\n\
                    select g, count() as n, sum(id) as ids from {source} group by g\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_keys_has_the_same_rows_as_their_set() {
    let mut bench = Mirrored::caught_up().await;
    let columns = "id Int64, at DateTime64(6, 'UTC'), g Int64, _version UInt128, _deleted UInt8";
    bench
        .ask(&format!(
            "create table mirror.big ({columns}) engine = ReplacingMergeTree(_version, _deleted) order by (id)"
        ))
        .await;
    bench.ask(ROWS).await;
    // One comes from the day before, one goes to the day after, one is deleted; and the third day gets a key far below its others.
    for (id, at, deleted) in [(400_000, "02", 0), (500_000, "03", 0), (600_000, "02", 1), (7, "03", 0)] {
        bench.ask(&format!("insert into mirror.big values ({id}, '2024-05-{at} 12:00:00', 1, 11, {deleted})")).await;
    }
    let file = bench.file("big.sql", FILE);
    bench.set("PLATFORM__ETL__AGGREGATES_DIR", &file.parent().expect("a folder").display().to_string());
    let aggregate = aggregates::all(bench.variable("PLATFORM__ETL__AGGREGATES_DIR")).expect("parsed").remove(0);
    for (day, is_narrowed, rows) in
        [("2024-05-02", true, 431_999), ("2024-05-03", false, 336_002), ("2024-06-01", false, 0)]
    {
        let date: RunDate = day.parse().expect("a day");
        let by_set = MirrorDay::find(&bench.clickhouse, &aggregate, date).await.expect("found");
        let narrowed = by_set.clone().narrowed(&bench.clickhouse).await.expect("looked");
        assert_eq!(narrowed.select(&aggregate) != by_set.select(&aggregate), is_narrowed, "{day}");
        let facts = narrowed.facts(&bench.clickhouse, &aggregate, &[]).await.expect("read");
        assert_eq!(facts, by_set.facts(&bench.clickhouse, &aggregate, &[]).await.expect("read"), "{day}");
        assert_eq!(facts.rows, rows, "{day}");
    }
    for arguments in [&["--force"] as &[&str], &[], &["--force"]] {
        let mut all = vec!["--date", "2024-05-02", "--wait-lsn", "none"];
        all.extend(arguments);
        let ended = bench.etl(&all).await;
        assert_eq!(ended.code, Some(if arguments.is_empty() { 99 } else { 0 }), "{}", ended.stderr);
        let built = bench.ask("select sum(n), sum(ids) from analytics.big where day = '2024-05-02'").await;
        let there = "select count(), sum(id) from mirror.big final where _deleted = 0 and toDate(at) = '2024-05-02'";
        assert_eq!(built, bench.ask(there).await);
        assert_eq!(bench.staging().await, "");
    }
}
