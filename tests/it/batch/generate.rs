//! `platform generate`.

use super::Bench;

const CONTENT: &str = "select md5(string_agg((to_jsonb(t) - 'id' - 'created_at' - 'updated_at')::text, ',' order by post_id)) from public.sentiment_social t";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_posts_and_a_second_run_has_nothing_to_do() {
    let bench = Bench::start().await;
    let arguments = ["generate", "--rows", "25000", "--date", "2024-05-01", "--seed", "7"];
    let ended = bench.run(&arguments).await;
    assert_eq!((ended.code, ended.result()["inserted"].as_u64()), (Some(0), Some(25_000)), "{}", ended.stderr);
    assert!(ended.result()["bytes"].as_u64().expect("a number") > 5_000_000);
    let first = bench.text(CONTENT).await;

    let ended = bench.run(&arguments).await;
    let result = ended.result();
    assert_eq!(
        (ended.code, result["status"].as_str(), result["unchanged"].as_u64()),
        (Some(99), Some("unchanged"), Some(25_000))
    );
    bench.client.batch_execute("truncate public.sentiment_social").await.expect("empty");
    bench.run(&arguments).await;
    assert_eq!(bench.text(CONTENT).await, first, "reproducible");

    // What is missing is filled in, and only that.
    bench.client.batch_execute("delete from public.sentiment_social where id % 3 = 0").await.expect("deleted");
    let kept = bench.text("select count(*) from public.sentiment_social").await.parse::<u64>().expect("a number");
    let mut refusing = arguments.to_vec();
    refusing.extend(["--on-conflict", "error"]);
    let ended = bench.run(&refusing).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
    let ended = bench.run(&arguments).await;
    let result = ended.result();
    assert_eq!(
        (ended.code, result["inserted"].as_u64(), result["unchanged"].as_u64()),
        (Some(0), Some(25_000 - kept), Some(kept))
    );
    assert_eq!(bench.text(CONTENT).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_lie_within_the_day_and_exercise_the_table() {
    let bench = Bench::start().await;
    // A post of this seed that was moved to another day is found all the same, when COPY meets it.
    bench.run(&["generate", "--rows", "1", "--date", "2024-02-29"]).await;
    bench.client.batch_execute("update public.sentiment_social set posted_at = '2024-03-05'").await.expect("moved");
    let ended = bench.run(&["generate", "--rows", "10000", "--date", "2024-02-29"]).await;
    assert_eq!((ended.code, ended.result()["inserted"].as_u64()), (Some(0), Some(9999)), "{}", ended.stderr);
    let checks = "select concat_ws(' ', count(*), count(*) filter (where posted_at >= '2024-02-29' and posted_at < '2024-03-01'), \
                  count(distinct lang) > 6, count(*) filter (where lang is null) > 100, \
                  count(*) filter (where pg_column_size(content) < octet_length(content)) > 5, \
                  (select pg_relation_size(reltoastrelid) > 100000 from pg_class where oid = 'public.sentiment_social'::regclass)) \
                  from public.sentiment_social";
    assert_eq!(bench.text(checks).await, "10000 9999 t t t t");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_apart() {
    let bench = Bench::start().await;
    let code = async |arguments: &[&str]| bench.run(arguments).await.code;
    assert_eq!(code(&["generate", "--rows", "1", "--date", "2024-02-30"]).await, Some(64));
    assert_eq!(code(&["generate", "--rows", "0", "--date", "2024-02-28"]).await, Some(2));
    assert_eq!(code(&["generate", "--date", "2024-02-28"]).await, Some(2));
}
