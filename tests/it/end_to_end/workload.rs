//! Random changes, the same for the same seed: every kind of change that the mirror must follow.

use std::sync::atomic::{AtomicBool, Ordering};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio_postgres::Client;

/// Texts that break careless code. No comma: the comparison prints arrays with one.
const TEXTS: &[&str] = &[
    "",
    " ",
    "plain",
    "naïve 日本 🎉",
    "tab\tnew\nline",
    "back\\slash 'quote' \"double\"",
    "null",
    "__debezium_unavailable_value",
];

pub(super) struct Workload {
    random: ChaCha8Rng,
    next_post: u64,
    /// Updates that leave a large value untouched in a table whose log then lacks it.
    pub(super) deferred_updates: u32,
}

impl Workload {
    pub(super) fn new(seed: u64) -> Self {
        eprintln!("workload seed {seed}");
        Self { random: ChaCha8Rng::seed_from_u64(seed), next_post: 0, deferred_updates: 0 }
    }

    /// One of several that write at once: its posts have numbers of their own.
    pub(super) fn beside_others(seed: u64, number: u64) -> Self {
        Self { next_post: number * 1_000_000, ..Self::new(seed + number) }
    }

    /// Commits random steps until `stop`; what collides with another writer is rolled back and counts as nothing. Returns
    /// how many were committed.
    pub(super) async fn run_beside_others(&mut self, client: &Client, stop: &AtomicBool) -> u32 {
        use tokio_postgres::error::SqlState;
        let mut committed = 0;
        while !stop.load(Ordering::SeqCst) {
            let sql = self.step_beside_others();
            match client.batch_execute(&sql).await {
                Ok(()) => committed += 1,
                Err(error) => {
                    let collision = error.code().is_some_and(|code| {
                        [SqlState::T_R_DEADLOCK_DETECTED, SqlState::UNIQUE_VIOLATION].contains(code)
                    });
                    assert!(collision, "{sql}: {error:?}");
                    client.batch_execute("rollback").await.expect("rolled back");
                }
            }
        }
        committed
    }

    /// One step of a writer among others, now and then a TRUNCATE.
    pub(super) fn step_beside_others(&mut self) -> String {
        if self.random.random_range(0..60) == 0 { self.truncation() } else { self.step() }
    }

    /// Empties one table and uses its keys again.
    fn truncation(&mut self) -> String {
        let (post, note) = (self.insert_post(), self.insert_note());
        match self.random.random_range(0..2) {
            0 => format!("begin; truncate sentiment_social restart identity; {post}; commit"),
            _ => format!("begin; {note}; truncate notes; {note}; commit"),
        }
    }

