//! `deploy/cron`: the crontab as it is shipped, run by Debian's cron.

mod machine;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{Days, Utc};
use platform::domain::Lsn;
use platform::store::table_states::{self, StateChange, TableState};

use super::mirrored::Mirrored;
use super::repository;
use crate::support::wait::wait_until;
use machine::Machine;

/// cron looks once a minute, and tests of others run beside it.
const SOON: Duration = Duration::from_secs(180);
const EVERY_MINUTE: &str = "* * * * *";
/// The thirtieth of February.
const NEVER: &str = "0 0 30 2 *";

/// The crontab with other times, one for each of its jobs; everything else as it is shipped.
fn at(times: [&str; 3]) -> String {
    let shipped = std::fs::read_to_string(repository().join("deploy/cron/crontab")).expect("readable");
    let mut times = times.into_iter();
    let line = |line: &str| {
        if !line.starts_with(|first: char| first == '*' || first.is_ascii_digit()) {
            return format!("{line}\n");
        }
        let mut command = line;
        for _ in 0..5 {
            command = command.split_once(char::is_whitespace).expect("five fields and a command").1.trim_start();
        }
        format!("{} {command}\n", times.next().expect("three jobs"))
    };
    let text = shipped.lines().map(line).collect();
    assert_eq!(times.next(), None, "three jobs: {text}");
    text
}

/// What a job of the crontab finds on the machine.
fn etc(bench: &Mirrored) -> Vec<(&'static str, String)> {
    let clickhouse = bench.clickhouse_settings();
    let settings = format!("[clickhouse]\nurl = \"{}\"\nuser = \"{}\"\n", clickhouse.url, clickhouse.user);
    vec![
        ("platform.toml", settings),
        ("platform/postgres_url", bench.variable("PLATFORM__POSTGRES__URL").to_owned()),
        ("platform/clickhouse_password", bench.variable("PLATFORM__CLICKHOUSE__PASSWORD").to_owned()),
        // Where a machine says to all of its jobs what this test needs: short pauses, and the notes of `platform-cron`.
        ("environment", "PLATFORM_CRON_WAIT_S=3\nTMPDIR=FOLDER/tmp\n".to_owned()),
    ]
}

