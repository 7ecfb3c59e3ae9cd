//! Answers of analytics that may be given again: kept while no row of their tables has changed, computed once for all who ask at
//! the same time. `docs/adr/0012-answers-by-table-version.md` has the reasons.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use actix_web::web::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use lru::LruCache;
use metrics::{counter, gauge};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::problem::{ApiError, ApiResult};
use super::results::Format;

/// What an answer is a function of, beside the rows: the statement, its parameters, the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Question([u8; 32]);

impl Question {
    /// Of a statement with its bound parameters, in one spelling each.
    pub(super) fn new(sql: &str, parameters: &[(&str, Option<&str>)], format: Format) -> Self {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            // With its length, so that no two lists of parts run together to the same bytes.
            hash.update(text.len().to_le_bytes());
            hash.update(text);
        };
        part(sql);
        part(format.word());
        for (name, value) in parameters {
            part(name);
            part(if value.is_some() { "=" } else { "" });
            part(value.unwrap_or_default());
        }
        Self(hash.finalize().into())
    }
}

/// A question about rows of a version: what two requests must share to get one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// What is asked.
    pub question: Question,
    /// `Seen::version_of` the tables.
    pub version: u64,
}

impl Key {
    /// The first half of the answer's entity tag. Whoever has an answer with this half has one of unchanged rows.
    pub(super) fn tag(&self) -> String {
        let digest = Sha256::new().chain_update(self.question.0).chain_update(self.version.to_le_bytes()).finalize();
        hex::encode(digest.get(..12).unwrap_or_default())
    }

    /// Whether an entity tag (without quotes) is of this key.
    pub(super) fn is_of(&self, tag: &str) -> bool {
        tag.split_once('-').is_some_and(|(first, _)| first == self.tag())
    }
}

/// What a query gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Computed {
    /// The body as it is sent.
    pub body: Bytes,
    /// Headers that belong to it.
    pub headers: Vec<(&'static str, String)>,
}

/// An answer that may be given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Body and headers.
    pub computed: Computed,
    /// Entity tag without its quotes: the key's half, and one of the bytes, so that equal tags are equal bytes.
    pub tag: String,
}

impl Answer {
    fn new(key: Key, computed: Computed) -> Self {
        let digest = Sha256::digest(&computed.body);
        Self { tag: format!("{}-{}", key.tag(), hex::encode(digest.get(..6).unwrap_or_default())), computed }
    }

    fn weight(&self) -> usize {
        self.computed.body.len().saturating_add(ENTRY_BYTES)
    }
}

/// Where an answer came from, as `Cache-Status` (RFC 9211) says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// It was kept.
    Hit,
    /// It was computed.
    Miss,
    /// Another request had it computed at the same time.
    Shared,
    /// It was computed because the request wanted no other.
    Bypass,
}

impl Served {
    /// Value of `Cache-Status`.
    pub(super) fn cache_status(self) -> &'static str {
        match self {
            Self::Hit => "platform; hit",
            Self::Miss => "platform; fwd=miss",
            Self::Shared => "platform; fwd=miss; collapsed",
            Self::Bypass => "platform; fwd=request",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Shared => "shared",
            Self::Bypass => "bypass",
        }
    }
}

type Flight = Shared<BoxFuture<'static, ApiResult<Answer>>>;
type WeakFlight = WeakShared<BoxFuture<'static, ApiResult<Answer>>>;

/// Bookkeeping of one kept answer, in bytes, beside its body: key, tag, list nodes.
const ENTRY_BYTES: usize = 256;
/// Flights remembered before those that have landed are forgotten.
const FLIGHTS_KEPT: usize = 64;

struct Kept {
    answers: LruCache<Question, (u64, Answer)>,
    bytes: usize,
}

