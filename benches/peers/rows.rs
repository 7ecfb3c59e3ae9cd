//! The table `social` in PostgreSQL: made in SQL, about 400 bytes of content a row.

use platform::store::postgres;

use crate::columns;
use crate::figures::knob;
use crate::support::Stack;

pub(crate) fn count() -> u64 {
    knob("PLATFORM_BENCH_ROWS", 3_000_000)
}

const WORDS: &str = r#"create table words(wi int primary key, t text); insert into words select i, (select string_agg((array['the','service','was','really','great','today','but','delivery','took','way','too','long','harga','naik','lagi','tapi','kualitas','tetap','bagus','très','content','du','produit','même','東京','タワー','🎉','😂','"quoted"','lol, tbh','imho','support','never','answered','refund'])[1+floor(random()*35)::int],' ') from generate_series(1,24+i%24)) from generate_series(0,19999) i"#;

const ROWS: &str = r"insert into social select i, (array['twitter','reddit','youtube','tiktok','mastodon','news','bluesky','facebook'])[1+(h%8)::int],
      case when i%33=0 then null else 'user_'||(h%1000000) end, w.t, (array['positive','negative','neutral'])[1+(h/8%3)::int],
      case when i%40=0 then null else round(((h/64%2001)-1000)/1000.0,3) end, case when i%20=0 then null else (array['en','id','es','pt','ja','de','fr','ar'])[1+(h/512%8)::int] end,
      case when i%10=0 then null else array['price','tag'||(h%100),'topic '||(h%37)] end,
      case when i%20=0 then null else jsonb_build_object('verified',h%5=0,'app',(array['web','ios','android'])[1+(h%3)::int],'v',h%40,'src','campaign-'||(h%1000)) end,
      (h%5000)::int,(h%300)::int,case when i%3=0 then null else (h%70)::int end,'https://social.example/p/'||i||'?ref='||(h%100000),md5(i::text),h%7=0,h%1000000,
      (array['billing','delivery','brand','competitor','quality'])[1+(h%5)::int], timestamptz '2026-10-01 00:00:00Z'+(i*0.864)*interval '1 second', timestamptz '2026-10-01 00:00:00Z'+(i*0.864+3.123457)*interval '1 second', timestamptz '2026-10-01 00:00:00Z'+(i*0.864+9.654321)*interval '1 second'
      from (select i, hashint8extended(i,7)&x'7fffffffffff'::bigint as h from generate_series(1,{ROWS}) i) g join words w on w.wi=g.h%20000";

/// Makes the table, outside the publication: its rows need not pass the log.
pub(crate) async fn generate(stack: &Stack, rows: u64) {
    println!("filling PostgreSQL with {rows} rows");
    let client = postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    client.batch_execute("set statement_timeout = 0").await.expect("set");
    client.batch_execute(WORDS).await.expect("words");
    client.batch_execute(&format!("create table social({})", columns::POSTGRES)).await.expect("a table");
    client.batch_execute(&ROWS.replace("{ROWS}", &rows.to_string())).await.expect("rows");
    for sql in ["create index on social(posted_at)", "vacuum analyze social", "checkpoint"] {
        client.batch_execute(sql).await.expect(sql);
    }
}
