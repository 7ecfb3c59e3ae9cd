//! One lz4 topic with one partition: Debezium-shaped messages of 1.2 kB (60 % inserts, 30 % updates, 10 % deletes), with
//! the keys and headers that Debezium writes.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::record::Record;

use crate::figures::knob;
use crate::support::Stack;

/// The topic's name.
pub(crate) const NAME: &str = "bench.cdc";
/// The table that its messages are about.
pub(crate) const TABLE: &str = "benchmark_social";
/// Bytes of one batch before compression, as the producer of the peers had it.
const BATCH_BYTES: usize = 262_144;

/// Above what a load of the benchmark has as its version.
const FIRST_LSN: u64 = 256 << 20;

/// What is in the topic.
pub(crate) struct Content {
    /// Messages.
    pub(crate) messages: u64,
    /// Rows that are left when all of them are applied.
    pub(crate) live: usize,
    /// Position of the last one.
    pub(crate) last_lsn: u64,
    /// Bytes of a value.
    pub(crate) bytes: f64,
}

/// SplitMix64: the same topic in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

const WORDS: &str = "the service was really great today but delivery took way too long and support never answered my emails about refund harga naik lagi tapi kualitas tetap bagus très content du produit même 東京 タワー 🎉 😂 lol imho";
const PLATFORMS: [&str; 8] = ["twitter", "reddit", "youtube", "tiktok", "mastodon", "news", "bluesky", "facebook"];
const SENTIMENTS: [&str; 3] = ["positive", "negative", "neutral"];
const LANGUAGES: [&str; 8] = ["en", "id", "es", "pt", "ja", "de", "fr", "ar"];
const TOPICS: [&str; 5] = ["billing", "delivery", "brand", "competitor", "quality"];
const EPOCH_US: u64 = 1_790_812_800_000_000;

fn pick<'a>(from: &[&'a str], at: u64) -> &'a str {
    from[usize::try_from(at).expect("small") % from.len()]
}

fn optional(null: bool, text: impl FnOnce() -> String) -> String {
    if null { "null".to_owned() } else { text() }
}

