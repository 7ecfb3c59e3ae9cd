//! `platform etl` while things go wrong: killed, interrupted, twice at once, beside writers; and its library for the sink.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use platform::batch::aggregates::{self, BucketLock, Outcome, Position, Request};
use platform::domain::Lsn;
use platform::shutdown::Shutdown;

use super::connect;
use super::mirrored::Mirrored;

const DAY: &str = "2024-05-01";
const ROWS: &str = "insert into public.sentiment_social (platform, post_id, content, sentiment_label, sentiment_score, posted_at) \
                    select 'p', n::text, 'x', 'mixed', 0.5, '2024-05-01 12:00' from generate_series(1, 10) n";

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_build_a_day_once() {
    let bench = Mirrored::start().await;
    bench.postgres(ROWS).await;
    bench.copy(10, "true").await;
    // The first one holds the lock while it waits for the mirror.
    bench.checkpoint(1, Lsn::new(1)).await;
    let first = bench.command(&["etl", "--date", DAY, "--job", "sentiment_daily"]).spawn().expect("starts");
    bench.wait_for("select count(*) from pg_locks where locktype = 'advisory' and granted", "1").await;
    let second = bench.etl(&["--date", DAY]).await;
    assert_eq!(second.code, Some(75), "{}", second.stderr);
    assert!(second.stderr.contains("is being built by another run"), "{}", second.stderr);
    bench.checkpoint(2, Lsn::new(u64::MAX >> 8)).await;
    let output = first.wait_with_output().await.expect("ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_leaves_the_old_day_or_the_new_one() {
    let bench = Mirrored::caught_up().await;
    bench.run(&["generate", "--rows", "2000", "--date", DAY]).await;
    bench.copy(100, "true").await;
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    let begun = std::time::Instant::now();
    assert_eq!(bench.etl(&["--date", DAY, "--force"]).await.code, Some(0));
    let whole = begun.elapsed();
    let mut old = bench.statistics(DAY).await;
    let mut seen = HashSet::new();
    // Forty moments of a run, and more of them while all fell on the same side of the swap.
    for step in 0u32..400 {
        if step >= 40 && seen.len() == 2 {
            break;
        }
        let version = u64::from(200 + step);
        let likes = 1_000_000 + step;
        bench.postgres(&format!("update public.sentiment_social set likes = {likes} where id = (select max(id) from public.sentiment_social)")).await;
        bench.copy(version, "id = (select max(id) from public.sentiment_social)").await;
        let new = bench.statistics_of_postgres(DAY).await;
        assert!(old != new);
        let after = whole * (step % 40) / 36 * (1 + step / 40);
        let mut child = bench.command(&["etl", "--date", DAY, "--job", "sentiment_daily"]).spawn().expect("starts");
        let _in_time = tokio::time::timeout(after, child.wait()).await;
        child.kill().await.expect("killed");
        let left = bench.statistics(DAY).await;
        assert!(left == old || left == new, "killed after {after:?}: neither the old day nor the new one");
        seen.insert(left == new);
        let builds = bench
            .ask(&format!("select uniqExact(build_id) from {} where day = '{DAY}'", Mirrored::daily_result()))
            .await;
        assert_eq!(builds, "1\n");
        old = left;
    }
    assert_eq!(seen.len(), 2, "some runs were killed before the swap and some after it");
    let ended = bench.etl(&["--date", DAY]).await;
    assert!(matches!(ended.code, Some(0 | 99)), "{}", ended.stderr);
    let forced = bench.etl(&["--date", DAY, "--force"]).await;
    assert_eq!(forced.code, Some(0), "{}", forced.stderr);
    assert!(bench.statistics(DAY).await == bench.statistics_of_postgres(DAY).await);
    assert_eq!(bench.staging().await, "", "what dead builders left is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_between_two_steps() {
    let bench = Mirrored::start().await;
    bench.postgres(ROWS).await;
    bench.copy(10, "true").await;
    bench.checkpoint(1, Lsn::new(1)).await;
    let child = bench.command(&["etl", "--date", DAY, "--job", "sentiment_daily"]).spawn().expect("starts");
    bench.wait_for("select count(*) from pg_locks where locktype = 'advisory' and granted", "1").await;
    assert_eq!(terminated(child).await, Some(143), "while it waits for the mirror");
    bench.wait_for("select count(*) from pg_locks where locktype = 'advisory' and granted", "0").await;

    bench.checkpoint(2, Lsn::new(u64::MAX >> 8)).await;
    let begun = std::time::Instant::now();
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    let whole = begun.elapsed();
    let mut codes = HashSet::new();
    for step in 1u32..16 {
        let mut child =
            bench.command(&["etl", "--date", DAY, "--force", "--job", "sentiment_daily"]).spawn().expect("starts");
        let _in_time = tokio::time::timeout(whole * step / 12, child.wait()).await;
        codes.insert(terminated(child).await);
        assert_eq!(bench.staging().await, "", "step {step}");
        assert!(bench.statistics(DAY).await == bench.statistics_of_postgres(DAY).await);
    }
    // Before it listens for signals, a process ends as the system lets it end.
    assert!(codes.contains(&Some(143)) && codes.iter().all(|code| matches!(code, Some(143 | 0) | None)), "{codes:?}");
}

/// Sends SIGTERM; the exit code.
async fn terminated(mut child: tokio::process::Child) -> Option<i32> {
    if let Some(pid) = child.id() {
        let pid = nix::unistd::Pid::from_raw(pid.try_into().expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
    }
    tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("ends in time").expect("ends").code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_written_to_all_the_time_is_built_all_the_same() {
    let bench = Mirrored::caught_up().await;
    bench.run(&["generate", "--rows", "5000", "--date", DAY]).await;
    bench.copy(10, "true").await;
    bench.checkpoint(10, bench.position().await).await;
    let stop = AtomicBool::new(false);
    let writer = async {
        let mut version = 10;
        while !stop.load(Ordering::SeqCst) {
            version += 1;
            bench.postgres("update public.sentiment_social set likes = (likes + 1) % 1000000 where id % 500 = 3").await;
            // As a sink does: what is not copied yet is not said to be there.
            let copied = bench.position().await;
            bench.copy(version, "id % 500 = 3").await;
            bench.checkpoint(version, copied).await;
        }
        bench.checkpoint(version + 1, Lsn::new(u64::MAX >> 8)).await;
    };
    let jobs = async {
        for _ in 0..5 {
            let ended = bench.etl(&["--date", DAY]).await;
            assert_eq!((ended.code, ended.result()["status"].as_str()), (Some(0), Some("done")), "{}", ended.stderr);
        }
        stop.store(true, Ordering::SeqCst);
    };
    tokio::join!(writer, jobs);
    let ended = bench.etl(&["--date", DAY]).await;
    assert!(matches!(ended.code, Some(0 | 99)), "{}", ended.stderr);
    assert!(bench.statistics(DAY).await == bench.statistics_of_postgres(DAY).await);
    assert_eq!(bench.staging().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_comes_back_with_the_old_day_or_the_new_one() {
    let mut bench = Mirrored::caught_up().await;
    bench.run(&["generate", "--rows", "2000", "--date", DAY]).await;
    bench.copy(10, "true").await;
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    let begun = std::time::Instant::now();
    assert_eq!(bench.etl(&["--date", DAY, "--force"]).await.code, Some(0));
    let whole = begun.elapsed();
    let mut old = bench.statistics(DAY).await;
    for step in 0u32..8 {
        let likes = 1_000_000 + step;
        bench.postgres(&format!("update public.sentiment_social set likes = {likes} where id = 7")).await;
        bench.copy(u64::from(200 + step), "id = 7").await;
        let new = bench.statistics_of_postgres(DAY).await;
        let mut child = bench.command(&["etl", "--date", DAY, "--job", "sentiment_daily"]).spawn().expect("starts");
        let _in_time = tokio::time::timeout(whole * (3 + step) / 9, child.wait()).await;
        bench.kill_engine().await;
        let code =
            tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("ends").expect("ends").code();
        assert!(matches!(code, Some(0 | 69)), "a lost engine is worth another try: {code:?}");
        // Killed inside REPLACE PARTITION the engine comes back with the parts of both builds; readers see the newer one.
        let left = bench.statistics(DAY).await;
        assert!(left == old || left == new, "step {step}: neither the old day nor the new one");
        assert!(code != Some(0) || left == new, "step {step}: what was reported as done is gone");
        old = left;
    }
    assert!(matches!(bench.etl(&["--date", DAY]).await.code, Some(0 | 99)));
    assert!(bench.statistics(DAY).await == bench.statistics_of_postgres(DAY).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_builds_a_bucket_for_any_caller() {
    let bench = Mirrored::caught_up().await;
    bench.postgres(ROWS).await;
    bench.copy(10, "true").await;
    let aggregates = aggregates::all("").expect("the shipped ones");
    let aggregate = &aggregates[0];
    let day = DAY.parse().expect("a day");
    let lock = BucketLock::acquire(&bench.client, &aggregate.name, day).await.expect("asked").expect("taken");
    let shutdown = Shutdown::manual();
    let request = |lock| Request {
        clickhouse: &bench.clickhouse,
        pipeline: "platform",
        aggregate,
        day,
        lock,
        position: Position { term: 1, batch: 5, lsn: Lsn::new(0x50) },
        force: false,
        exact: false,
        is_shown: false,
        shutdown: &shutdown,
    };
    let Outcome::Built(build) = aggregates::build_bucket(&request(&lock), &mut None).await.expect("built") else {
        panic!("not built")
    };
    assert_eq!((build.rows_in, build.rows_out, build.as_of_batch, build.as_of_lsn), (10, 1, 5, Lsn::new(0x50)));
    let again = aggregates::build_bucket(&request(&lock), &mut None).await.expect("looked at");
    assert_eq!(again, Outcome::Unchanged(build));

    // A session that is gone has lost its lock: nothing is swapped in.
    let other = connect(&bench.postgres.url()).await;
    bench.postgres("select pg_advisory_unlock_all()").await;
    let lost = BucketLock::acquire(&other, &aggregate.name, day).await.expect("asked").expect("taken");
    assert!(BucketLock::acquire(&bench.client, &aggregate.name, day).await.expect("asked").is_none());
    bench.postgres("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'").await;
    let before = bench.statistics(DAY).await;
    bench.copy(11, "true").await;
    bench.tombstones(12, &[1]).await;
    let error = aggregates::build_bucket(&request(&lost), &mut None).await.expect_err("no lock");
    assert_eq!(platform::domain::Failure::exit_code_of(&error), 75, "{error:#}");
    assert_eq!((bench.statistics(DAY).await, bench.staging().await.as_str()), (before, ""));
}
