//! Rows that come while a day is built: noticed, although the day is read again only if its table has other parts.

use std::time::Duration;

use platform::domain::TableName;
use platform::store::mirror_parts::MirrorParts;

use super::Ended;
use super::mirrored::Mirrored;
use crate::support::wait::wait_until;

const DAY: &str = "2024-05-01";

/// Takes 0.1 s a row, so that something can happen meanwhile.
const SLOW: &str = "-- summary: posts by platform
-- table: sentiment_social
-- bucket: day(posted_at)
-- keys: platform
-- rows: sum(posts)
select platform, count() as posts, sum(sleepEachRow(0.1)) as slept from {source} group by platform
";

const QUIET: &str = "select dateDiff('second', max(modification_time), now()) > 2 from system.parts \
                     where active and database = 'mirror' and table = 'sentiment_social'";
const BUILDING: &str = "select count() from system.processes where query ilike 'insert into platform.%' and query like '%\\_staging\\_slow%'";

async fn becomes_true(bench: &Mirrored, sql: &str) {
    wait_until(sql, Duration::from_secs(60), || async { bench.ask(sql).await.trim() == "1" }).await;
}

/// Ten rows of `platform`.
async fn ten(bench: &Mirrored, platform: &str, version: u64) {
    let insert =
        "insert into public.sentiment_social (platform, post_id, content, sentiment_label, sentiment_score, posted_at)";
    let rows = "n::text, 'x', 'mixed', 0.5, '2024-05-01 12:00' from generate_series(1, 10) n";
    bench.postgres(&format!("{insert} select '{platform}', {rows}")).await;
    bench.copy(version, &format!("platform = '{platform}'")).await;
}

/// Starts a build, stores the rows of `platform` while it reads the day, and waits for its end.
async fn interrupted(bench: &Mirrored, arguments: &[&str], platform: &str, version: u64) -> Ended {
    let mut all = vec!["etl", "--date", DAY, "--wait-lsn", "none"];
    all.extend(arguments);
    let child = bench.command(&all).spawn().expect("starts");
    becomes_true(bench, BUILDING).await;
    ten(bench, platform, version).await;
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("in time");
    let output = output.expect("ended");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_while_a_day_is_built_are_in_it() {
    let mut bench = Mirrored::caught_up().await;
    let file = bench.file("slow.sql", SLOW);
    bench.set("PLATFORM__ETL__AGGREGATES_DIR", &file.parent().expect("a folder").display().to_string());
    let shown = "select platform, posts from analytics.slow order by platform";
    ten(&bench, "a", 10).await;
    // Nobody writes when the build begins: facts and day are read side by side.
    becomes_true(&bench, QUIET).await;
    let ended = interrupted(&bench, &["--force"], "b", 11).await;
    assert_eq!(ended.summary(), (Some(0), "done".into(), 20, 2), "{}", ended.stderr);
    assert_eq!(bench.ask(shown).await, "a\t10\nb\t10\n");
    assert_eq!(bench.staging().await, "", "what was built in vain is gone");
    let unchanged = bench.etl(&["--date", DAY, "--wait-lsn", "none"]).await;
    assert_eq!(unchanged.code, Some(99), "the record is of the rows that were built: {}", unchanged.stderr);

    // Somebody has just written: the facts are read first.
    bench.copy(12, "platform = 'a'").await;
    let ended = interrupted(&bench, &[], "c", 13).await;
    assert_eq!(ended.summary(), (Some(0), "done".into(), 30, 3), "{}", ended.stderr);
    assert_eq!(bench.ask(shown).await, "a\t10\nb\t10\nc\t10\n");
    assert_eq!(bench.etl(&["--date", DAY, "--wait-lsn", "none"]).await.code, Some(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_tell_of_every_change() {
    let bench = Mirrored::start().await;
    let table = TableName::new("public", "sentiment_social");
    let look = async || MirrorParts::read(&bench.clickhouse, &table).await.expect("read").expect("there is a mirror");
    let mirror = "mirror.sentiment_social";
    let mut before = look().await;
    assert!(before.is_idle(), "an empty table is left alone");
    ten(&bench, "a", 10).await;
    for change in [
        &format!("insert into {mirror} (id, _version, _deleted) values (1, 11, 1)"),
        &format!("delete from {mirror} where id = 2"),
        &format!("alter table {mirror} update likes = 7 where id = 3 settings mutations_sync = 1"),
        &format!("insert into {mirror} select * from {mirror} where id = 4"),
        "insert into platform.floors values ('sentiment_social', 9, 'test', now64(6))",
        &format!("alter table {mirror} modify column content String default 'x'"),
        &format!("truncate table {mirror}"),
        &format!("drop table {mirror} sync"),
    ] {
        let after = look().await;
        assert!(!before.is_same_as(&after), "before: {change}");
        assert!(after.is_same_as(&look().await), "nothing happened before: {change}");
        before = after;
        bench.ask(change).await;
    }
    bench.make_mirrors().await;
    assert!(!before.is_same_as(&look().await), "another table of the same name");
}
