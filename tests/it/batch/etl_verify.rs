//! `platform etl` over a range, several buckets at once; `etl verify` and `etl runs`.

use super::mirrored::Mirrored;

const RANGE: [&str; 4] = ["--from", "2024-05-01", "--to", "2024-05-06"];

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_several_workers_built_is_verified_and_listed() {
    let bench = Mirrored::caught_up().await;
    for day in 1..=6 {
        bench.run(&["generate", "--rows", "300", "--date", &format!("2024-05-0{day}")]).await;
    }
    bench.copy(10, "true").await;
    let verify = |more: &[&str]| {
        let arguments: Vec<String> =
            ["etl", "verify"].iter().chain(&RANGE).chain(more).map(|word| (*word).to_owned()).collect();
        let bench = &bench;
        async move { bench.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let nothing = verify(&[]).await;
    assert_eq!((nothing.code, nothing.result()["stale"].as_u64()), (Some(75), Some(12)), "{}", nothing.stderr);

    let mut arguments = vec!["etl"];
    arguments.extend(RANGE);
    let built = bench.run(&[arguments.clone(), vec!["--parallel", "5"]].concat()).await;
    let result = built.result();
    assert_eq!(
        (built.code, result["done"].as_u64(), result["rows_in"].as_u64()),
        (Some(0), Some(12), Some(3600)),
        "{}",
        built.stderr
    );
    for day in 1..=6 {
        let day = format!("2024-05-0{day}");
        assert_eq!(bench.statistics(&day).await, bench.statistics_of_postgres(&day).await, "{day}");
    }
    assert_eq!(bench.staging().await, "");
    let equal = verify(&[]).await;
    assert_eq!((equal.code, equal.result()["equal"].as_u64()), (Some(0), Some(12)), "{}", equal.stderr);

    // What the mirror has, and the build has not.
    bench.postgres("update public.sentiment_social set likes = likes + 1 where posted_at < '2024-05-02'").await;
    bench.copy(11, "row_version > 1").await;
    let stale = verify(&["--job", "sentiment_daily"]).await;
    let found = stale.result();
    assert_eq!((stale.code, &found["stale"], &found["equal"]), (Some(75), &1.into(), &5.into()), "{}", stale.stderr);
    // What PostgreSQL has, and the mirror has not.
    bench.postgres("update public.sentiment_social set likes = likes + 1 where posted_at >= '2024-05-06'").await;
    let different = verify(&["--job", "sentiment_daily"]).await;
    assert_eq!(different.code, Some(65), "{}", different.stderr);
    assert!(different.stderr.contains("sentiment_daily of 2024-05-06: engagement"), "{}", different.stderr);
    assert_eq!(different.result()["different"].as_array().map(Vec::len), Some(1));

    let failed = bench.run(&arguments).await;
    assert_eq!(failed.code, Some(65), "{}", failed.stderr);
    let runs = bench.run(&["etl", "runs", "--limit", "100"]).await.result();
    let runs = runs["runs"].as_array().expect("runs");
    assert!(runs.len() >= 12 && runs.iter().any(|run| run["status"] == "done"), "{runs:?}");
    let listed = bench.run(&["etl", "runs", "--status", "failed", "--bucket", "2024-05-06"]).await.result();
    let listed = listed["runs"].as_array().expect("runs");
    assert!(!listed.is_empty() && listed.iter().all(|run| run["bucket"] == "2024-05-06"), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_flags_of_etl_do_not_mix() {
    let bench = super::Bench::start().await;
    for arguments in [
        &["etl"][..],
        &["etl", "--date", "2024-05-01", "runs"],
        &["etl", "verify"],
        &["etl", "verify", "--from", "2024-05-01"],
        &["etl", "--date", "2024-05-01", "--parallel", "0"],
        &["etl", "runs", "--limit", "0"],
    ] {
        let ended = bench.run(arguments).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
    }
}