/// The answers of a process.
pub(super) struct Answers {
    kept: Mutex<Kept>,
    bytes_max: usize,
    flights: Mutex<HashMap<Key, WeakFlight>>,
    /// Where queries run: not in the worker of the request that came first, which may go away.
    runtime: Handle,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl Answers {
    /// Keeps at most `entries_max` answers of `bytes_max` bytes together; 0 of either keeps none. Queries run on `runtime`.
    pub(super) fn new(entries_max: usize, bytes_max: usize, runtime: Handle) -> Self {
        let bytes_max = if entries_max == 0 { 0 } else { bytes_max };
        let answers = LruCache::new(NonZeroUsize::new(entries_max).unwrap_or(NonZeroUsize::MIN));
        Self { kept: Mutex::new(Kept { answers, bytes: 0 }), bytes_max, flights: Mutex::default(), runtime }
    }

    /// The answer to `key`: the one that is kept, the one that is under way, or what `compute` gives. `fresh` wants the last.
    /// When everybody who waits for an answer has gone, its query is dropped too.
    ///
    /// # Errors
    /// Those of `compute`, for everybody who waits for it; they are not kept.
    pub(super) async fn get<F>(&self, key: Key, fresh: bool, compute: F) -> ApiResult<(Answer, Served)>
    where
        F: Future<Output = ApiResult<Computed>> + Send + 'static,
    {
        let kept = if fresh { None } else { self.kept_for(key) };
        let (outcome, served) = match kept {
            Some(answer) => (Ok(answer), Served::Hit),
            None if fresh => (self.fly(key, compute).await, Served::Bypass),
            None => {
                let (flight, served) = self.join(key, compute);
                (flight.await, served)
            }
        };
        counter!("platform_api_answers_total", "source" => served.word()).increment(1);
        outcome.map(|answer| (answer, served))
    }

    /// Keeps an answer, in place of an older one to the same question.
    pub(super) fn keep(&self, key: Key, answer: &Answer) {
        let weight = answer.weight();
        if weight > self.bytes_max {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, (_, old))) = kept.answers.push(key.question, (key.version, answer.clone())) {
            kept.bytes = kept.bytes.saturating_sub(old.weight());
        }
        kept.bytes = kept.bytes.saturating_add(weight);
        while kept.bytes > self.bytes_max
            && let Some((_, (_, old))) = kept.answers.pop_lru()
        {
            kept.bytes = kept.bytes.saturating_sub(old.weight());
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        let (bytes, entries) = (kept.bytes as f64, kept.answers.len() as f64);
        drop(kept);
        gauge!("platform_api_answers_kept_bytes").set(bytes);
        gauge!("platform_api_answers_kept").set(entries);
    }

    fn kept_for(&self, key: Key) -> Option<Answer> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.answers.get(&key.question).filter(|(version, _)| *version == key.version).map(|(_, answer)| answer.clone())
    }

