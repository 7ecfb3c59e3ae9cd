//! The whole stack under random faults while writers go on; when they stop, both sides are equal, and the next change
//! passes. `PLATFORM_CHAOS_SECONDS` says how long, `PLATFORM_CHAOS_SEED` which plan: `make chaos`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use platform::config::Settings;
use platform::domain::TableName;
use platform::store::postgres;

use super::chaos_faults::{Fault, PARTS, Plan};
use super::equality::Tables;
use super::schema_changes::made;
use super::workload::Workload;
use super::{Hands, NOTES};
use crate::support::liar::Liar;
use crate::support::own_sink::OwnSink;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::wait_until;
use crate::support::{Options, Stack, processes};

/// What the suite does; minutes and hours are for `make chaos`.
const SECONDS: u64 = 40;
const SEED: u64 = 20_261_123;
/// Requests that every run lies to at least.
const LIES: u64 = 25;
/// Parts that died often are started again after half a minute, and a task that failed often after a minute.
const RECOVERY: Duration = Duration::from_secs(300);
/// The exit codes of a load that something was in the way of: a part does not answer, or it is busy.
const EXCUSED: [i32; 2] = [69, 75];

struct Chaos {
    stack: Stack,
    liar: Liar,
    postgres: Proxy,
    sinks: Vec<OwnSink>,
    environment: Vec<(String, String)>,
    loads: Vec<tokio::task::JoinHandle<()>>,
    begun: Instant,
    count: u32,
}

fn knob(name: &str, default: u64) -> u64 {
    let given = platform::config::environment().remove(name);
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_of_every_part_leave_both_sides_equal() {
    let (seconds, seed) = (knob("PLATFORM_CHAOS_SECONDS", SECONDS), knob("PLATFORM_CHAOS_SEED", SEED));
    eprintln!("chaos: PLATFORM_CHAOS_SEED={seed} PLATFORM_CHAOS_SECONDS={seconds}");
    let mut chaos = Chaos::start(seed).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..2).map(|number| tokio::spawn(write(chaos.stack.settings(), seed, number, Arc::clone(&stop)))).collect();
    chaos.is_lied_to().await;
    let mut plan = Plan::of(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let (fault, calm) = plan.next();
        chaos.say(&format!("{fault:?}"));
        chaos.strike(fault).await;
        tokio::time::sleep(calm).await;
        chaos.revive();
    }
    chaos.say("the faults stop");
    chaos.calm_down().await;
    stop.store(true, Ordering::SeqCst);
    let mut committed = 0;
    for writer in writers {
        committed += writer.await.expect("it wrote");
    }
    assert!(committed > seconds, "only {committed} steps were committed");
    let lies = chaos.liar.lies();
    chaos.say(&format!("{committed} steps were committed, {lies} requests were lied to"));
    chaos.is_right().await;
    chaos.say("both sides are equal");
}

impl Chaos {
    async fn start(seed: u64) -> Self {
        let parts = Some("postgres,kafka,connect,clickhouse,migrate,load,connector");
        let stack = Stack::start_with(Options { parts, ..Options::default() });
        let hands = Hands::of(&stack).await;
        hands.run(NOTES).await;
        hands.run(&made("shifting", 100)).await;
        hands.run(&made("chaos_1", 30)).await;
        let liar = Liar::before(stack.clickhouse().0, seed).await;
        let url = stack.postgres_url();
        let address = postgres::address(&url.parse().expect("a URL"));
        let (address, _) = address.split_once('/').expect("host:port/database");
        let proxy = Proxy::before(address.to_owned()).await;
        let environment = vec![
            ("PLATFORM__CLICKHOUSE__URL".to_owned(), liar.url()),
            ("PLATFORM__POSTGRES__URL".to_owned(), url.replace(address, &proxy.address())),
            ("PLATFORM__CLICKHOUSE__TIMEOUT_MS".to_owned(), "5000".to_owned()),
            ("PLATFORM__SINK__RETRY_WAIT_MS_MAX".to_owned(), "1000".to_owned()),
        ];
        let begun = Instant::now();
        let mut chaos =
            Self { stack, liar, postgres: proxy, sinks: Vec::new(), environment, loads: Vec::new(), begun, count: 1 };
        chaos.sinks = (0..2).map(|_| chaos.sink()).collect();
        hands.caught_up().await;
        chaos.begun = Instant::now();
        chaos
    }

    /// While everything else is well: later lies may meet a sink that waits for another part and asks for nothing.
    async fn is_lied_to(&self) {
        self.liar.lie(300);
        wait_until("ClickHouse has lied", RECOVERY, || async { self.liar.lies() >= LIES }).await;
        self.liar.lie(0);
        self.say(&format!("{LIES} requests were lied to"));
    }

    fn sink(&self) -> OwnSink {
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        OwnSink::start(&self.stack, &environment)
    }

