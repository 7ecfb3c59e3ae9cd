//! One bucket out of ever larger tables: its cost follows its own rows. The rows are made inside the engine, in the mirror of a
//! table that is empty in PostgreSQL, with 20 small parts of newer versions on top.

use std::path::Path;
use std::time::Instant;

use platform::batch::aggregates::{self, LARGE_DAY};
use platform::domain::RunDate;
use platform::store::clickhouse::ClickHouse;
use platform::store::mirror_day::MirrorDay;
use platform::store::postgres;

use crate::engine::{self, ask, run, settle};
use crate::etl;
use crate::figures::{Line, knob, line, median, ms, repetitions};
use crate::support::Stack;

const TABLE: &str = "id bigint primary key, platform text not null, author text, sentiment text not null, score numeric(4,3), \
    topic text, likes int not null, shares int not null, posted_at timestamptz not null";

const AGGREGATE: &str = "-- summary: Posts of a day.
-- table: {TABLE}
-- bucket: day(posted_at)
-- keys: platform, sentiment, topic
-- rows: sum(n)
select platform, sentiment, topic, count() as n, avg(toFloat64(score)) as avg_score, sum(source.likes) as likes,
    sum(source.shares) as shares, uniqExact(author) as authors, quantileExactLow(0.5)(score) as median_score
from {source} as source
group by platform, sentiment, topic
";

/// Statements of a table whose days have `per_day` rows, in the order of their ids, from 2024-01-01.
struct Days {
    table: &'static str,
    per_day: u64,
}

pub(crate) async fn measure(stack: &Stack) -> Vec<Line> {
    let clickhouse = engine::client(stack);
    let mut lines = Vec::new();
    let most = knob("PLATFORM_BENCH_MILLIONS", 50);
    let days = Days { table: "growing", per_day: 100_000 };
    let folder = days.make(stack).await;
    let (mut there, mut first) = (0, None);
    for millions in [1, 10, 50].into_iter().filter(|millions| *millions <= most) {
        let rows = millions * 1_000_000;
        days.fill(&clickhouse, there, rows).await;
        there = rows;
        let Times { built, own, .. } = days.build(stack, &clickhouse, &folder, "2024-01-06").await;
        let smallest = *first.get_or_insert(built);
        lines.push(line(
            format!("etl of a day of 100,000 rows out of {millions} million"),
            ms(built),
            format!("the engine alone {}; out of 1 million {}", ms(own), ms(smallest)),
            Some(built / smallest),
        ));
    }
    run(&clickhouse, "truncate table mirror.growing").await;
    let days = Days { table: "wide", per_day: 1_000_000 };
    let folder = days.make(stack).await;
    let millions = most.min(20);
    days.fill(&clickhouse, 0, millions * 1_000_000).await;
    let Times { built, own, by_set } = days.build(stack, &clickhouse, &folder, "2024-01-06").await;
    for (what, alone) in [("the same SELECT", own), ("its keys as a set, the usual exact form", by_set)] {
        lines.push(line(
            format!("etl of a day of 1,000,000 rows out of {millions} million"),
            ms(built),
            format!("the engine alone, {what} {}", ms(alone)),
            Some(built / alone),
        ));
    }
    lines
}

impl Days {
    /// The table, its empty mirror, and its aggregate.
    async fn make(&self, stack: &Stack) -> std::path::PathBuf {
        let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
        let table = self.table;
        let sql = format!("create table {table} ({TABLE}); alter publication platform add table {table}");
        client.batch_execute(&sql).await.expect("a table");
        stack.platform(&["load", table]).json();
        let folder = etl::aggregate(stack, &format!("{table}_daily"), &AGGREGATE.replace("{TABLE}", table));
        etl::reached(stack, &folder);
        folder
    }

    async fn fill(&self, clickhouse: &ClickHouse, from: u64, to: u64) {
        println!("filling the mirror of {} with {to} rows", self.table);
        let million = 1_000_000;
        for at in (from..to).step_by(1_000_000) {
            run(clickhouse, &self.rows(1, &format!("number from numbers({at}, {million})"))).await;
        }
        settle(clickhouse).await;
        for _ in 0..20 {
            let ids = format!("number from (select rand64() % {to} as number from numbers(5000))");
            run(clickhouse, &self.rows(2, &ids)).await;
        }
        settle(clickhouse).await;
    }

    /// Rows of `ids` in a version above every floor.
    fn rows(&self, version: u32, ids: &str) -> String {
        let microseconds = 86_400_000_000 / self.per_day;
        format!(
            "insert into mirror.{} (id, platform, author, sentiment, score, topic, likes, shares, posted_at, _version, _deleted) \
             select number, ['twitter','reddit','youtube','tiktok','mastodon','news','bluesky','facebook'][1 + h % 8], \
             concat('user_', toString(h % 1000000)), ['positive','negative','neutral'][1 + intDiv(h, 8) % 3], \
             toDecimal64(intDiv(h, 64) % 2001, 3) / 1000, ['billing','delivery','brand','competitor','quality'][1 + h % 5], \
             h % 5000, h % 300, toDateTime64('2024-01-01 00:00:00', 6, 'UTC') + toIntervalMicrosecond(number * {microseconds}), \
             toUInt128('1329227995784915872903807060280344576') + {version}, 0 \
             from (select number, sipHash64(number) as h from (select {ids}))",
            self.table
        )
    }

    async fn build(&self, stack: &Stack, clickhouse: &ClickHouse, folder: &Path, day: &str) -> Times {
        let aggregate = aggregates::all(&folder.display().to_string()).expect("parsed").remove(0);
        let date: RunDate = day.parse().expect("a day");
        let by_set = MirrorDay::find(clickhouse, &aggregate, date).await.expect("a mirror");
        // As a run reads a large day.
        let same = by_set.clone();
        let same = if self.per_day < LARGE_DAY { same } else { same.narrowed(clickhouse).await.expect("keys") };
        let alone = async |source: &MirrorDay| {
            let begun = Instant::now();
            clickhouse.fetch_bytes(&source.select(&aggregate), &source.parameters(), "Null").await.expect("read");
            begun.elapsed().as_secs_f64()
        };
        let (mut built, mut own, mut set) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..repetitions() {
            built.push(etl::build(stack, folder, day).seconds);
            own.push(alone(&same).await);
            set.push(alone(&by_set).await);
        }
        let sum =
            ask(clickhouse, &format!("select sum(n) from analytics.{} where day = '{day}'", aggregate.name)).await;
        assert_eq!(sum, self.per_day.to_string());
        println!("{} of {day}: {built:.3?} s, the engine alone {own:.3?} s, by a set {set:.3?} s", self.table);
        Times { built: median(&built), own: median(&own), by_set: median(&set) }
    }
}

/// Seconds, medians.
struct Times {
    /// Of a run.
    built: f64,
    /// Of the engine for the same SELECT.
    own: f64,
    /// Of the engine for the SELECT whose keys are a set.
    by_set: f64,
}
