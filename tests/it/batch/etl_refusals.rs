//! `platform etl`: what it refuses, waits for and reports; aggregates of one's own.

use platform::domain::{Lsn, TableName, Version};
use platform::store::mirror::{self, DeadLetter};
use platform::store::table_states::{self, StateChange, TableState};

use super::mirrored::Mirrored;

const DAY: &str = "2024-05-01";
const ROWS: &str = "insert into public.sentiment_social (platform, post_id, content, sentiment_label, sentiment_score, posted_at) \
                    select 'p', n::text, 'x', 'mixed', 0.5, '2024-05-01 12:00' from generate_series(1, 10) n";

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_differs_leaves_the_old_day() {
    let bench = Mirrored::caught_up().await;
    bench.postgres(ROWS).await;
    bench.copy(10, "true").await;
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    let old = bench.statistics(DAY).await;

    // A change that reached the mirror damaged, and a row that never reached it.
    bench.postgres("update public.sentiment_social set sentiment_score = 0.25 where post_id = '1'").await;
    bench.copy(11, "post_id = '1'").await;
    bench.postgres("update public.sentiment_social set sentiment_score = 0.251 where post_id = '1'").await;
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("scores: PostgreSQL has 4751, the mirror 4750"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("rows:"), "what is equal is not named: {}", ended.stderr);
    bench.copy(12, "post_id = '1'").await;
    bench.tombstones(13, &[1]).await;
    let letter = DeadLetter {
        id: "platform.cdc/0/7".into(),
        table: "sentiment_social".into(),
        key: String::new(),
        version: Version::from_raw(12),
        reason: "decode",
        detail: String::new(),
        message: "{}".into(),
    };
    mirror::store_dead_letters(&bench.clickhouse, "platform", &[letter]).await.expect("parked");
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.code, Some(65), "{}", ended.stderr);
    assert!(ended.stderr.contains("rows: PostgreSQL has 10, the mirror 9"), "{}", ended.stderr);
    assert!(ended.stderr.contains("1 rows of public.sentiment_social are parked"), "{}", ended.stderr);
    assert_eq!((bench.statistics(DAY).await, bench.staging().await.as_str()), (old.clone(), ""));
    let history = bench
        .ask("select count() from platform.runs where status = 'failed' and detail like '%the mirror differs%'")
        .await;
    assert_eq!(history, "2\n");

    // Whoever asks for it gets the mirror as it is.
    let ended = bench.etl(&["--date", DAY, "--wait-lsn", "none"]).await;
    assert_eq!(
        (ended.code, ended.result()["checks"]["rows"].as_str()),
        (Some(0), Some("not compared")),
        "{}",
        ended.stderr
    );
    assert_ne!(bench.statistics(DAY).await, old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_behind_is_named() {
    let mut bench = Mirrored::start().await;
    bench.set("PLATFORM__ETL__WAIT_TIMEOUT_S", "1");
    bench.postgres(ROWS).await;
    bench.copy(10, "true").await;
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("has no checkpoint") && ended.stderr.contains("run `platform load`"),
        "{}",
        ended.stderr
    );

    bench.checkpoint(1, Lsn::new(0x10)).await;
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("within 1 s; it is at 0/10; is `platform sink` running"), "{}", ended.stderr);
    // What was prepared meanwhile for a build that will be made in any case goes too.
    assert_eq!((bench.etl(&["--date", DAY, "--force"]).await.code, bench.staging().await.as_str()), (Some(75), ""));

    let table = TableName::new("public", "sentiment_social");
    let store = async |state, reason, snapshot| {
        let change = StateChange { snapshot, ..StateChange::of("platform", state, reason) };
        table_states::store(&bench.clickhouse, &table.mirror_name(), &change).await.expect("stored");
        bench.etl(&["--date", DAY, "--wait-lsn", "none"]).await
    };
    let ended = store(TableState::Loading, "load", Lsn::ZERO).await;
    assert_eq!(ended.code, Some(75));
    assert!(ended.stderr.contains("is being loaded"), "{}", ended.stderr);
    let ended = store(TableState::Halted, "no such type", Lsn::ZERO).await;
    assert_eq!(ended.code, Some(75));
    assert!(ended.stderr.contains("is halted in the mirror: no such type"), "{}", ended.stderr);
    let ended = store(TableState::Live, "load", Lsn::new(0x20)).await;
    assert_eq!(ended.code, Some(75));
    assert!(ended.stderr.contains("is complete at 0/20, and is at 0/10"), "{}", ended.stderr);
    let ended = store(TableState::Live, "load", Lsn::new(0x10)).await;
    assert_eq!((ended.code, ended.result()["as_of_lsn"].as_str()), (Some(0), Some("0/10")), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_told_apart() {
    let bench = Mirrored::caught_up().await;
    let today = chrono::Utc::now().date_naive().to_string();
    for (code, arguments) in [
        (64, vec!["--date", "2024-02-30"]),
        (64, vec!["--date", &today]),
        (64, vec!["--from", "2024-02-02", "--to", "2024-02-01"]),
        (2, vec!["--from", "2024-02-02"]),
        (2, vec!["--date", DAY, "--to", "2024-02-01"]),
        (2, vec![]),
        (2, vec!["--date", DAY, "--job", "nonsense"]),
        (0, vec!["--date", &today, "--allow-incomplete"]),
    ] {
        let ended = bench.etl(&arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.stderr);
    }
    bench.ask("drop table mirror.sentiment_social sync").await;
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("has no mirror yet; run `platform load`"), "{}", ended.stderr);
    let mut command = bench.command(&["etl", "--date", DAY]);
    command.env("PLATFORM__CLICKHOUSE__URL", "http://127.0.0.1:1");
    assert_eq!(super::ended(command).await.code, Some(69));
    let mut command = bench.command(&["etl", "--date", DAY]);
    command.env("PLATFORM__POSTGRES__URL", "postgres://x@127.0.0.1:1/x");
    assert_eq!(super::ended(command).await.code, Some(69));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_of_ones_own_is_a_file() {
    let mut bench = Mirrored::caught_up().await;
    bench.postgres(
        "create schema shop; create table shop.orders (tenant text, number int, amount numeric(12, 2) not null, placed_on date not null, \
         primary key (tenant, number)); alter publication platform add table shop.orders; \
         grant usage on schema shop to platform_etl; grant select on shop.orders to platform_etl; \
         insert into shop.orders select 't' || n % 3, n, n * 1.01, '2024-04-29'::date + n % 4 from generate_series(1, 1000) n",
    )
    .await;
    bench.make_mirrors().await;
    let rows = bench
        .client
        .query("select concat_ws(E'\t', tenant, number, amount, placed_on) from shop.orders", &[])
        .await
        .expect("rows");
    let lines: Vec<String> = rows.iter().map(|row| format!("{}\t7\t0", row.get::<_, &str>(0))).collect();
    let insert = "insert into mirror.`shop.orders` (tenant, number, amount, placed_on, _version, _deleted) format TSV";
    bench.ask(&format!("{insert}\n{}", lines.join("\n"))).await;

    let folder = bench.dir.path().join("aggregates");
    std::fs::create_dir(&folder).expect("a folder");
    bench.set("PLATFORM__ETL__AGGREGATES_DIR", folder.to_str().expect("a path"));
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(78), "an empty folder");
    let good = "-- summary: Orders of a day.\n-- table: shop.orders\n-- bucket: day(placed_on)\n-- keys: tenant\n-- rows: sum(orders)\n\
                -- check money: sum(amount)\n\n\
                select tenant, count() as orders, sum(amount) as money from {source} group by tenant;\n";
    std::fs::write(folder.join("orders_daily.sql"), good).expect("written");
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.summary(), (Some(0), "done".into(), 250, 3), "{}", ended.stderr);
    let built = bench.ask("select tenant, orders, toDecimalString(money, 2) from analytics.orders_daily where day = '2024-05-01' order by 1").await;
    let expected = "select string_agg(line, '' order by line) from (select concat(tenant, E'\t', count(*), E'\t', sum(amount), E'\n') as line \
                    from shop.orders where placed_on = '2024-05-01' group by tenant) t";
    assert_eq!(built, bench.text(expected).await);

    // Another text is another result; one that loses rows, doubles keys or does not run changes nothing.
    std::fs::write(folder.join("orders_daily.sql"), good.replace("sum(amount) as", "max(amount) as")).expect("written");
    let ended = bench.etl(&["--date", DAY]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(bench.ask("select uniqExact(day), max(money) < 1011 from analytics.orders_daily").await, "4\t1\n");
    std::fs::write(folder.join("orders_daily.sql"), good).expect("written");
    assert_eq!(bench.etl(&["--date", DAY]).await.code, Some(0));
    for (change, code, reason) in [
        (good.replace("from {source}", "from {source} where number > 500"), 65, "but 250 rows went in"),
        (good.replace("group by tenant", "group by tenant, number"), 65, "250 rows have only 3 distinct keys"),
        (good.replace("count() as orders", "count(nonsense) as orders"), 78, "sql/aggregates/orders_daily.sql"),
        (good.replace("-- check money: sum(amount)", "-- check money: sum(nonsense)"), 78, "nonsense"),
        (good.replace("-- keys", "-- key"), 78, "unknown header line"),
    ] {
        std::fs::write(folder.join("orders_daily.sql"), change).expect("written");
        let ended = bench.etl(&["--date", DAY]).await;
        assert_eq!(ended.code, Some(code), "{reason}: {}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{reason}: {}", ended.stderr);
        let now = bench.ask("select tenant, orders, toDecimalString(money, 2) from analytics.orders_daily where day = '2024-05-01' order by 1").await;
        assert_eq!((now, bench.staging().await.as_str()), (built.clone(), ""));
    }
}