    fn say(&self, what: &str) {
        eprintln!("chaos: {:7.2} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    async fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(part) => self.signal(part, Signal::SIGKILL),
            Fault::Pause(part, time) => {
                self.signal(part, Signal::SIGSTOP);
                tokio::time::sleep(time).await;
                self.signal(part, Signal::SIGCONT);
            }
            // A fast shutdown: sessions are ended, everything is written.
            Fault::RestartPostgres => self.signal("postgres", Signal::SIGINT),
            Fault::KillSink(at) => self.sinks[at].signal(Signal::SIGKILL),
            Fault::PauseSink(at, time) => {
                self.sinks[at].signal(Signal::SIGSTOP);
                tokio::time::sleep(time).await;
                self.sinks[at].signal(Signal::SIGCONT);
            }
            Fault::Zombie(at, time) => {
                self.sinks[at].signal(Signal::SIGSTOP);
                self.end_sessions().await;
                tokio::time::sleep(time).await;
                self.sinks[at].signal(Signal::SIGCONT);
            }
            Fault::ClickHouse(mode, time) => {
                self.liar.proxy.set(mode);
                tokio::time::sleep(time).await;
                self.liar.proxy.set(Mode::Open);
            }
            Fault::Postgres(mode, time) => {
                self.postgres.set(mode);
                tokio::time::sleep(time).await;
                self.postgres.set(Mode::Open);
            }
            Fault::Lies(per_mille, time) => {
                self.liar.lie(per_mille);
                tokio::time::sleep(time).await;
                self.liar.lie(0);
            }
            Fault::EndSessions => self.end_sessions().await,
            Fault::Load(table) => self.load(table),
            Fault::NewColumn | Fault::DropColumn | Fault::NewTable => self.restructure(fault).await,
        }
    }

    /// To a part and its children; one that is down is left alone.
    fn signal(&self, part: &str, signal: Signal) {
        let Some(pid) = self.stack.try_pid_of(part) else { return };
        let children = if signal == Signal::SIGKILL || signal == Signal::SIGINT { Vec::new() } else { children(pid) };
        for pid in children.into_iter().chain([pid]) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    async fn end_sessions(&self) {
        self.try_sql(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity \
             where application_name like 'platform %' or application_name like 'Debezium%'",
        )
        .await;
    }

    async fn restructure(&mut self, fault: Fault) {
        self.count += 1;
        let count = self.count;
        let sql = match fault {
            Fault::NewColumn => format!(
                "alter table shifting add column if not exists c{count} int default {count}; update shifting set c{count} = id where id % 3 = 0"
            ),
            Fault::DropColumn => "do $$ declare name text; begin \
                 select attname into name from pg_attribute where attrelid = 'shifting'::regclass and attname ~ '^c\\d' and not attisdropped limit 1; \
                 if name is not null then execute format('alter table shifting drop column %I', name); end if; end $$"
                .to_owned(),
            _ => {
                // The last one stays, to be compared.
                let left = "do $$ declare name text; begin \
                     select tablename into name from pg_publication_tables where pubname = 'platform' and tablename ~ '^chaos_' order by random() limit 1; \
                     if name is not null then execute format('alter publication platform drop table %I', name); end if; end $$";
                format!("{left}; {}", made(&format!("chaos_{count}"), 30))
            }
        };
        self.try_sql(&sql).await;
    }

    async fn try_sql(&self, sql: &str) {
        let done = async {
            let client = postgres::connect(&self.stack.settings().postgres, "chaos").await?;
            client.batch_execute("set lock_timeout = '2 s'; set statement_timeout = '10 s'").await?;
            client.batch_execute(sql).await?;
            anyhow::Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(15), done).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.say(&format!("  not done: {error:#}")),
            Err(_) => self.say("  not done: no answer"),
        }
    }

