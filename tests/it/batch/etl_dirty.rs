//! `platform etl --dirty`, hours and months, and files that change.

use serde_json::json;

use super::mirrored::Mirrored;

const DAYS: [&str; 3] = ["2024-04-30", "2024-05-01", "2024-05-02"];
const BY_MONTH: &str = "-- summary: Posts of a month.\n-- table: sentiment_social\n-- bucket: month(posted_at)\n-- keys: platform\n-- rows: sum(posts)\n\n\
                        select platform, count() as posts, uniqExact(author) as authors from {source} group by platform\n";

async fn filled() -> Mirrored {
    let bench = Mirrored::caught_up().await;
    for day in DAYS {
        bench.run(&["generate", "--rows", "200", "--date", day]).await;
    }
    bench.copy(10, "true").await;
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dirty_is_built_and_nothing_else() {
    let bench = filled().await;
    let first = bench.run(&["etl", "--dirty"]).await;
    let result = first.result();
    assert_eq!((first.code, &result["dirty"], &result["done"]), (Some(0), &json!(6), &json!(6)), "{}", first.stderr);
    for day in DAYS {
        assert!(bench.statistics(day).await == bench.statistics_of_postgres(day).await);
    }
    let hours = bench
        .ask("select toString(hour), sum(posts) from analytics.sentiment_hourly group by hour order by hour")
        .await;
    let of_postgres = "select string_agg(line, '' order by line) from (select concat(date_trunc('hour', posted_at at time zone 'UTC'), E'\t', \
                       count(*), E'\n') as line from sentiment_social group by date_trunc('hour', posted_at at time zone 'UTC')) t";
    assert_eq!(hours, bench.text(of_postgres).await);

    let nothing = bench.run(&["etl", "--dirty"]).await;
    assert_eq!((nothing.code, &nothing.result()["status"]), (Some(99), &json!("unchanged")), "{}", nothing.stderr);
    bench.postgres("delete from public.sentiment_social where posted_at >= '2024-05-02'").await;
    bench
        .ask("insert into platform.dirty_buckets values ('sentiment_daily', 0, '2024-05-02 00:00:00', 2, now64(6))")
        .await;
    bench.floor(11).await;
    bench.copy(12, "true").await;
    bench.checkpoint(2, platform::domain::Lsn::new(u64::MAX >> 8)).await;
    let planned = bench.run(&["etl", "--dirty", "--dry-run"]).await.result();
    assert_eq!((&planned["dirty"], &planned["would_build"]), (&json!(1), &json!(1)));
    let one = bench.run(&["etl", "--dirty"]).await;
    assert_eq!((one.code, &one.result()["done"]), (Some(0), &json!(1)), "{}", one.stderr);
    assert!(bench.statistics(DAYS[2]).await.is_empty());
    let refused = bench.run(&["etl", "--dirty", "--date", DAYS[0]]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_shown_when_it_has_every_bucket() {
    let mut bench = filled().await;
    let folder = bench.dir.path().join("aggregates");
    std::fs::create_dir(&folder).expect("a folder");
    bench.set("PLATFORM__ETL__AGGREGATES_DIR", folder.to_str().expect("a path"));
    let file = folder.join("posts_monthly.sql");
    std::fs::write(&file, BY_MONTH).expect("written");
    let ended = bench.run(&["etl", "--from", DAYS[0], "--to", DAYS[2]]).await;
    assert_eq!((ended.code, &ended.result()["done"]), (Some(0), &json!(2)), "a month is built once: {}", ended.stderr);
    let sum = "select toString(month), sum(posts) from analytics.posts_monthly group by month order by month";
    assert_eq!(bench.ask(sum).await, "2024-04-01\t200\n2024-05-01\t400\n");

    // A build that fails leaves everything as it is.
    std::fs::write(&file, BY_MONTH.replace("from {source}", "from {source} where id % 2 = 0")).expect("written");
    let ended = bench.run(&["etl", "--date", DAYS[0]]).await;
    assert_eq!(ended.code, Some(65), "{}", ended.stderr);
    assert_eq!(bench.ask(sum).await, "2024-04-01\t200\n2024-05-01\t400\n");
    // Other columns: one bucket is asked for, the others are built too.
    std::fs::write(&file, BY_MONTH.replace("as authors", "as writers")).expect("written");
    let ended = bench.run(&["etl", "--date", DAYS[0]]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let writers = bench
        .ask("select toString(month), min(writers) > 0 from analytics.posts_monthly group by month order by month")
        .await;
    assert_eq!(writers, "2024-04-01\t1\n2024-05-01\t1\n");
    let left = "select count() from system.tables where database = 'platform' and startsWith(name, 'result_')";
    assert_eq!((bench.ask(left).await.as_str(), bench.staging().await.as_str()), ("1\n", ""));
    let checked = bench.run(&["aggregates", "check"]).await;
    let result = checked.result();
    let told = (&result["clickhouse"], &result["postgres"], &result["findings"]);
    assert_eq!(told, (&json!(true), &json!(true), &json!([])), "{}", checked.stderr);
    std::fs::write(folder.join("wrong.sql"), BY_MONTH.replace("uniqExact(author)", "uniqExact(nobody)"))
        .expect("written");
    let checked = bench.run(&["aggregates", "check"]).await;
    assert_eq!((checked.code, &checked.result()["findings"][0]["file"]), (Some(78), &json!("wrong.sql")));
    std::fs::remove_file(folder.join("wrong.sql")).expect("removed");
    // Words for people change nothing.
    std::fs::write(&file, BY_MONTH.replace("as authors", "as writers").replace("Posts of", "Sum of")).expect("written");
    assert_eq!(bench.run(&["etl", "--from", DAYS[0], "--to", DAYS[2]]).await.code, Some(99));
}
