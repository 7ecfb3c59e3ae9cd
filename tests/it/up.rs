//! `platform up` on its own: ports, restarts, crashes, stopping.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::support::stack::finish;
use crate::support::wait::{block_until, wait_until};
use crate::support::{Options, Stack, engines_dir, processes};

/// What can be tested without Java's start-up time.
const POSTGRES: Option<&str> = Some("postgres");
const ENGINES: Option<&str> = Some("postgres,kafka,connect,clickhouse");
/// Everything up to the connector.
const LOADED: Option<&str> = Some("postgres,kafka,connect,clickhouse,migrate,load,connector");

fn only(parts: Option<&'static str>) -> Options {
    Options { parts, ..Options::default() }
}

async fn postgres(stack: &Stack) -> tokio_postgres::Client {
    platform::store::postgres::connect(&stack.settings().postgres, "test").await.expect("connected")
}

fn assert_nothing_runs(stack: &Stack) {
    let left = processes::using(stack.data_dir());
    assert!(left.is_empty(), "left running: {left:?}");
}

#[tokio::test]
async fn stopping_and_starting_again_keeps_the_data() {
    let mut stack = Stack::start_with(only(POSTGRES));
    let key = stack.api_key().to_owned();
    let port = stack.postgres_url().to_owned();
    postgres(&stack).await.batch_execute("create table kept as select 7 as n").await.expect("written");
    assert!(stack.stop_by(Signal::SIGTERM).success());
    stack.start_again();
    let row = postgres(&stack).await.query_one("select n from kept", &[]).await.expect("kept");
    assert_eq!(row.get::<_, i32>(0), 7);
    assert_eq!(stack.api_key(), key, "secrets are made once");
    assert_ne!(stack.postgres_url(), port, "a port chosen as 0 is new at each start");
    assert!(stack.stop_by(Signal::SIGHUP).success(), "a terminal that is closed stops it in the same way");
    assert_nothing_runs(&stack);
}

#[tokio::test]
async fn postgres_is_set_up_for_replication_and_asks_for_passwords() {
    let stack = Stack::start_with(only(POSTGRES));
    let client = postgres(&stack).await;
    for (name, wanted) in [
        ("wal_level", "logical"),
        ("max_replication_slots", "10"),
        ("max_wal_senders", "10"),
        ("max_slot_wal_keep_size", "8GB"),
        ("listen_addresses", "127.0.0.1"),
        ("password_encryption", "scram-sha-256"),
        ("TimeZone", "UTC"),
    ] {
        let value: String = client.query_one(&format!("show {name}"), &[]).await.expect("known").get(0);
        assert_eq!(value, wanted, "{name}");
    }
    let mut settings = stack.settings().postgres;
    let url = stack.postgres_url();
    let (before, after) = url
        .split_once(":")
        .and_then(|(scheme, rest)| {
            let (user, rest) = rest.split_once(':')?;
            Some((format!("{scheme}:{user}"), rest.split_once('@')?.1.to_owned()))
        })
        .expect("user:password@host");
    settings.url = format!("{before}:wrong@{after}").into();
    let refused = platform::store::postgres::connect(&settings, "test").await.expect_err("a wrong password");
    assert!(refused.to_string().contains("refuses the user or password"), "{refused}");
}

#[test]
fn a_taken_port_is_named_with_its_remedy_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let mut stack = Stack::prepared(Options { flags: vec!["--postgres-port".into(), port.clone()], ..only(ENGINES) });
    stack.spawn();
    assert_eq!(stack.wait_for_end().code(), Some(78));
    let output = stack.output();
    let this = format!("process {}", std::process::id());
    assert!(output.contains(&port) && output.contains("--postgres-port") && output.contains(&this), "{output}");
    assert!(!stack.data_dir().join("kafka").exists() && !stack.data_dir().join("postgres").exists(), "{output}");
    assert_nothing_runs(&stack);
}

#[test]
fn a_port_of_another_platform_is_called_that() {
    let first = Stack::start_with(only(POSTGRES));
    let port = first.postgres_url().rsplit_once(':').and_then(|(_, rest)| rest.split_once('/')).expect("a port").0;
    let mut second = Stack::prepared(Options { flags: vec!["--postgres-port".into(), port.into()], ..only(POSTGRES) });
    second.spawn();
    assert_eq!(second.wait_for_end().code(), Some(78));
    let wanted = format!("another `platform up` (process {}", first.pid_of_up());
    assert!(second.output().contains(&wanted), "{}", second.output());
}