/// Microseconds as Debezium writes a time with zone: no trailing zeros.
fn time(us: u64) -> String {
    let at = chrono::DateTime::from_timestamp_micros(i64::try_from(us).expect("small")).expect("a time");
    let text = at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

struct Generator {
    random: Random,
    contents: Vec<String>,
    metadata: Vec<String>,
}

impl Generator {
    fn new() -> Self {
        let mut random = Random(42);
        let words: Vec<&str> = WORDS.split(' ').collect();
        let contents = (0..20_000).map(|number| {
            let count = random.between(24, 47);
            let mut text = (0..count)
                .map(|_| words[usize::try_from(random.next() % words.len() as u64).unwrap()])
                .collect::<Vec<_>>()
                .join(" ");
            if number % 7 == 0 {
                text.push_str(" \"quoted\"\nhttps://t.co/x");
            }
            serde_json::to_string(&text).expect("a text")
        });
        let contents = contents.collect();
        let metadata = (0..1000u64).map(|i| {
            let app = pick(&["web", "ios", "android"], i);
            let text = format!(r#"{{"v":{},"app":"{app}","src":"campaign-{i}","verified":{}}}"#, i % 40, i % 5 == 0);
            serde_json::to_string(&text).expect("a text")
        });
        Self { random, contents, metadata: metadata.collect() }
    }

    fn row(&mut self, i: u64, n: u64) -> String {
        let h = self.random.next() >> 24;
        let u = EPOCH_US + i * 864_000 + h % 1_000_000;
        let at = |from: &[String], index: u64| from[usize::try_from(index).expect("small") % from.len()].clone();
        let score = optional(i.is_multiple_of(40), || {
            let thousandths = i64::try_from(h / 64 % 2001).expect("small") - 1000;
            let sign = if thousandths < 0 { "-" } else { "" };
            format!("\"{sign}{}.{:03}\"", thousandths.abs() / 1000, thousandths.abs() % 1000)
        });
        format!(
            r#"{{"id":{i},"platform":"{}","author":{},"content":{},"sentiment":"{}","score":{score},"lang":{},"tags":{},"metadata":{},"likes":{},"shares":{},"replies":{},"url":"https://social.example/p/{i}?ref={}","external_id":"{h:032x}","is_verified":{},"followers":{},"topic":"{}","posted_at":"{}","created_at":"{}","updated_at":"{}"}}"#,
            pick(&PLATFORMS, h % 8),
            optional(i.is_multiple_of(33), || format!("\"user_{}\"", h % 1_000_000)),
            at(&self.contents, h % 20_000),
            pick(&SENTIMENTS, h / 8 % 3),
            optional(i.is_multiple_of(20), || format!("\"{}\"", pick(&LANGUAGES, h / 512 % 8))),
            optional(i.is_multiple_of(10), || format!(r#"["price","tag{}","topic {}"]"#, h % 100, h % 37)),
            optional(i % 20 == 1, || at(&self.metadata, h % 1000)),
            h % 5000,
            h % 300,
            optional(i.is_multiple_of(3), || (h % 70).to_string()),
            i % 100_000,
            h.is_multiple_of(7),
            h % 1_000_000,
            pick(&TOPICS, h % 5),
            time(u),
            time(u + 3_123_457),
            time(u + 9_654_321 + n),
        )
    }
}

fn deleted(i: u64) -> String {
    format!(
        r#"{{"id":{i},"platform":"","author":null,"content":"","sentiment":"","score":null,"lang":null,"tags":null,"metadata":null,"likes":0,"shares":0,"replies":null,"url":null,"external_id":null,"is_verified":false,"followers":null,"topic":null,"posted_at":"1970-01-01T00:00:00Z","created_at":"1970-01-01T00:00:00Z","updated_at":"1970-01-01T00:00:00Z"}}"#
    )
}

fn headers() -> BTreeMap<String, Vec<u8>> {
    let entries = [
        ("__debezium.context.connectorLogicalName", "platform"),
        ("__debezium.context.taskId", "0"),
        ("__debezium.context.connectorName", "postgresql"),
        ("__debezium.context.runId", "01a203ba-f98d-79c2-9828-247c46b1de1a"),
    ];
    entries.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).into()
}

/// Writes the topic.
pub(crate) async fn generate(stack: &Stack) -> Content {
    let messages = knob("PLATFORM_BENCH_MESSAGES", 1_000_000);
    println!("writing {messages} messages");
    let client = ClientBuilder::new(vec![stack.kafka_brokers().to_owned()]).build().await.expect("connected");
    client.controller_client().expect("a controller").create_topic(NAME, 1, 1, 10_000).await.expect("a topic");
    let partition = client.partition_client(NAME, 0, UnknownTopicHandling::Retry).await.expect("a partition");
    let partition = Arc::new(partition);
    let mut generator = Generator::new();
    let (mut ids, mut dead) = (0, HashSet::new());
    let (mut lsn, mut ms, mut total) = (FIRST_LSN, 1_795_358_915_000u64, 0);
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for n in 0..messages {
        let share = generator.random.between(0, 99);
        let op = if share < 60 || ids < 100 {
            'c'
        } else if share < 90 {
            'u'
        } else {
            'd'
        };
        let i = if op == 'c' {
            ids += 1;
            ids
        } else {
            generator.random.between(1, ids)
        };
        lsn += generator.random.between(14, 40);
        ms += n % 2;
        let (before, after) = if op == 'd' {
            dead.insert(i);
            (deleted(i), "null".to_owned())
        } else {
            dead.remove(&i);
            ("null".to_owned(), generator.row(i, n))
        };
        let mut value = String::with_capacity(1400);
        write!(
            value,
            r#"{{"before":{before},"after":{after},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"platform","ts_ms":{ms},"snapshot":null,"db":"platform","sequence":"[\"{}\",\"{lsn}\"]","ts_us":{ms}123,"ts_ns":{ms}123000,"schema":"public","table":"{TABLE}","txId":{},"lsn":{lsn},"xmin":null,"origin":null,"origin_lsn":null}},"transaction":null,"op":"{op}","ts_ms":{now},"ts_us":{now}456,"ts_ns":{now}456789}}"#,
            lsn - 10,
            1000 + n / 7,
            now = ms + 9,
        )
        .expect("written");
        total += value.len();
        bytes += value.len();
        let key = Some(format!(r#"{{"id":{i}}}"#).into_bytes());
        batch.push(Record { key, value: Some(value.into_bytes()), headers: headers(), timestamp: chrono::Utc::now() });
        if bytes >= BATCH_BYTES || n + 1 == messages {
            bytes = 0;
            partition.produce(std::mem::take(&mut batch), Compression::Lz4).await.expect("produced");
        }
    }
    let live = usize::try_from(ids).expect("small") - dead.len();
    grow_log(stack, lsn).await;
    Content { messages, live, last_lsn: lsn, bytes: total as f64 / messages as f64 }
}

/// Lets PostgreSQL's log grow beyond `lsn`: a sink that finds its log shorter than what it has applied halts.
async fn grow_log(stack: &Stack, lsn: u64) {
    let client = platform::store::postgres::connect(&stack.settings().postgres, "bench").await.expect("connected");
    while platform::store::replication::insert_lsn(&client).await.expect("asked").get() <= lsn {
        let emit = "select pg_logical_emit_message(false, 'bench', repeat('x', 16000000))";
        client.batch_execute(emit).await.expect("written");
    }
}
