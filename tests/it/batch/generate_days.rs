//! `platform generate`: ranges of days, and changes that go on.

use nix::sys::signal::Signal;

use super::{Bench, Ended};
use crate::support::processes;

fn number(ended: &Ended, key: &str) -> u64 {
    ended.result()[key].as_u64().unwrap_or_else(|| panic!("{key} in {ended:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_has_the_rhythm_of_the_week_and_is_reproducible() {
    let bench = Bench::start().await;
    let range = ["generate", "--rows", "1000", "--from", "2024-05-01", "--to", "2024-05-28"];
    let ended = bench.run(&range).await;
    assert_eq!((ended.code, number(&ended, "days")), (Some(0), 28), "{}", ended.stderr);
    assert_eq!(
        bench.text("select count(*) from public.sentiment_social").await,
        number(&ended, "inserted").to_string()
    );
    let weekend = "select avg(posts) filter (where day in (0, 6)) < 0.95 * avg(posts) filter (where day between 1 and 5) \
                   from (select extract(dow from posted_at at time zone 'UTC') as day, count(*) as posts \
                   from public.sentiment_social group by date_trunc('day', posted_at at time zone 'UTC'), 1) days";
    assert_eq!(bench.text(weekend).await, "true");
    assert_eq!(bench.text("select count(distinct posted_at::date) from public.sentiment_social").await, "28");

    let again = bench.run(&range).await;
    assert_eq!((again.code, number(&again, "unchanged")), (Some(99), number(&ended, "inserted")));
    let mut refusing = range.to_vec();
    refusing[4] = "2024-04-30";
    refusing.extend(["--on-conflict", "error"]);
    assert_eq!(bench.run(&refusing).await.code, Some(65), "posts of later days exist");
    assert_eq!(bench.text("select count(distinct posted_at::date) from public.sentiment_social").await, "28");
    assert_eq!(
        bench.run(&["generate", "--rows", "1", "--from", "2024-05-02", "--to", "2024-05-01"]).await.code,
        Some(64)
    );
    assert_eq!(bench.run(&["generate", "--rows", "1", "--from", "2024-05-02"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_changes_go_on_until_they_are_stopped() {
    let bench = Bench::start().await;
    let child = bench.command(&["generate", "--live", "500/s", "--seed", "3"]).spawn().expect("starts");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process number");
    bench.wait_for("select count(*) filter (where row_version > 1) > 20 from public.sentiment_social", "true").await;
    processes::signal(pid, Signal::SIGTERM);
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output());
    let output = output.await.expect("ends in time").expect("ends");
    let ended = Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let [inserted, updated, deleted] = ["inserted", "updated", "deleted"].map(|key| number(&ended, key));
    assert_eq!(number(&ended, "changes"), inserted + updated + deleted);
    assert!(updated > 20 && deleted > 0 && inserted > updated, "{ended:?}");
    let posts = bench.text("select count(*) from public.sentiment_social").await;
    assert_eq!(posts, (inserted - deleted).to_string());
    let versions = "select sum(row_version - 1) <= $n and sum(row_version - 1) > 0 from public.sentiment_social";
    assert_eq!(bench.text(&versions.replace("$n", &updated.to_string())).await, "true", "no change beyond those told");

    let ended = bench.run(&["generate", "--live", "100", "--seconds", "1"]).await;
    assert_eq!((ended.code, number(&ended, "changes") + number(&ended, "missed")), (Some(0), 100), "{ended:?}");
    assert_eq!(bench.run(&["generate", "--live", "0"]).await.code, Some(2));
    assert_eq!(bench.run(&["generate", "--live", "5", "--date", "2024-05-01"]).await.code, Some(2));
}
