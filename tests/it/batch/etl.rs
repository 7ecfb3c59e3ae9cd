//! `platform etl`: what it builds.

use super::mirrored::Mirrored;

const DAY: &str = "2024-05-01";

/// Rows that a careless aggregate gets wrong: NULL beside an empty text, halves, the borders of the day, no score at all.
const EDGES: &str = "insert into public.sentiment_social (platform, post_id, author, content, lang, topic, sentiment_label, sentiment_score, likes, posted_at) values
    ('edge', '1', null, 'x', null, null, 'mixed', null, 2147483647, '2024-05-01 00:00:00'),
    ('edge', '2', 'a', 'x', null, null, 'mixed', null, 2147483647, '2024-05-01 23:59:59.999999'),
    ('edge', '3', 'a', 'x', '', '', 'mixed', 1, 0, '2024-05-01 12:00:00'),
    ('edge', '4', 'b', 'x', '', null, 'mixed', 0.001, 0, '2024-05-01 12:00:00'),
    ('edge', '5', 'b', 'x', '', null, 'mixed', -0.002, 0, '2024-05-01 12:00:00'),
    ('edge', '6', 'b', 'x', 'de', 'h', 'negative', -0.001, 0, '2024-05-01 12:00:00'),
    ('edge', '7', 'b', 'x', 'de', 'h', 'negative', 0, 0, '2024-05-01 12:00:00'),
    ('edge', '8', 'b', 'x', 'de', 'h', 'negative', 0, 0, '2024-05-01 12:00:00'),
    ('edge', '9', 'b', 'x', '', '', 'mixed', 1, 0, '2024-04-30 23:59:59.999999'),
    ('edge', '10', 'b', 'x', '', '', 'mixed', 1, 0, '2024-05-02 00:00:00');";