    /// Commits `count` random steps.
    pub(super) async fn run(&mut self, client: &Client, count: u32) {
        for _ in 0..count {
            let sql = self.step();
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    /// Commits `count` new posts.
    pub(super) async fn posts(&mut self, client: &Client, count: u32) {
        for _ in 0..count {
            let sql = self.insert_post();
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    /// Commits `count` new notes.
    pub(super) async fn notes(&mut self, client: &Client, count: u32) {
        for _ in 0..count {
            let sql = self.insert_note();
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    /// Empties both tables at once, and uses keys again, in the same transaction and after it.
    pub(super) async fn truncate_and_refill(&mut self, client: &Client) {
        let (post, note) = (self.insert_post(), self.insert_note());
        let (again, note_again) = (self.insert_post(), self.insert_note());
        let sql = format!(
            "begin; {post}; {note}; truncate sentiment_social, notes restart identity; {again}; {note_again}; commit"
        );
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn step(&mut self) -> String {
        let one = "(select id from sentiment_social order by md5(id::text || '{salt}') limit 1)";
        let note = "(select seq, tenant from notes order by md5(seq::text || '{salt}') limit 1)";
        let salt = self.random.random_range(0..1_000_000);
        let sql = match self.random.random_range(0..14) {
            0..3 => self.insert_post(),
            3..5 => self.insert_note(),
            5 => format!("update sentiment_social set likes = likes + 1, content = {} where id = {one}", self.text()),
            6 => format!("update sentiment_social set hashtags = {}, raw = null where id = {one}", self.array()),
            7 => {
                self.deferred_updates += 1;
                format!("update notes set title = {} where (seq, tenant) = {note}", self.text())
            }
            8 => {
                self.deferred_updates += 1;
                // Twice in one transaction, and the key moves: the second row's large value is in the first.
                format!(
                    "begin; update notes set tenant = tenant + 1000 where (seq, tenant) = {note}; \
                     update notes set price = coalesce(price, 0) + 0.00001 where (seq, tenant) = {note}; commit"
                )
            }
            9 => format!("delete from sentiment_social where id = {one}"),
            10 => format!("delete from notes where (seq, tenant) = {note}"),
            11 => format!(
                "update sentiment_social set id = (select max(id) + 1000 from sentiment_social) where id = {one}"
            ),
            12 => format!(
                "begin; delete from sentiment_social where id = {one}; {}; savepoint s; {}; rollback to s; commit",
                self.insert_post(),
                self.insert_post()
            ),
            _ => format!(
                "update sentiment_social set shares = shares + 1 where id % {} = 0",
                self.random.random_range(2..7)
            ),
        };
        sql.replace("{salt}", &salt.to_string())
    }

    fn insert_post(&mut self) -> String {
        self.next_post += 1;
        let (number, score) = (self.next_post, self.random.random_range(-1000..=1000));
        format!(
            "insert into sentiment_social (platform, post_id, author, content, lang, topic, hashtags, sentiment_label, sentiment_score, likes, raw, posted_at) \
             values ('random', '{}', {}, {}, {}, {}, {}, 'mixed', {score} / 1000.0, {}, {}, timestamptz '2020-01-01' + {} * interval '1 microsecond')",
            number,
            self.optional_text(),
            self.text(),
            self.optional_text(),
            self.optional_text(),
            self.array(),
            self.random.random_range(0..i32::MAX),
            ["null", r#"'{"a": [1, 2.50, "x"], "é": null}'"#, "'[]'", "'1e3'"][self.random.random_range(0..4)],
            self.random.random_range(0..1_000_000_000_000i64),
        )
    }

    fn insert_note(&mut self) -> String {
        let weights = ["null", "'{}'", "'{1,null,-2147483648}'"][self.random.random_range(0..3)];
        let price = ["null", "0", "-999999999999999.99999", "123.45"][self.random.random_range(0..4)];
        let day = ["null", "'1900-01-01'", "'2299-12-31'", "'2024-02-29'"][self.random.random_range(0..4)];
        let span = ["null", "'24:00'", "'00:00:00.000001'", "'12:30'"][self.random.random_range(0..4)];
        let ratio = ["null", "'NaN'", "'-Infinity'", "0.1", "-0.0", "1e-310"][self.random.random_range(0..6)];
        format!(
            "insert into notes (tenant, seq, title, body, attachment, tags, weights, price, day, at, span, ratio, flags, mood) \
             values ({}, gen_random_uuid(), {}, {}, {}, {}, {weights}, {price}, {day}, \
             timestamp '1950-06-01 12:00' + {} * interval '1 microsecond', {span}, {ratio}, {}, 'ab')",
            self.random.random_range(0..50),
            self.text(),
            self.large(),
            ["null", "'\\x00ff10'", "decode(repeat('c0ffee', 3000), 'hex')"][self.random.random_range(0..3)],
            self.array(),
            self.random.random_range(0..1_000_000_000_000_000i64),
            ["null", r#"'{"k": "v"}'"#][self.random.random_range(0..2)],
        )
    }

    /// Mostly more than PostgreSQL keeps in line, and not compressible.
    fn large(&mut self) -> String {
        let salt = self.random.random_range(0..i32::MAX);
        match self.random.random_range(0..4) {
            0 => self.optional_text(),
            _ => format!("(select string_agg(md5({salt}::text || g::text), '') from generate_series(1, 300) g)"),
        }
    }

    fn text(&mut self) -> String {
        let text = TEXTS[self.random.random_range(0..TEXTS.len())];
        format!("'{}'", text.replace('\'', "''"))
    }

    fn optional_text(&mut self) -> String {
        if self.random.random_range(0..4) == 0 { "null".to_owned() } else { self.text() }
    }

    fn array(&mut self) -> String {
        let count = self.random.random_range(0..4);
        let elements: Vec<String> = (0..count).map(|_| self.optional_text()).collect();
        format!("array[{}]::text[]", elements.join(", "))
    }
}
