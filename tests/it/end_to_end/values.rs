//! Every type with its odd values, through COPY and through the log: the cells are the same, and PostgreSQL's.

use std::collections::BTreeMap;

use platform::domain::{quote_clickhouse, quote_postgres};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::value_samples::{COLUMNS, SETUP};
use super::verify::{parked_rows_are_no_differences, verify};
use super::{CATCH_UP, Hands};
use crate::support::wait::wait_until;
use crate::support::{Options, Stack, stack};

/// Rows with a lower id are there before the load; those above are their copies, written afterwards.
const STREAMED: i32 = 10_000;

type Cells = BTreeMap<i32, Vec<Option<String>>>;

fn column_list() -> String {
    COLUMNS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

/// Rows that hold every sample at least once, in columns that do not move in step, and some random values.
fn insert_samples(table: &str, random: &mut ChaCha8Rng) -> String {
    let rows = COLUMNS.iter().map(|(_, _, samples)| samples.len()).max().unwrap_or(0);
    let row = |id: usize, random: &mut ChaCha8Rng| {
        let cell = |(_, kind, samples): &(&str, &str, &[&str]), random: &mut ChaCha8Rng| {
            let sample = samples[(id - 1) % samples.len()];
            match *kind {
                _ if sample != "random" => format!("({sample})::{}", kind.trim_end_matches(" not null")),
                "integer" => random.random::<i32>().to_string(),
                "bigint" => format!("({})::bigint", random.random::<i64>()),
                "real" => format!("'{:e}'::real", f32::from_bits(random.random::<u32>() & 0xff7f_ffff)),
                "double precision" => {
                    format!("'{:e}'::double precision", f64::from_bits(random.random::<u64>() & 0xffef_ffff_ffff_ffff))
                }
                "numeric(20,4)" => format!("{}::numeric / 10000", random.random::<i64>() / 1000),
                "numeric" => format!("{}::numeric * 1e-20", random.random::<i64>()),
                "interval" => format!(
                    "make_interval(years => {}, months => {}, days => {}, secs => {}.{:06})",
                    random.random_range(-200..200),
                    random.random_range(-30..30),
                    random.random_range(-1000..1000),
                    random.random_range(-1_000_000..1_000_000),
                    random.random_range(0..1_000_000),
                ),
                other => panic!("no random value of {other}"),
            }
        };
        let cells: Vec<String> = COLUMNS.iter().map(|column| cell(column, random)).collect();
        format!("({id}, {})", cells.join(", "))
    };
    let rows: Vec<String> = (1..=rows).map(|id| row(id, random)).collect();
    format!("insert into {table} (id, {}) values {}", column_list(), rows.join(",\n"))
}

fn create(table: &str, identity: &str) -> String {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
    format!(
        "create table {table} (id integer primary key, touched integer not null default 0, {},
             doubled bigint generated always as (c_int4::bigint * 2) stored);
         alter table {table} replica identity {identity};",
        columns.join(", ")
    )
}

/// How PostgreSQL and ClickHouse print a column in the same text.
fn printed(name: &str, kind: &str) -> (String, String) {
    let (kind, not_null) = kind.strip_suffix(" not null").map_or((kind, false), |kind| (kind, true));
    let (pg, ch) = (quote_postgres(name), quote_clickhouse(name));
    let element = |ch: &str, kind: &str| match kind {
        "numeric(20,4)" => format!("toDecimalString({ch}, 4)"),
        _ => format!("toString({ch})"),
    };
    match kind {
        "timestamp" => (format!("to_char({pg}, 'YYYY-MM-DD HH24:MI:SS.US')"), format!("toString({ch})")),
        "timestamptz" => {
            (format!("to_char({pg} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"), format!("toString({ch})"))
        }
        "money" => (format!("{pg}::numeric::text"), format!("toDecimalString({ch}, 2)")),
        "numeric(20,4)" => (format!("{pg}::text"), format!("toDecimalString({ch}, 4)")),
        "numeric(5,-2)" => (format!("{pg}::text"), format!("toDecimalString({ch}, 0)")),
        "real" => (
            format!("encode(float4send({pg}), 'hex')"),
            format!("leftPad(lower(hex(reinterpretAsUInt32({ch}))), 8, '0')"),
        ),
        "double precision" => (
            format!("encode(float8send({pg}), 'hex')"),
            format!("leftPad(lower(hex(reinterpretAsUInt64({ch}))), 16, '0')"),
        ),
        // Casts to text drop the padding, and keep a declaration that no output has.
        "char(5)" => (format!("convert_from(bpcharsend({pg}), 'UTF8')"), ch),
        "xml" => (format!("xml_out({pg})::text"), ch),
        "bytea" => (format!("encode({pg}, 'hex')"), format!("lower(hex({ch}))")),
        "timestamptz[]" if not_null => (
            format!(
                "(select json_agg(to_char(x at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'))::text from unnest({pg}) x)"
            ),
            format!("toJSONString(arrayMap(x -> toString(x), {ch}))"),
        ),
        kind if kind.ends_with("[]") && not_null => (
            format!("array_to_json({pg}::text[])::text"),
            format!("toJSONString(arrayMap(x -> {}, {ch}))", element("x", kind.trim_end_matches("[]"))),
        ),
        kind if kind.ends_with("[]") || kind == "amounts" => (format!("array_to_json({pg})::text"), ch),
        _ => (format!("{pg}::text"), format!("toString({ch})")),
    }
}

