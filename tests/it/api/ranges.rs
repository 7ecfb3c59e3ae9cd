//! `{rows}` of an endpoint file gives what the view gives for the same range, whatever has happened to the rows.

use platform::domain::{TableName, Version};
use platform::store::clickhouse::ClickHouse;
use platform::store::{migrate, mirror, table_shapes};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::{Api, send};
use crate::support::clickhouse_server::ClickHouseServer;

/// Rows before anything happens to them, a second day for every thousand, in the order of their keys.
const ROWS: u32 = 200_000;
const DAYS: u32 = 200;

/// An engine with the mirror as a load makes it, and an API whose files read ranges of it in both ways.
struct Scene {
    server: ClickHouseServer,
    clickhouse: ClickHouse,
    api: Api,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let server = ClickHouseServer::start().await;
        let clickhouse = ClickHouse::new(&server.settings()).expect("a client");
        let mut postgres = Api::start().await.postgres().await;
        migrate::run(&mut postgres, &clickhouse).await.expect("migrated");
        let configured = std::collections::BTreeMap::new();
        let published = table_shapes::published(&postgres, "platform", &configured).await.expect("the publication");
        let wanted = TableName::new("public", "sentiment_social");
        let posts = published.tables.iter().find(|table| *table.name() == wanted).expect("published");
        mirror::prepare_table(&clickhouse, posts).await.expect("a mirror");
        // A key of two columns that do not follow the time, which may be NULL.
        for sql in [
            "create table mirror.pairs (a String, b Int32, at Nullable(DateTime64(6, 'UTC')), _version UInt128, _deleted UInt8) \
             engine = ReplacingMergeTree(_version, _deleted) order by (b, a)",
            "create view analytics.pairs as select a, b, at from mirror.pairs final where _deleted = 0",
            "create view platform.moments_pairs as select b, a, at from mirror.pairs comment '[\"b\",\"a\"]'",
        ] {
            server.run(sql).await;
        }
        let folder = tempfile::tempdir().expect("a folder");
        for (table, column) in [("sentiment_social", "posted_at"), ("pairs", "at")] {
            let head = format!(
                "-- summary: x\n-- table: {table}\n-- param from DateTime required: x\n-- param to DateTime required: x\n"
            );
            let facts = "select count() as n, groupBitXor(sipHash64(toString(tuple(*)))) as hash from";
            let write = |way: &str, text: String| {
                let name = format!("{}-{way}.sql", table.replace('_', "-"));
                std::fs::write(folder.path().join(name), text).expect("written");
            };
            write("flat", format!("{head}-- range: {column} from to\n{facts} {{rows}}"));
            let ends = ["from", "to"].map(|end| format!("{{{end}:DateTime64(6, 'UTC')}}"));
            write(
                "view",
                format!(
                    "{head}{facts} (select * from analytics.{table} where {column} >= {} and {column} < {})",
                    ends[0], ends[1]
                ),
            );
        }
        let url = server.url().to_owned();
        let api = Api::start_with(|settings| {
            settings.api.endpoints_dir = folder.path().display().to_string();
            settings.clickhouse.url = url;
            settings.clickhouse.user = ClickHouseServer::READER.to_owned();
            settings.clickhouse.password = ClickHouseServer::READER_PASSWORD.to_owned().into();
        })
        .await;
        Self { server, clickhouse, api, _folder: folder }
    }

    /// What an endpoint says of a range, computed now.
    async fn facts(&self, name: &str, (from, to): (&str, &str)) -> Value {
        let path = format!("/v1/analytics/{name}?from={from}&to={to}");
        let answer = send(self.api.request(reqwest::Method::GET, &path).header("cache-control", "no-cache")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// The same rows both ways; how many.
    async fn same(&self, table: &str, range: (&str, &str)) -> u64 {
        let flat = self.facts(&format!("{table}-flat"), range).await;
        let view = self.facts(&format!("{table}-view"), range).await;
        assert_eq!(flat["data"], view["data"], "{table} {range:?}");
        view["data"][0]["n"].as_u64().expect("a number")
    }

    /// Ranges of hours, of days, of everything and of nothing, wherever they lie.
    async fn compare(&self, random: &mut ChaCha8Rng) {
        let mut rows = Vec::new();
        for hours in [1, 30, 24 * 7, 24 * 50, 24 * 300] {
            let from = random.random_range(0..DAYS * 24);
            let range = (moment(from * 3600), moment((from + hours) * 3600 + random.random_range(0..3600)));
            for table in ["sentiment-social", "pairs"] {
                rows.push(self.same(table, (&range.0, &range.1)).await);
            }
        }
        assert!(rows.iter().any(|rows| *rows > 0), "{rows:?}");
        for table in ["sentiment-social", "pairs"] {
            self.same(table, ("1950-01-01", "2250-01-01")).await;
            assert_eq!(self.same(table, ("1950-01-01", "1960-01-01")).await, 0);
        }
    }

    async fn insert(&self, rows: &[Change]) {
        let posts = rows.iter().map(|row| {
            let Change { id, second, version, deleted } = row;
            format!("({id}, 'p', '{id}', 'c', ['x'], 'neutral', {version}, '{}', {version}, {deleted})", time(*second))
        });
        let columns = "id, platform, post_id, content, hashtags, sentiment_label, likes, posted_at, _version, _deleted";
        let posts: Vec<String> = posts.collect();
        self.server.run(&format!("insert into mirror.sentiment_social ({columns}) values {}", posts.join(", "))).await;
        let pairs = rows.iter().map(|row| {
            let Change { id, second, version, deleted } = row;
            let at = if id % 50 == version % 50 { "null".to_owned() } else { format!("'{}'", time(*second)) };
            format!("('{id}', {}, {at}, {version}, {deleted})", id % 7)
        });
        let pairs: Vec<String> = pairs.collect();
        self.server.run(&format!("insert into mirror.pairs values {}", pairs.join(", "))).await;
    }
}

/// A version of a row.
struct Change {
    id: u32,
    second: u32,
    version: u32,
    deleted: u8,
}

/// `count` of them with versions from `first` on: most rows stay near their time, many move, some go, some versions come late.
fn changes(random: &mut ChaCha8Rng, first: u32, count: u32) -> Vec<Change> {
    let change = |version| {
        let id = random.random_range(0..ROWS + 500);
        let near = id * (DAYS * 864 / (ROWS / 100));
        let second = if random.random_range(0..2) == 0 {
            random.random_range(0..DAYS * 86_400)
        } else {
            near + random.random_range(0..600)
        };
        let late = random.random_range(0..10) == 0;
        Change {
            id,
            second,
            version: if late { 0 } else { version },
            deleted: u8::from(random.random_range(0..6) == 0),
        }
    };
    (first..first + count).map(change).collect()
}

fn time(second: u32) -> String {
    let at = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(18_000) + chrono::Duration::seconds(second.into());
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

fn moment(second: u32) -> String {
    time(second).replace(' ', "T") + "Z"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_range_are_those_of_the_view() {
    let scene = Scene::start().await;
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let step = DAYS * 86_400 / ROWS;
    scene
        .server
        .run(&format!(
            "insert into mirror.sentiment_social (id, platform, post_id, content, hashtags, sentiment_label, posted_at, _version) \
             select number, 'p', toString(number), repeat('c', number % 50), ['x'], 'positive', \
             toDateTime64('{}', 6, 'UTC') + number * {step}, 1 from numbers({ROWS})",
            time(0)
        ))
        .await;
    scene
        .server
        .run("insert into mirror.pairs select toString(id), id % 7, if(id % 50 = 0, null, posted_at), _version, _deleted from mirror.sentiment_social")
        .await;
    // It is what it is for: a narrow range does not read the table, a wide one reads it once. A part beside the large one, since
    // of one part alone the view reads a range cheaply too.
    scene.server.run("system stop merges mirror.sentiment_social").await;
    scene.insert(&changes(&mut random, 1000, 400)).await;
    let (first, next, end) = (moment(86_400), moment(2 * 86_400), moment(DAYS * 86_400));
    let read = async |way: &str, range| {
        let facts = scene.facts(&format!("sentiment-social-{way}"), range).await;
        facts["statistics"]["rows_read"].as_u64().expect("a number")
    };
    let (flat, view) = (read("flat", (&first, &next)).await, read("view", (&first, &next)).await);
    assert!(view >= ROWS.into() && flat < view / 2, "{flat} of {view} rows were read");
    let wide = read("flat", (&first, &end)).await;
    assert!(wide < u64::from(ROWS) * 5 / 2, "{wide} rows were read");
    scene.compare(&mut random).await;
    scene.server.run("system start merges mirror.sentiment_social").await;

    for round in 1..6 {
        scene.insert(&changes(&mut random, 1000 * (round + 1), 400)).await;
        scene.compare(&mut random).await;
    }
    scene.server.run("optimize table mirror.sentiment_social final").await;
    scene.compare(&mut random).await;
    // TRUNCATE, and what comes after it: everything that is older has gone.
    let table = TableName::new("public", "sentiment_social");
    mirror::raise_floor(&scene.clickhouse, &table, Version::from_raw(4200), "truncate").await.expect("raised");
    scene.compare(&mut random).await;
    for round in 6..8 {
        scene.insert(&changes(&mut random, 1000 * (round + 1), 400)).await;
        scene.compare(&mut random).await;
    }
}
