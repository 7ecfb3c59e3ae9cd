//! `platform aggregates`: for whoever writes the SQL of a statistic.

use crate::support::stack::{Finished, command, finish};

fn run(folder: &tempfile::TempDir, arguments: &[&str]) -> Finished {
    let mut command = command(folder.path());
    command.arg("aggregates").args(arguments);
    finish(command)
}

#[test]
fn files_are_listed_begun_and_checked_without_any_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let listed = run(&folder, &["list"]).json();
    let told: Vec<_> = listed.as_array().expect("a list").iter().map(|one| [&one["result"], &one["bucket"]]).collect();
    assert_eq!(
        told,
        [["analytics.sentiment_daily", "day(posted_at)"], ["analytics.sentiment_hourly", "hour(posted_at)"]]
    );
    let checked = run(&folder, &["check"]).json();
    assert_eq!((&checked["files"], &checked["clickhouse"]), (&2.into(), &false.into()), "{checked}");
    for by in ["hour", "day", "month"] {
        let name = format!("posts_by_{by}");
        let written = run(&folder, &["new", &name, "--dir", "mine", "--by", by]).json();
        assert_eq!(written["file"], format!("mine/{name}.sql"));
    }
    assert_eq!(run(&folder, &["new", "posts_by_day", "--dir", "mine"]).code, Some(78), "nothing is overwritten");
    assert_eq!(run(&folder, &["new", "Posts"]).code, Some(2));
    assert_eq!(run(&folder, &["check", "--dir", "mine"]).json()["findings"], serde_json::json!([]));
    std::fs::write(folder.path().join("mine/wrong.sql"), "-- summary: x\n-- bucket: week(a)\n").expect("written");
    let wrong = run(&folder, &["check", "--dir", "mine"]);
    assert_eq!(wrong.code, Some(78));
    assert!(wrong.stdout.contains(r#""file":"wrong.sql""#), "{}", wrong.stdout);
}