/// JSON in one spelling: spaces and the digits of floats differ between the databases.
fn canonical(kind: &str, text: Option<String>) -> Option<String> {
    if !kind.contains("[]") {
        return text;
    }
    let floats = kind.starts_with("real") || kind.starts_with("double");
    text.map(|text| match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if floats || kind.ends_with("not null") => as_floats(value, floats).to_string(),
        _ => text,
    })
}

fn as_floats(value: serde_json::Value, floats: bool) -> serde_json::Value {
    match value {
        serde_json::Value::Array(elements) => elements.into_iter().map(|element| as_floats(element, floats)).collect(),
        serde_json::Value::Number(number) if floats => number.as_f64().into(),
        other => other,
    }
}

async fn in_postgres(hands: &Hands, table: &str, columns: &[(&str, &str)]) -> Cells {
    let list: Vec<String> = columns.iter().map(|(name, kind)| printed(name, kind).0).collect();
    let rows = hands.postgres.query(&format!("select id, {} from {table}", list.join(", ")), &[]).await;
    let cell = |row: &tokio_postgres::Row, at: usize| canonical(columns[at - 1].1, row.get(at));
    rows.expect("rows").iter().map(|row| (row.get(0), (1..row.len()).map(|at| cell(row, at)).collect())).collect()
}

async fn in_clickhouse(hands: &Hands, table: &str, columns: &[(&str, &str)]) -> Cells {
    #[derive(serde::Deserialize)]
    struct Row {
        id: i32,
        cells: Vec<Option<String>>,
    }
    let list: Vec<String> =
        columns.iter().map(|(name, kind)| format!("cast({}, 'Nullable(String)')", printed(name, kind).1)).collect();
    let sql = format!("select id, [{}] as cells from analytics.{table}", list.join(", "));
    let rows: Vec<Row> = hands.clickhouse.fetch_all(&sql, &[]).await.expect("rows");
    let cells = |cells: Vec<Option<String>>| {
        cells.into_iter().zip(columns).map(|(cell, (_, kind))| canonical(kind, cell)).collect()
    };
    rows.into_iter().map(|row| (row.id, cells(row.cells))).collect()
}