#[tokio::test(flavor = "multi_thread")]
async fn a_day_equals_the_same_query_over_postgresql() {
    let bench = Mirrored::caught_up().await;
    // Below the floor, and of other days: none of it may show.
    bench.run(&["generate", "--rows", "500", "--date", DAY, "--seed", "9"]).await;
    bench.copy(3, "true").await;
    bench.postgres("truncate public.sentiment_social").await;
    bench.floor(5).await;
    for day in ["2024-04-30", DAY, "2024-05-02"] {
        bench.run(&["generate", "--rows", "20000", "--date", day]).await;
    }
    bench.postgres(EDGES).await;
    bench.copy(10, "true").await;
    // Rows that leave the day, come into it, change within it and are deleted.
    bench.postgres("update public.sentiment_social set posted_at = posted_at + interval '1 day' where id % 5 = 0 and platform <> 'edge'").await;
    bench.postgres("update public.sentiment_social set likes = likes + 1, topic = null where id % 7 = 0 and platform <> 'edge'").await;
    bench.copy(11, "row_version > 1").await;
    let deleted = bench.client.query("delete from public.sentiment_social where id % 11 = 0 returning id", &[]).await;
    let ids: Vec<i64> = deleted.expect("deleted").iter().map(|row| row.get(0)).take(200).collect();
    bench.ask("insert into mirror.sentiment_social (id, _version, _deleted) select id, 12, 1 from mirror.sentiment_social where id % 11 = 0").await;
    bench.tombstones(12, &ids[..3]).await;

    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected = bench.statistics_of_postgres(DAY).await;
    assert!(
        expected.len() > 500 && expected.iter().any(|row| row.contains("|<null>|<null>|mixed|2|1|<null>|<null>|")),
        "{expected:?}"
    );
    assert!(
        expected.contains(&format!("{DAY}|edge|<null>||mixed|2|1|-0.000500|-0.002|0.001|-0.002|0|0|0")),
        "{expected:?}"
    );
    let built = bench.statistics(DAY).await;
    let different: Vec<_> = built.iter().zip(&expected).filter(|(built, expected)| built != expected).take(3).collect();
    assert!(
        built.len() == expected.len() && different.is_empty(),
        "{} and {}: {different:?}",
        built.len(),
        expected.len()
    );
    let result = ended.result();
    assert_eq!(result["rows_out"], expected.len());
    for check in ["rows", "scores", "scored", "labels", "authors", "engagement"] {
        assert_eq!(result["checks"][check], "equal");
    }
    assert_eq!(bench.ask("select count() from analytics.sentiment_daily where day <> '2024-05-01'").await, "0\n");
    assert_eq!(bench.staging().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_has_nothing_to_do_until_the_day_changes() {
    let bench = Mirrored::caught_up().await;
    bench.run(&["generate", "--rows", "3000", "--date", DAY]).await;
    bench.copy(10, "true").await;
    let first = bench.etl(&["--date", DAY]).await;
    let (code, status, rows_in, rows_out) = first.summary();
    assert_eq!((code, status.as_str(), rows_in), (Some(0), "done", 3000), "{}", first.stderr);
    let rows = bench.statistics(DAY).await;
    let again = bench.etl(&["--date", DAY]).await;
    assert_eq!(again.summary(), (Some(99), "unchanged".into(), 3000, rows_out), "{}", again.stderr);
    assert_eq!(again.result()["build_id"], first.result()["build_id"]);
    assert!(bench.statistics(DAY).await == rows);

    let forced = bench.etl(&["--date", DAY, "--force"]).await;
    assert_eq!(forced.summary(), (Some(0), "done".into(), 3000, rows_out));
    assert_ne!(forced.result()["build_id"], first.result()["build_id"]);
    assert!(bench.statistics(DAY).await == rows);

    // A late row, a changed one, a deleted one: each is noticed, and planned before it is done.
    bench.postgres(EDGES).await;
    bench.copy(11, "platform = 'edge'").await;
    let planned = bench.etl(&["--date", DAY, "--dry-run"]).await;
    assert_eq!(planned.summary(), (Some(0), "would-build".into(), 3008, 0));
    assert!(bench.statistics(DAY).await == rows, "a plan changes nothing");
    assert_eq!(bench.etl(&["--date", DAY]).await.summary().2, 3008);
    assert_eq!(bench.etl(&["--date", DAY, "--dry-run"]).await.code, Some(99));
    bench.postgres("update public.sentiment_social set likes = 5 where platform = 'edge'").await;
    bench.copy(12, "platform = 'edge'").await;
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    let deleted: i64 =
        bench.text("select max(id) from public.sentiment_social where post_id = '1'").await.parse().expect("an id");
    bench.postgres(&format!("delete from public.sentiment_social where id = {deleted}")).await;
    bench.tombstones(13, &[deleted]).await;
    assert_eq!(bench.etl(&["--date", DAY]).await.summary().2, 3007);
    assert!(bench.statistics(DAY).await == bench.statistics_of_postgres(DAY).await);

    // Statistics that somebody damaged are not taken for the recorded build.
    let damage = "delete where platform = 'edge' settings mutations_sync = 1";
    bench.ask(&format!("alter table {} {damage}", Mirrored::daily_result())).await;
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    assert!(bench.statistics(DAY).await == bench.statistics_of_postgres(DAY).await);
    let history = bench.ask("select status, count() from platform.runs where job = 'etl:sentiment_daily' and bucket = '2024-05-01' and context like '%AIRFLOW_CTX_DAG_ID\":\"daily%' group by status order by status").await;
    assert_eq!(history, "done\t6\nunchanged\t1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_day_is_built_and_a_day_that_became_empty_disappears() {
    let bench = Mirrored::caught_up().await;
    let empty = bench.etl(&["--date", DAY]).await;
    assert_eq!(empty.summary(), (Some(0), "done".into(), 0, 0), "{}", empty.stderr);
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(99));
    bench.postgres(EDGES).await;
    bench.copy(10, "true").await;
    assert_eq!(bench.etl(&["--date", DAY]).await.summary(), (Some(0), "done".into(), 8, 4));
    bench.postgres("truncate public.sentiment_social").await;
    bench.floor(11).await;
    assert_eq!(bench.etl(&["--date", DAY]).await.summary(), (Some(0), "done".into(), 0, 0));
    assert!(bench.statistics(DAY).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_built_day_by_day() {
    let bench = Mirrored::caught_up().await;
    bench.postgres(EDGES).await;
    bench.copy(10, "true").await;
    let ended = bench.etl(&["--from", "2024-04-29", "--to", "2024-05-02"]).await;
    let result = ended.result();
    assert_eq!(
        (ended.code, result["done"].as_u64(), result["rows_in"].as_u64()),
        (Some(0), Some(4), Some(10)),
        "{}",
        ended.stderr
    );
    let ended = bench.etl(&["--from", "2024-04-29", "--to", "2024-05-02", "--job", "sentiment_daily"]).await;
    assert_eq!((ended.code, ended.result()["unchanged"].as_u64()), (Some(99), Some(4)));
    // A day before 1970 and one far ahead keep their names.
    bench.postgres("insert into public.sentiment_social (platform, post_id, content, sentiment_label, posted_at) values ('p', 'o', '', 'mixed', '1931-02-03 04:05:06'), ('p', 'f', '', 'mixed', '2250-02-03')").await;
    bench.copy(11, "platform = 'p'").await;
    for (day, flag) in [("1931-02-03", "--force"), ("2250-02-03", "--allow-incomplete")] {
        assert_eq!(bench.etl(&["--date", day, flag]).await.summary(), (Some(0), "done".into(), 1, 1));
        assert_eq!(bench.statistics(day).await, bench.statistics_of_postgres(day).await);
    }
}