#[test]
fn a_second_platform_on_the_same_folder_is_refused_by_name() {
    let first = Stack::start_with(only(POSTGRES));
    let mut command = first.command(&["up", "--parts", "postgres", "--postgres-port", "0", "--data-dir"]);
    command.arg(first.data_dir()).arg("--engines-dir").arg(engines_dir());
    let second = finish(command);
    assert_eq!(second.code, Some(75), "{second:?}");
    assert!(second.stderr.contains(&first.pid_of_up().to_string()), "{second:?}");
    assert!(processes::is_alive(first.pid_of("postgres")), "the first one is left alone");
}

#[test]
fn a_part_that_dies_is_started_again_and_that_is_said() {
    let stack = Stack::start_with(only(POSTGRES));
    stack.crash_part("postgres");
    let output = stack.output();
    let log = stack.data_dir().join("logs/postgres.log").display().to_string();
    assert!(output.contains("PostgreSQL ended (signal: 9") && output.contains(&log), "{output}");
}

#[test]
fn every_engine_comes_back_after_a_crash() {
    let stack = Stack::start_with(only(ENGINES));
    for part in ["clickhouse", "connect", "kafka", "postgres"] {
        stack.crash_part(part);
    }
    assert_eq!(stack.output().matches("ended (signal: 9").count(), 4, "{}", stack.output());
}

#[tokio::test]
async fn the_first_start_sets_everything_up_and_later_ones_keep_it() {
    let mut stack = Stack::start_with(only(LOADED));
    for start in ["first", "second"] {
        let settings = stack.settings().postgres;
        let hash = Sha256::digest(stack.api_key()).to_vec();
        let sql = "select prefix, scopes from platform.api_keys where sha256 = $1";
        let row = postgres(&stack).await.query_one(sql, &[&hash]).await.expect("the shown key is stored, once");
        assert!(stack.api_key().starts_with(&format!("pk_{}_", row.get::<_, &str>(0))), "{start}");
        assert_eq!(row.get::<_, Vec<String>>(1), ["read", "write", "admin"], "{start}");
        for (role, password) in [
            ("platform_api", &settings.api_password),
            ("platform_sink", &settings.sink_password),
            ("platform_etl", &settings.etl_password),
            ("debezium", &settings.debezium_password),
        ] {
            let mut driver = settings.driver_config("test").expect("valid");
            driver.user(role).password(password.expose_secret());
            let connected = platform::store::postgres::connect_with(&driver, &settings).await;
            assert!(connected.is_ok(), "{start}: {role}: {connected:?}");
        }
        wait_until("the connector runs", Duration::from_secs(60), async || {
            stack.platform(&["connector", "status"]).code == Some(0)
        })
        .await;
        assert!(stack.stop_by(Signal::SIGTERM).success(), "{start}");
        if start == "first" {
            stack.start_again();
        }
    }
    let output = stack.output();
    assert_eq!(output.matches("first load").count(), 1, "{output}");
    assert_eq!(output.matches("platform: ready after").count(), 2, "{output}");
}