/// Both tables hold the same, and each row is its copy's.
async fn assert_equal(hands: &Hands, table: &str, columns: &[(&str, &str)], when: &str) {
    let (expected, found) = (in_postgres(hands, table, columns).await, in_clickhouse(hands, table, columns).await);
    let mut wrong = Vec::new();
    for (id, cells) in &expected {
        let Some(there) = found.get(id) else {
            wrong.push(format!("{id} is missing"));
            continue;
        };
        for (((name, kind), cell), other) in columns.iter().zip(cells).zip(there) {
            if cell != other {
                let short =
                    |text: &Option<String>| text.as_ref().map(|text| text.chars().take(120).collect::<String>());
                wrong.push(format!("{id} {name} {kind}: {:?} became {:?}", short(cell), short(other)));
            }
        }
    }
    assert!(wrong.is_empty(), "{when}: {table}: {} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
    assert_eq!(expected.len(), found.len(), "{when}: {table}");
    assert!(expected.len() > 2, "{when}: {table} proves nothing");
    let copies = found.iter().filter(|(id, _)| **id > STREAMED);
    for (id, cells) in copies {
        // Of the raw cells too: a comparison that forgives a spelling must not hide two of them.
        assert_eq!(found.get(&(id - STREAMED)), Some(cells), "{when}: {table} {id}");
    }
}

/// Cells of both halves in ClickHouse's own bytes.
async fn assert_same_bytes(hands: &Hands, table: &str, columns: &[(&str, &str)]) {
    for (name, kind) in columns {
        let ch = quote_clickhouse(name);
        let sql = format!(
            "select id % {STREAMED} as row, uniqExact(ifNull(hex(toString({ch})), 'null')) as forms \
             from analytics.{table} group by row having forms > 1"
        );
        let differing: Vec<serde_json::Value> = hands.clickhouse.fetch_all(&sql, &[]).await.expect("rows");
        assert!(differing.is_empty(), "{table} {name} {kind}: {differing:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_the_same_through_copy_and_through_the_log() {
    let stack = Stack::shared();
    let hands = Hands::of(stack).await;
    let seed = 20_261_123;
    eprintln!("values seed {seed}");
    hands.postgres.batch_execute(SETUP).await.expect("types");
    let tables = [("kinds_default", "default"), ("kinds_full", "full")];
    for (table, identity) in tables {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        hands.postgres.batch_execute(&create(table, identity)).await.expect("a table");
        let insert = insert_samples(table, &mut random);
        hands.postgres.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{insert}: {error:?}"));
        let publish = format!("alter publication platform add table {table}");
        hands.postgres.batch_execute(&publish).await.expect("published");
        let loaded = stack.platform(&["load", table]).json();
        assert_eq!(loaded["parked"], 0, "{loaded}");
    }
    hands.caught_up().await;
    for (table, _) in tables {
        let list = column_list();
        let copy = format!(
            "insert into {table} (id, {list}) select id + {STREAMED}, {list} from {table} where id < {STREAMED}"
        );
        hands.postgres.batch_execute(&copy).await.expect("copied");
    }
    hands.caught_up().await;
    let mut columns: Vec<(&str, &str)> = COLUMNS.iter().map(|(name, kind, _)| (*name, *kind)).collect();
    columns.push(("doubled", "bigint"));
    for (table, _) in tables {
        let sql = format!(
            "select id > {STREAMED} as streamed, count() as rows from mirror.{table} final where _version % (1::UInt128 * 72057594037927936) > 0 group by streamed"
        );
        let halves: Vec<serde_json::Value> = hands.clickhouse.fetch_all(&sql, &[]).await.expect("rows");
        assert!(halves.iter().all(|half| half["streamed"] == 1), "the lower half was loaded: {halves:?}");
        assert_equal(&hands, table, &columns, "after inserts").await;
        assert_same_bytes(&hands, table, &columns).await;
    }
    // An update that leaves every large value alone; under DEFAULT the log lacks them.
    for (table, _) in tables {
        let touch =
            format!("update {table} set touched = touched + 1; update {table} set c_int4 = c_int4 where id % 2 = 0");
        hands.postgres.batch_execute(&touch).await.expect("touched");
    }
    hands.caught_up().await;
    for (table, _) in tables {
        assert_equal(&hands, table, &columns, "after updates that leave values alone").await;
        assert_eq!(verify(stack, &[table]).json()["status"], "equal");
    }
    let parked: Vec<serde_json::Value> = hands
        .clickhouse
        .fetch_all("select * from platform.dead_letters where table like 'kinds_%'", &[])
        .await
        .expect("rows");
    assert!(parked.is_empty(), "{parked:?}");
}

const FAR: [&str; 8] = [
    "1, 'infinity', null, null, null, null",
    "2, null, '-infinity', null, null, null",
    "3, null, null, '200000-01-01 00:00+00', null, null",
    "4, null, '0044-03-15 12:00 BC', null, null, null",
    "5, null, null, null, 'NaN', null",
    "6, null, null, null, null, '{{1,2},{3,4}}'",
    "7, null, null, null, null, null",
    "8, '2024-02-29', '2024-02-29 12:00', '2024-02-29 12:00+00', 1.5, '{1,null}'",
];

/// Every value that ClickHouse's own types cannot hold is there as PostgreSQL's text.
async fn assert_kept(hands: &Hands) {
    #[derive(serde::Deserialize)]
    struct Kept {
        id: i32,
        cells: Vec<Option<String>>,
    }
    let kept: Vec<Kept> = hands
        .clickhouse
        .fetch_all("select id, [day, at, at_zone, price, weights] as cells from analytics.kept order by id", &[])
        .await
        .expect("rows");
    let rows = hands
        .postgres
        .query(
            "select id, array[day::text, at::text, at_zone::text, price::text, weights::text] from kept order by id",
            &[],
        )
        .await
        .expect("rows");
    let expected: Vec<(i32, Vec<Option<String>>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(kept.into_iter().map(|row| (row.id, row.cells)).collect::<Vec<_>>(), expected);
}

/// Both ways park the same rows for the same reasons.
async fn assert_far(hands: &Hands) {
    let far: Vec<serde_json::Value> =
        hands.clickhouse.fetch_all("select id from analytics.far order by id", &[]).await.expect("rows");
    assert_eq!(far, [8, 8 + STREAMED].map(|id| serde_json::json!({ "id": id })));
    let letters = "select startsWith(id, 'cdc/') as streamed, detail, toUInt32(count()) as rows from platform.dead_letters final \
                   where table = 'far' and (startsWith(id, 'cdc/') or version = \
                   (select max(version) from platform.dead_letters where table = 'far' and startsWith(id, 'load/'))) group by streamed, detail order by streamed, detail";
    let letters: Vec<serde_json::Value> = hands.clickhouse.fetch_all(letters, &[]).await.expect("rows");
    let details = [
        ("column at: the value is outside what DateTime64(6) holds", 2),
        ("column at_zone: the value is outside what DateTime64(6) holds", 1),
        ("column day: the value is outside what Date32 holds", 1),
        ("column price: NaN in a Decimal cannot be stored exactly", 1),
        ("column weights: NULL in a column that cannot be NULL", 1),
        ("column weights: an array with several dimensions cannot be stored exactly", 1),
    ];
    for streamed in [0, 1] {
        let expected: Vec<serde_json::Value> = details
            .map(|(detail, rows)| serde_json::json!({ "streamed": streamed, "detail": detail, "rows": rows }))
            .to_vec();
        let found: Vec<_> = letters.iter().filter(|letter| letter["streamed"] == streamed).cloned().collect();
        assert_eq!(found, expected, "{letters:#?}");
    }
}

async fn assert_strict(hands: &Hands) {
    wait_until("the inexact row is parked", CATCH_UP, || async {
        let sql = "select reason, detail from platform.dead_letters where table = 'strict'";
        let rows: Vec<serde_json::Value> = hands.clickhouse.fetch_all(sql, &[]).await.unwrap_or_default();
        rows.len() == 1 && rows[0]["reason"] == "inexact"
    })
    .await;
    let strict: Vec<serde_json::Value> =
        hands.clickhouse.fetch_all("select id, span from analytics.strict", &[]).await.expect("rows");
    assert_eq!(strict, [serde_json::json!({ "id": 2, "span": null })]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clickhouse_cannot_hold_is_parked_unless_the_mapping_says_otherwise() {
    let types =
        [("DAY", "String"), ("AT", "String"), ("AT_ZONE", "String"), ("PRICE", "String"), ("WEIGHTS", "String")];
    let variable = |table: &str, column: &str| format!("PLATFORM__TABLES__{table}__COLUMNS__{column}__TYPE");
    let mut environment: Vec<(String, String)> =
        types.map(|(column, kind)| (variable("KEPT", column), kind.to_owned())).to_vec();
    environment.push((variable("FAR", "WEIGHTS"), "Array(Nullable(Int32))".to_owned()));
    environment.push(("PLATFORM__TABLES__STRICT__INEXACT".to_owned(), "park".to_owned()));
    let stack = Stack::start_with(Options { environment: environment.clone(), ..Options::default() });
    let hands = Hands::of(&stack).await;
    let command = |arguments: &[&str]| {
        let mut command = stack.command(arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command
    };
    let run = |arguments: &[&str]| stack::finish(command(arguments));
    for table in ["far", "kept"] {
        let sql = format!(
            "create table {table} (id integer primary key, day date, at timestamp, at_zone timestamptz, price numeric(9,2), weights integer[]);
             insert into {table} values ({});
             alter publication platform add table {table}",
            FAR.join("), (")
        );
        hands.postgres.batch_execute(&sql).await.expect("a table");
    }
    let strict =
        "create table strict (id integer primary key, span timetz); alter publication platform add table strict";
    hands.postgres.batch_execute(strict).await.expect("a table");
    let loaded = run(&["load", "far", "kept", "strict"]).json();
    let parked = |table: &str| {
        let tables = loaded["tables"].as_array().expect("tables").clone();
        tables.into_iter().find(|loaded| loaded["table"] == format!("public.{table}")).expect("loaded")["parked"]
            .clone()
    };
    assert_eq!((parked("far"), parked("kept")), (7.into(), 0.into()), "{loaded}");
    hands.caught_up().await;
    for table in ["far", "kept"] {
        let sql = format!("insert into {table} select id + {STREAMED}, day, at, at_zone, price, weights from {table}");
        hands.postgres.batch_execute(&sql).await.expect("copied");
    }
    hands.postgres.batch_execute("insert into strict values (1, '12:00+01'), (2, null)").await.expect("inserted");
    hands.caught_up().await;

    assert_kept(&hands).await;
    assert_far(&hands).await;
    assert_strict(&hands).await;
    parked_rows_are_no_differences(&stack, command);

    let listed = run(&["tables", "--json"]).json();
    let tables = listed["tables"].as_array().expect("tables");
    let kept = tables.iter().find(|table| table["table"] == "public.kept").expect("listed");
    assert_eq!(kept["columns"][1]["clickhouse"], "Nullable(String)", "{kept}");
    assert_eq!(kept["columns"][1]["override"], true);

    let mut command = stack.command(&["tables"]);
    command.env(variable("FAR", "DAY"), "DateTime");
    let refused = stack::finish(command);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(
        refused.stderr.contains("tables.public.far.columns.day") && refused.stderr.contains("\"String\""),
        "{refused:?}"
    );
}
