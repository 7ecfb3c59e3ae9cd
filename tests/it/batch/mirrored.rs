//! Both databases, with a mirror that a test fills itself: in the place of the load and the sink.

use std::ops::Deref;

use chrono::DateTime;
use platform::domain::{Lsn, TableName, Version};
use platform::store::checkpoint::{self, Checkpoint};
use platform::store::clickhouse::ClickHouse;
use platform::store::{mirror, replication, table_shapes};
use serde_json::Value;
use tempfile::TempDir;

use super::{Bench, Ended, connect};
use crate::support::clickhouse_server::ClickHouseServer;
use crate::support::postgres_server::PostgresServer;

pub(super) struct Mirrored {
    bench: Bench,
    server: Option<ClickHouseServer>,
    data: TempDir,
    pub(super) clickhouse: ClickHouse,
}

impl Deref for Mirrored {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl Mirrored {
    /// Both databases, migrated, with an empty mirror and without a checkpoint.
    pub(super) async fn start() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let (postgres, server) = tokio::join!(PostgresServer::start(), ClickHouseServer::start_on(data.path()));
        let client = connect(&postgres.url()).await;
        let variables = [
            ("PLATFORM__POSTGRES__URL", postgres.url()),
            ("PLATFORM__CLICKHOUSE__URL", server.url().to_owned()),
            ("PLATFORM__CLICKHOUSE__USER", ClickHouseServer::USER.to_owned()),
            ("PLATFORM__CLICKHOUSE__PASSWORD", ClickHouseServer::PASSWORD.to_owned()),
            ("PLATFORM__ETL__WAIT_TIMEOUT_S", "20".to_owned()),
            ("AIRFLOW_CTX_DAG_ID", "daily".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let clickhouse = ClickHouse::new(&server.settings()).expect("a client");
        // Jobs run as the role that is meant for them; only the schema needs an administrator.
        let etl_url = postgres.url().replace("postgres@", "platform_etl@");
        let bench = Bench::on(postgres, client, variables);
        let ended = bench.run(&["migrate"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let mut mirrored = Self { bench, server: Some(server), data, clickhouse };
        mirrored.set("PLATFORM__POSTGRES__URL", &etl_url);
        mirrored.make_mirrors().await;
        mirrored
    }

    /// As `start`, with the log's identity and a checkpoint above everything.
    pub(super) async fn caught_up() -> Self {
        let mirrored = Self::start().await;
        let identity = replication::log_identity(&mirrored.client).await.expect("an identity");
        let log = mirror::Log { number: 1, identity, first_load: Lsn::new(1) };
        mirror::store_log(&mirrored.clickhouse, &log).await.expect("stored");
        mirrored.checkpoint(1, Lsn::new(u64::MAX >> 8)).await;
        mirrored
    }

    /// Kills the engine and starts it again on the same data, at another address.
    pub(super) async fn kill_engine(&mut self) {
        self.server.take().expect("it runs").kill().await;
        let server = ClickHouseServer::start_on(self.data.path()).await;
        let url = server.url().to_owned();
        self.clickhouse = ClickHouse::new(&server.settings()).expect("a client");
        self.server = Some(server);
        self.set("PLATFORM__CLICKHOUSE__URL", &url);
    }

    /// ClickHouse's answer to a statement.
    pub(super) async fn ask(&self, sql: &str) -> String {
        self.server.as_ref().expect("it runs").run(sql).await
    }

    /// An administrator's settings of the engine that runs.
    pub(super) fn clickhouse_settings(&self) -> platform::config::ClickHouse {
        self.server.as_ref().expect("it runs").settings()
    }

    /// A variable of the runs.
    pub(super) fn variable(&self, name: &str) -> &str {
        let found = self.bench.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).expect("it is set")
    }

    /// Sets a variable for the runs that follow.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.bench.variables.retain(|(known, _)| known != name);
        self.bench.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The mirror tables of the publication.
    pub(super) async fn make_mirrors(&self) {
        let published = table_shapes::published(&self.client, "platform", &std::collections::BTreeMap::new())
            .await
            .expect("the publication");
        for table in &published.tables {
            mirror::prepare_table(&self.clickhouse, table).await.expect("a mirror table");
        }
    }

    /// End of PostgreSQL's log.
    pub(super) async fn position(&self) -> Lsn {
        replication::insert_lsn(&self.client).await.expect("a position")
    }

    /// The sink has acknowledged `batch`, and everything below `watermark`.
    pub(super) async fn checkpoint(&self, batch: u64, watermark: Lsn) {
        let checkpoint = Checkpoint {
            term: 1,
            batch,
            log: 1,
            topic: "platform.cdc".into(),
            next_offset: 0,
            watermark,
            record_hash: String::new(),
            heartbeat: 0,
            committed_at: DateTime::UNIX_EPOCH,
        };
        checkpoint::store(&self.clickhouse, "platform", &checkpoint).await.expect("stored");
    }

    /// The table behind `analytics.sentiment_daily`.
    pub(super) fn daily_result() -> String {
        platform::batch::aggregates::all("").expect("the shipped ones")[0].result_table()
    }

    /// Runs statements in PostgreSQL.
    pub(super) async fn postgres(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Copies the rows of `sentiment_social` that match `condition` into the mirror under `version`.
    pub(super) async fn copy(&self, version: u64, condition: &str) {
        let columns = "id, platform, post_id, author, content, lang, topic, hashtags, sentiment_label, sentiment_score, confidence, \
                       likes, replies, shares, model_name, raw::text as raw, posted_at, created_at, updated_at, row_version";
        let sql =
            format!("select to_json(t)::text from (select {columns} from public.sentiment_social where {condition}) t");
        let rows = self.client.query(&sql, &[]).await.expect("the rows");
        let lines: Vec<String> = rows
            .iter()
            .map(|row| {
                let json: String = row.get(0);
                format!("{},\"_version\":{version},\"_deleted\":0}}", json.strip_suffix('}').expect("an object"))
            })
            .collect();
        if !lines.is_empty() {
            let insert = "insert into mirror.sentiment_social settings date_time_input_format = 'best_effort' format JSONEachRow";
            self.ask(&format!("{insert}\n{}", lines.join("\n"))).await;
        }
    }

    /// The deletion of the rows with these ids, under `version`.
    pub(super) async fn tombstones(&self, version: u64, ids: &[i64]) {
        for id in ids {
            let sql =
                format!("insert into mirror.sentiment_social (id, _version, _deleted) values ({id}, {version}, 1)");
            self.ask(&sql).await;
        }
    }

    pub(super) async fn floor(&self, version: u64) {
        let table = TableName::new("public", "sentiment_social");
        let version = Version::from_raw(version.into());
        mirror::raise_floor(&self.clickhouse, &table, version, "test").await.expect("raised");
    }

    /// Builds the daily statistics, or those of the folder that was set.
    pub(super) async fn etl(&self, arguments: &[&str]) -> Ended {
        let mut all = vec!["etl"];
        all.extend(arguments);
        let own = self.bench.variables.iter().any(|(name, _)| name == "PLATFORM__ETL__AGGREGATES_DIR");
        if !own && !arguments.contains(&"--job") {
            all.extend(["--job", "sentiment_daily"]);
        }
        self.run(&all).await
    }

    /// The statistics of a day as readers see them, one line a row, sorted.
    pub(super) async fn statistics(&self, day: &str) -> Vec<String> {
        let text = |column: &str| format!("ifNull({column}, '<null>')");
        let decimal = |column: &str, scale: u8| format!("ifNull(toDecimalString({column}, {scale}), '<null>')");
        let sql = format!(
            "select concat_ws('|', toString(day), platform, {}, {}, sentiment_label, toString(posts), toString(authors), {}, {}, {}, {}, \
             toString(likes), toString(replies), toString(shares)) from analytics.sentiment_daily where day = '{day}' format LineAsString",
            text("topic"),
            text("lang"),
            decimal("mean_score", 6),
            decimal("min_score", 3),
            decimal("max_score", 3),
            decimal("median_score", 3)
        );
        sorted(self.ask(&sql).await.lines())
    }

    /// The same out of PostgreSQL.
    pub(super) async fn statistics_of_postgres(&self, day: &str) -> Vec<String> {
        let sql = format!(
            "select concat_ws('|', '{day}', platform, coalesce(topic, '<null>'), coalesce(lang, '<null>'), sentiment_label, count(*), \
             count(distinct author), coalesce(round(avg(sentiment_score), 6)::text, '<null>'), coalesce(min(sentiment_score)::text, '<null>'), \
             coalesce(max(sentiment_score)::text, '<null>'), \
             coalesce((percentile_disc(0.5) within group (order by sentiment_score))::text, '<null>'), \
             sum(likes), sum(replies), sum(shares)) from public.sentiment_social \
             where posted_at >= '{day}' and posted_at < '{day}'::date + 1 group by platform, topic, lang, sentiment_label"
        );
        let rows = self.client.query(&sql, &[]).await.expect("statistics");
        sorted(rows.iter().map(|row| row.get::<_, &str>(0)))
    }

    /// Names of staging tables that are left.
    pub(super) async fn staging(&self) -> String {
        self.ask("select name from system.tables where database = 'platform' and name like '\\_staging%'").await
    }
}

impl Ended {
    /// Exit code, status, rows in and rows out.
    pub(super) fn summary(&self) -> (Option<i32>, String, u64, u64) {
        let result = if self.stdout.is_empty() { Value::Null } else { self.result() };
        let number = |key: &str| result[key].as_u64().unwrap_or_default();
        (self.code, result["status"].as_str().unwrap_or(&self.stderr).to_owned(), number("rows_in"), number("rows_out"))
    }
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}