    /// Beside everything else, through the same bad connections as the sink.
    fn load(&mut self, table: Option<&'static str>) {
        let mut arguments = vec!["load"];
        arguments.extend(table);
        let mut command = self.stack.command(&arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let begun = self.begun;
        self.loads.push(tokio::task::spawn_blocking(move || {
            let done = crate::support::stack::finish(command);
            eprintln!("chaos: {:7.2} s    a load of {table:?} ended: {:?}", begun.elapsed().as_secs_f64(), done.code);
            let excused = done.code.is_some_and(|code| code == 0 || EXCUSED.contains(&code));
            assert!(excused, "a load ended with {:?}:\n{}", done.code, done.stderr);
        }));
    }

    /// Starts killed sinks again; a sink ends in no other way.
    fn revive(&mut self) {
        for at in 0..self.sinks.len() {
            if self.sinks[at].was_killed(Duration::ZERO) {
                self.sinks[at] = self.sink();
            }
        }
    }

    async fn calm_down(&mut self) {
        self.liar.lie(0);
        self.liar.proxy.set(Mode::Open);
        self.postgres.set(Mode::Open);
        for part in PARTS {
            self.signal(part, Signal::SIGCONT);
        }
        for load in self.loads.drain(..) {
            load.await.expect("a load that was excused or done");
        }
        let settings = self.stack.settings();
        wait_until("PostgreSQL answers", RECOVERY, || async {
            postgres::connect(&settings.postgres, "chaos").await.is_ok()
        })
        .await;
    }

    async fn is_right(&mut self) {
        self.revive();
        let hands = Hands::of(&self.stack).await;
        let mut rest = Workload::beside_others(1, 9);
        rest.posts(&hands.postgres, 5).await;
        rest.notes(&hands.postgres, 5).await;
        hands.run("insert into shifting (id) values (100000)").await;
        hands
            .caught_up_within(RECOVERY, async || {
                for sink in &self.sinks {
                    let state = sink.state().await;
                    assert!(state != "halted", "a sink has halted:\n{}", tail(&self.stack.log("own-sink")));
                }
            })
            .await;
        let sql = "select tablename::text from pg_publication_tables where pubname = 'platform'";
        let published = hands.postgres.query(sql, &[]).await.expect("the publication");
        let names = published.iter().map(|row| row.get::<_, String>(0)).filter(|name| name != "heartbeat");
        let tables: Vec<TableName> = names.map(|name| TableName::new("public", &name)).collect();
        assert!(tables.len() >= 3, "{tables:?}");
        for table in &tables {
            hands.reaches(&table.mirror_name(), "live").await;
        }
        hands.caught_up().await;
        Tables::become_equal(&hands, &tables, "after the faults").await;
        hands.aggregates_are_equal().await;
        // Not only what was there: the next change passes.
        rest.posts(&hands.postgres, 1).await;
        hands.run("update shifting set a = -1 where id = 100000").await;
        hands.caught_up().await;
        Tables::become_equal(&hands, &tables, "after one more change").await;
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of the sinks' log:\n{}", tail(&self.stack.log("own-sink")));
            eprintln!("platform up:\n{}", tail(&self.stack.output()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| processes::is_alive(*pid)).collect()
}

/// Commits random steps until `stop`, over as many connections as that takes. Returns how many were committed.
async fn write(settings: Settings, seed: u64, number: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut workload = Workload::beside_others(seed, number);
    let mut committed = 0;
    let mut client = None;
    while !stop.load(Ordering::SeqCst) {
        let connected = match client.take() {
            Some(client) => client,
            None => match postgres::connect(&settings.postgres, "a writer").await {
                Ok(client) => client,
                Err(_) => continue,
            },
        };
        let sql = workload.step_beside_others();
        // What fails is rolled back, with its connection or without: the next step is another one.
        match tokio::time::timeout(Duration::from_secs(20), connected.batch_execute(&sql)).await {
            Ok(Ok(())) => {
                committed += 1;
                client = Some(connected);
            }
            Ok(Err(_)) if connected.batch_execute("rollback").await.is_ok() => client = Some(connected),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    committed
}

impl Hands {
    /// The same aggregate of both sides, over what no row-by-row comparison reads: the view under a GROUP BY.
    async fn aggregates_are_equal(&self) {
        let sql = "select coalesce(lang, '-') as lang, count(*) as posts, sum(likes) as likes, sum(shares) as shares, \
                   sum(sentiment_score) as score, max(id) as last, min(posted_at) as first \
                   from {from} group by 1 order by 1";
        let postgres = sql.replace("{from}", "sentiment_social");
        let rows = self
            .postgres
            .query(
                &format!(
                    "select lang, posts::text, likes::text, shares::text, coalesce(score, 0)::text, last::text, \
                     (extract(epoch from first) * 1000000)::bigint::text from ({postgres}) a order by lang collate \"C\""
                ),
                &[],
            )
            .await
            .expect("PostgreSQL's aggregate");
        let expected: Vec<Vec<String>> =
            rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect();
        #[derive(serde::Deserialize)]
        struct Row {
            cells: Vec<String>,
        }
        let clickhouse = sql.replace("{from}", "analytics.sentiment_social");
        let sql = format!(
            "select [lang, toString(posts), toString(likes), toString(shares), toDecimalString(coalesce(score, 0), 3), toString(last), \
             toString(toUnixTimestamp64Micro(first))] as cells from ({clickhouse}) order by lang"
        );
        let found: Vec<Row> = self.clickhouse.fetch_all(&sql, &[]).await.expect("ClickHouse's aggregate");
        let found: Vec<Vec<String>> = found.into_iter().map(|row| row.cells).collect();
        assert_eq!(found, expected, "aggregates of lang, posts, likes, shares, score, last id, first time");
    }
}