    fn join<F>(&self, key: Key, compute: F) -> (Flight, Served)
    where
        F: Future<Output = ApiResult<Computed>> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has landed is as good as a kept answer; one that failed is not.
        let under_way = flights.get(&key).and_then(WeakShared::upgrade);
        if let Some(flight) = under_way.filter(|flight| flight.peek().is_none_or(Result::is_ok)) {
            return (flight, Served::Shared);
        }
        if flights.len() >= FLIGHTS_KEPT {
            flights.retain(|_, flight| flight.upgrade().is_some());
        }
        let flight = self.fly(key, compute).boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key, weak);
        }
        (flight, Served::Miss)
    }

    /// Computes without keeping or sharing anything, in a task of its own on the runtime of the process, which ends when nobody waits
    /// for it.
    ///
    /// # Errors
    /// Those of `compute`.
    pub(super) fn compute<F>(&self, compute: F) -> impl Future<Output = ApiResult<Computed>> + Send + use<F>
    where
        F: Future<Output = ApiResult<Computed>> + Send + 'static,
    {
        let task = AbortOnDropHandle::new(self.runtime.spawn(compute));
        async move { task.await.map_err(|error| ApiError::internal(format!("a query's task: {error}")))? }
    }

    fn fly<F>(&self, key: Key, compute: F) -> impl Future<Output = ApiResult<Answer>> + Send + use<F>
    where
        F: Future<Output = ApiResult<Computed>> + Send + 'static,
    {
        let computed = self.compute(compute);
        async move { Ok(Answer::new(key, computed.await?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    fn key(sql: &str, version: u64) -> Key {
        Key { question: Question::new(sql, &[("a", Some("1")), ("b", None)], Format::Json), version }
    }

    fn answers(entries: usize, bytes: usize) -> Answers {
        Answers::new(entries, bytes, Handle::current())
    }

    fn computed(bytes: Vec<u8>) -> Computed {
        Computed { body: Bytes::from(bytes), headers: Vec::new() }
    }

    fn text(text: &'static str) -> std::future::Ready<ApiResult<Computed>> {
        std::future::ready(Ok(computed(text.into())))
    }

    #[test]
    fn questions_differ_in_every_part() {
        let question = |sql, parameters: &[(&str, Option<&str>)], format| Question::new(sql, parameters, format);
        let one = question("s", &[("a", Some("1"))], Format::Json);
        for other in [
            question("t", &[("a", Some("1"))], Format::Json),
            question("s", &[("a", Some("2"))], Format::Json),
            question("s", &[("a", None)], Format::Json),
            question("s", &[("a", Some(""))], Format::Json),
            question("s", &[("a", Some("1"))], Format::Csv),
            question("s", &[("a1", Some(""))], Format::Json),
        ] {
            assert_ne!(one, other);
        }
        let answer = Answer::new(key("s", 1), computed(vec![b'x']));
        assert!(key("s", 1).is_of(&answer.tag) && !key("s", 2).is_of(&answer.tag) && !key("s", 1).is_of("7"));
    }

    #[tokio::test]
    async fn an_answer_is_kept_until_its_version_changes() {
        let answers = answers(10, 10_000);
        let (first, served) = answers.get(key("s", 1), false, text("one")).await.expect("computed");
        assert_eq!(served, Served::Miss);
        answers.keep(key("s", 1), &first);
        assert_eq!(answers.get(key("s", 1), false, text("two")).await.expect("kept"), (first, Served::Hit));
        let (second, served) = answers.get(key("s", 2), false, text("two")).await.expect("computed");
        assert_eq!((second.computed.body.as_ref(), served), (b"two".as_slice(), Served::Miss));
        answers.keep(key("s", 2), &second);
        let (again, served) = answers.get(key("s", 1), false, text("three")).await.expect("computed");
        assert_eq!(
            (again.computed.body.as_ref(), served),
            (b"three".as_slice(), Served::Miss),
            "an older version is not kept beside"
        );
        let (fresh, served) = answers.get(key("s", 2), true, text("four")).await.expect("computed");
        assert_eq!((fresh.computed.body.as_ref(), served), (b"four".as_slice(), Served::Bypass));
    }

    #[tokio::test]
    async fn bytes_and_entries_are_bounded() {
        let answers = answers(3, 2000);
        for (number, length) in [(1, 10), (2, 10), (3, 10), (4, 10), (5, 1000), (6, 5000)] {
            let key = key("s", 0);
            let question = Question::new(&number.to_string(), &[], Format::Json);
            let answer = Answer::new(key, computed(vec![b'x'; length]));
            answers.keep(Key { question, ..key }, &answer);
            let kept = answers.kept.lock().expect("not poisoned");
            assert!(kept.answers.len() <= 3 && kept.bytes <= 2000);
            let weight: usize = kept.answers.iter().map(|(_, (_, answer))| answer.weight()).sum();
            assert_eq!(kept.bytes, weight);
        }
        assert_eq!(answers.kept.lock().expect("not poisoned").answers.len(), 3, "the last one was too large");
    }

    #[tokio::test]
    async fn equal_questions_share_one_run_that_outlives_the_first_to_ask() {
        let answers = Arc::new(answers(0, 0));
        let (runs, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (runs, go, answers) = (Arc::clone(&runs), Arc::clone(&go), Arc::clone(&answers));
            let compute = async move {
                runs.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                text("one").await
            };
            async move { answers.get(key("s", 1), false, compute).await }
        };
        let first = tokio::spawn(ask());
        while runs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..3).map(|_| tokio::spawn(ask())).collect();
        while Arc::strong_count(&answers) < 5 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.expect_err("gone").is_cancelled());
        go.notify_one();
        for other in others {
            let (answer, served) = other.await.expect("a task").expect("an answer");
            assert_eq!((answer.computed.body.as_ref(), served), (b"one".as_slice(), Served::Shared));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_run_ends_with_the_last_who_waits_and_a_failure_is_not_kept() {
        struct Gone(Arc<Notify>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let answers = answers(10, 10_000);
        let gone = Arc::new(Notify::new());
        let guard = Gone(Arc::clone(&gone));
        let compute = async move {
            let _guard = guard;
            std::future::pending::<ApiResult<Computed>>().await
        };
        let waiting =
            tokio::time::timeout(std::time::Duration::from_millis(20), answers.get(key("s", 1), false, compute));
        assert!(waiting.await.is_err());
        tokio::time::timeout(std::time::Duration::from_secs(10), gone.notified()).await.expect("the run was dropped");
        let failing = answers.get(key("s", 1), false, async { Err(ApiError::internal("no")) }).await;
        assert!(failing.is_err());
        let (_, served) = answers.get(key("s", 1), false, text("one")).await.expect("computed");
        assert_eq!(served, Served::Miss);
    }
}