/// The environment of a process.
fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("readable");
    let text = String::from_utf8(bytes).expect("UTF-8");
    text.split_terminator('\0')
        .map(|pair| {
            let (name, value) = pair.split_once('=').expect("a name and a value");
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_run_build_and_mail_what_fails() {
    let bench = Mirrored::caught_up().await;
    // The day that cron will name, also when midnight (UTC) is near.
    let today = Utc::now().date_naive();
    let days = [today - Days::new(1), today].map(|day| day.to_string());
    for day in &days {
        let ended = bench.run(&["generate", "--rows", "200", "--date", day]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    bench.copy(10, "true").await;
    let live = StateChange::of("platform", TableState::Live, "");
    table_states::store(&bench.clickhouse, "sentiment_social", &live).await.expect("stored");
    // Builds wait for the mirror and hold the lock of their day until the test lets them go on.
    bench.checkpoint(2, Lsn::new(1)).await;
    let machine = Machine::start(&etc(&bench), &at([EVERY_MINUTE, NEVER, NEVER])).await;
    let shipped = std::fs::read_to_string(repository().join("deploy/cron/crontab")).expect("readable");
    assert_eq!(machine.read("accepted"), shipped, "cron takes it as it is shipped");
    assert!(machine.read("refused").contains("bad hour"), "{}", machine.read("refused"));

    let day = the_first_run_names_the_day_that_has_ended(&machine, &days).await;
    a_second_run_beside_it_comes_again_later(&bench, &machine, &day).await;
    what_fails_is_mailed(&bench, &machine, &day).await;
}

/// Returns the day.
async fn the_first_run_names_the_day_that_has_ended(machine: &Machine, days: &[String; 2]) -> String {
    let run =
        |day: &String| machine.running(&format!("platform etl --date {day}")).first().map(|pid| (day.clone(), *pid));
    wait_until("cron starts the build of the day that has ended", SOON, async || {
        days.iter().any(|day| run(day).is_some())
    })
    .await;
    let (day, pid) = days.iter().find_map(run).expect("it waits for the mirror");
    let found = environment(pid);
    let expected = [
        ("SHELL", "/bin/bash"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PLATFORM_CONFIG", "/etc/platform.toml"),
        ("PLATFORM__POSTGRES__URL_FILE", "/etc/platform/postgres_url"),
        ("PLATFORM__CLICKHOUSE__PASSWORD_FILE", "/etc/platform/clickhouse_password"),
        ("PLATFORM_CRON_WAIT_S", "3"),
    ];
    for (name, value) in expected {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name} of {found:?}");
    }
    assert!(!found.keys().any(|name| name.starts_with("CARGO")), "cron's environment, not that of the test: {found:?}");
    day
}

/// The runs of a day in the history, as `status detail`.
async fn history(bench: &Mirrored, day: &str) -> String {
    bench
        .ask(&format!(
            "select status, detail from platform.runs where bucket = '{day}' and job = 'etl:sentiment_daily'"
        ))
        .await
}

async fn a_second_run_beside_it_comes_again_later(bench: &Mirrored, machine: &Machine, day: &str) {
    wait_until("the second run is told to come again", SOON, async || {
        machine.notes().contains("platform-cron: exit code 75, try 2 of 6 in 3 s")
    })
    .await;
    assert!(!machine.running(&format!("platform etl --date {day}")).is_empty(), "the first one is still at work");
    assert!(history(bench, day).await.contains("is being built by another run"), "{}", history(bench, day).await);
    bench.checkpoint(3, Lsn::new(u64::MAX >> 8)).await;
    wait_until("the day is built", SOON, async || history(bench, day).await.contains("done\t")).await;
    wait_until("nothing runs any more", SOON, async || {
        machine.notes().is_empty() && !machine.processes().iter().any(|(_, line)| line.contains("platform-cron"))
    })
    .await;
    let expected = bench.statistics_of_postgres(day).await;
    assert!(!expected.is_empty() && bench.statistics(day).await == expected, "the day is what PostgreSQL has");
    let done = history(bench, day).await.lines().filter(|line| line.starts_with("done\t")).count();
    assert_eq!(done, 1, "it was built once");
    assert_eq!(machine.mail(), Vec::<String>::new(), "nobody is told of what went well");
}

/// Every job runs, on a day of which the mirror lacks a change.
async fn what_fails_is_mailed(bench: &Mirrored, machine: &Machine, day: &str) {
    let change = format!(
        "update public.sentiment_social set likes = likes + 1 where id = (select min(id) from public.sentiment_social \
         where posted_at >= '{day}' and posted_at < '{day}'::date + 1)"
    );
    bench.postgres(&change).await;
    let dirty = "select count() from platform.runs where job = 'etl:sentiment_daily' and status = 'done'";
    let before = bench.ask(dirty).await;
    machine.install(&at([EVERY_MINUTE; 3]));
    let mail_of = |job: &str| {
        let subject = format!("platform-cron {job}\n");
        machine
            .mail()
            .into_iter()
            .find(|mail| mail.lines().any(|line| line.starts_with("Subject: Cron <")) && mail.contains(&subject))
    };
    let build = "etl --date \"$(date --utc --date yesterday +%F)\"";
    wait_until("two mails arrive", SOON, async || mail_of(build).is_some() && mail_of("verify").is_some()).await;
    let (build, verify) = (mail_of(build).expect("a mail"), mail_of("verify").expect("a mail"));
    assert!(build.contains(&format!("platform etl --date {day} ended with 65:")), "{build}");
    assert!(
        verify.contains("platform verify ended with 65:") && verify.contains("\"status\":\"different\""),
        "{verify}"
    );
    // The other day has rows, and was never built.
    wait_until("what is dirty is built too", SOON, async || bench.ask(dirty).await != before).await;
    assert!(mail_of("etl --dirty").is_none(), "{:?}", machine.mail());
}