#[tokio::test]
async fn the_whole_platform_answers_at_the_addresses_it_names() {
    let stack = Stack::shared();
    let status = async |url: String, key: &str| {
        let request = reqwest::Client::new().get(url).header("authorization", format!("Bearer {key}"));
        request.send().await.expect("an answer").status().as_u16()
    };
    let api = stack.api_url();
    let posts = format!("{api}/v1/sentiment-social?limit=1");
    assert_eq!(status(posts.clone(), stack.api_key()).await, 200);
    assert_eq!(status(posts, "pk_00000000_wrong").await, 401);
    let summary = format!("{api}/v1/analytics/summary?from=2014-01-01&to=2014-04-01");
    // For a moment after the first load the answer is 503: the changes since the load are being applied.
    wait_until("the reader's password opens ClickHouse", Duration::from_secs(60), || async {
        status(summary.clone(), stack.api_key()).await == 200
    })
    .await;
    assert_eq!(status(format!("{}/connectors/platform/status", stack.connect_url()), "").await, 200);
    for arguments in [&["healthcheck"] as &[&str], &["healthcheck", "--sink"]] {
        let finished = stack.platform(arguments);
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let administrator = stack.settings().postgres.driver_config("test").expect("valid");
    let password = String::from_utf8_lossy(administrator.get_password().expect("a password")).into_owned();
    for part in ["serve", "sink", "clickhouse", "kafka", "connect"] {
        let environment = std::fs::read(format!("/proc/{}/environ", stack.pid_of(part))).expect("readable");
        assert!(
            !String::from_utf8_lossy(&environment).contains(&password),
            "{part} knows the administrator's password"
        );
    }
    // Java takes one that does not fit its jars for none, and says so in its log only.
    for (part, archive) in [("kafka", "classes/broker.jsa"), ("connect", "classes/connect.jsa")] {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", stack.pid_of(part))).expect("readable");
        assert!(maps.contains(archive), "{part} starts without its archive of classes; `make engines` makes it");
    }
}

#[test]
fn what_a_killed_platform_left_is_cleared_by_the_next_start() {
    let mut stack = Stack::start_with(only(ENGINES));
    let parts = ["postgres", "kafka", "connect", "clickhouse"];
    let old = parts.map(|part| stack.pid_of(part));
    stack.stop_by(Signal::SIGKILL);
    assert!(old.iter().all(|pid| processes::is_alive(*pid)), "the parts live on");
    stack.start_again();
    assert!(!old.iter().any(|pid| processes::is_alive(*pid)), "the old ones are gone");
    let output = stack.output();
    assert!(parts.iter().all(|part| output.contains(&format!("stopping {part} (process"))), "{output}");
    assert!(!stack.log("postgres").contains("was not properly shut down"), "PostgreSQL was stopped in its own way");
    assert!(stack.stop_by(Signal::SIGTERM).success());
    assert_nothing_runs(&stack);
}

#[test]
fn ctrl_c_stops_everything_within_its_time_and_leaves_no_process() {
    let mut stack = Stack::start_with(only(ENGINES));
    assert!(processes::using(stack.data_dir()).len() >= 5, "up and four parts at least");
    for part in ["postgres", "kafka", "connect", "clickhouse"] {
        let pid = nix::unistd::Pid::from_raw(stack.pid_of(part));
        assert_eq!(nix::unistd::getpgid(Some(pid)), Ok(pid), "a terminal's Ctrl-C does not reach {part}");
    }
    let begun = Instant::now();
    let status = stack.stop_by(Signal::SIGINT);
    assert_eq!(status.code(), Some(0), "{}", stack.output());
    assert!(!stack.data_dir().join("env").exists(), "no addresses of what does not run");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_nothing_runs(&stack);
    assert!(!stack.output().contains("was killed"), "every part ended by itself:\n{}", stack.output());
}

/// PostgreSQL's own children end by themselves when it is killed, a moment later.
fn wait_until_nothing_runs(stack: &Stack) {
    block_until("nothing runs", Duration::from_secs(10), || processes::using(stack.data_dir()).is_empty());
}

#[test]
fn a_part_that_hangs_is_killed_when_the_time_is_over() {
    let mut stack = Stack::start_with(only(POSTGRES));
    stack.kill_part("postgres", Signal::SIGSTOP);
    let begun = Instant::now();
    assert_eq!(stack.stop_by(Signal::SIGTERM).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(stack.output().contains("PostgreSQL did not stop in time and was killed"), "{}", stack.output());
    wait_until_nothing_runs(&stack);
}

#[test]
fn a_second_ctrl_c_kills_what_still_runs() {
    let mut stack = Stack::start_with(only(POSTGRES));
    stack.kill_part("postgres", Signal::SIGSTOP);
    let begun = Instant::now();
    processes::signal(stack.pid_of_up(), Signal::SIGINT);
    // Within the first second a signal counts as the same wish, so that it is repeated as an impatient person would.
    block_until("it ends", Duration::from_secs(10), || {
        processes::signal(stack.pid_of_up(), Signal::SIGINT);
        !processes::is_alive(stack.pid_of_up())
    });
    assert!(begun.elapsed() >= Duration::from_secs(1), "the first second is one wish: {:?}", begun.elapsed());
    assert_eq!(stack.wait_for_end().code(), Some(0));
    wait_until_nothing_runs(&stack);
}

#[test]
fn ctrl_c_during_the_start_leaves_no_process() {
    let mut stack = Stack::prepared(only(ENGINES));
    stack.spawn();
    block_until("Kafka is started", Duration::from_secs(60), || stack.try_pid_of("kafka").is_some());
    let begun = Instant::now();
    assert_eq!(stack.stop_by(Signal::SIGINT).code(), Some(0), "{}", stack.output());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_nothing_runs(&stack);
    assert!(!stack.data_dir().join("env").exists(), "it never was ready");
}

#[test]
fn it_ends_with_the_process_that_it_was_started_for() {
    let stack = Stack::prepared(only(POSTGRES));
    let mut owner = std::process::Command::new("sleep").arg("600").spawn().expect("started");
    let mut command = stack.command(&["up", "--parts", "postgres", "--postgres-port", "0", "--exit-with-parent-pid"]);
    command.arg(owner.id().to_string()).arg("--data-dir").arg(stack.data_dir().join("data"));
    command.arg("--remove-data-on-exit").arg("--engines-dir").arg(engines_dir());
    let up = std::thread::spawn(move || finish(command));
    block_until("it is ready", Duration::from_secs(60), || stack.data_dir().join("data/env").exists());
    owner.kill().and_then(|()| owner.wait()).expect("ended");
    let ended = up.join().expect("no panic");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!stack.data_dir().join("data").exists(), "the data are removed when that was asked for");
    assert_nothing_runs(&stack);
}

/// An installation of PostgreSQL's programs in `folder`.
fn private_engines(folder: &Path) -> std::path::PathBuf {
    let engines = folder.join("engines");
    std::fs::create_dir(&engines).expect("made");
    let programs = engines_dir().join("postgres/bin").canonicalize().expect("installed");
    let installation = programs.parent().expect("a folder");
    let copied = std::process::Command::new("cp").arg("-r").arg(installation).arg(engines.join("postgres")).status();
    assert!(copied.expect("started").success());
    engines
}

#[tokio::test]
async fn started_by_root_where_others_cannot_enter_postgres_moves_to_where_it_can() {
    let only_its_owner = std::fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().permissions(only_its_owner).tempdir().expect("a folder");
    let data_dir = folder.path().canonicalize().expect("there").join("data");
    let engines = private_engines(folder.path()).display().to_string();
    let options = |more: &[&str]| Options {
        data_dir: Some(data_dir.clone()),
        flags: [&["--engines-dir", &engines], more].concat().into_iter().map(str::to_owned).collect(),
        ..only(POSTGRES)
    };
    let mut first = Stack::start_with(options(&[]));
    postgres(&first).await.batch_execute("create table kept as select 7 as n").await.expect("written");
    let owner = Path::new("/proc").join(first.pid_of("postgres").to_string()).metadata().expect("it runs").uid();
    let link = data_dir.join("postgres");
    if !nix::unistd::geteuid().is_root() {
        // Everybody else runs PostgreSQL as himself, in place.
        assert!(owner == nix::unistd::geteuid().as_raw() && !link.is_symlink());
        return;
    }
    assert_ne!(owner, 0, "PostgreSQL refuses to run as root");
    let refuge = std::fs::read_link(&link).expect("remembered by a link");
    let programs = std::fs::read_link(data_dir.join("postgres-engine")).expect("remembered by a link");
    for place in [&refuge, &programs] {
        assert!(first.output().contains(&place.display().to_string()), "it is said:\n{}", first.output());
    }
    assert!(first.stop_by(Signal::SIGTERM).success());

    let mut second = Stack::start_with(options(&["--remove-data-on-exit"]));
    let row = postgres(&second).await.query_one("select n from kept", &[]).await.expect("kept");
    assert_eq!(row.get::<_, i32>(0), 7);
    assert_eq!(std::fs::read_link(&link).expect("still a link"), refuge);
    assert!(second.stop_by(Signal::SIGTERM).success());
    assert!(!refuge.exists() && !programs.exists(), "removed with the data");
    assert_nothing_runs(&second);
}
