//! Rate limits of keys: a token bucket each, in this process. One atomic word a key, no lock.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Buckets kept; full ones are forgotten when there are more.
const BUCKETS_MAX: usize = 4096;

/// So many requests in so many seconds, all of them at once if the caller likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    /// Requests.
    pub requests: u32,
    /// Seconds in which the bucket fills from empty to full.
    pub window_s: u32,
}

/// Where a caller stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    quota: Quota,
    remaining: u64,
    /// Seconds until the bucket is full again.
    reset_s: u64,
}

/// A bucket that is over its limit: the caller may ask again after so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// Seconds, at least one.
    pub retry_after_s: u32,
}

/// The bucket of one key. It holds the moment at which it would be full again (GCRA), in nanoseconds.
#[derive(Debug)]
pub(super) struct Bucket {
    quota: Quota,
    full_at: AtomicU64,
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        Self { quota, full_at: AtomicU64::new(0) }
    }

    /// Nanoseconds for one request.
    fn interval(&self) -> u64 {
        (self.window() / u64::from(self.quota.requests.max(1))).max(1)
    }

    fn window(&self) -> u64 {
        u64::from(self.quota.window_s.max(1)) * 1_000_000_000
    }

    /// Takes one request out of the bucket at `now` (nanoseconds of any clock that only rises).
    fn take(&self, now: u64) -> (Standing, Result<(), Exhausted>) {
        let (interval, window) = (self.interval(), self.window());
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now) + interval;
            (next - now <= window).then_some(next)
        });
        let (full_at, outcome) = match taken {
            Ok(before) => (before.max(now) + interval, Ok(())),
            Err(before) => {
                let wait = (before + interval).saturating_sub(now + window);
                let seconds = u32::try_from(wait.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
                (before, Err(Exhausted { retry_after_s: seconds.max(1) }))
            }
        };
        let used = full_at.saturating_sub(now);
        let standing = Standing {
            quota: self.quota,
            remaining: window.saturating_sub(used) / interval,
            reset_s: used.div_ceil(1_000_000_000),
        };
        (standing, outcome)
    }
}

/// The buckets of all keys that were used lately.
#[derive(Debug)]
pub(super) struct Buckets {
    began: Instant,
    default: Option<Quota>,
    window_s: u32,
    by_key: Mutex<HashMap<String, Arc<Bucket>>>,
}

impl Buckets {
    /// With the limit of keys that have none of their own; 0 requests: no limit.
    pub(super) fn new(requests: u32, window_s: u32) -> Self {
        let default = (requests > 0).then_some(Quota { requests, window_s });
        Self { began: Instant::now(), default, window_s, by_key: Mutex::default() }
    }

    /// The bucket of a key, the same one for all workers. Looked up when the key is, not for every request.
    pub(super) fn of(&self, prefix: &str, own: Option<u32>) -> Option<Arc<Bucket>> {
        let quota = own.map(|requests| Quota { requests, window_s: self.window_s }).or(self.default)?;
        let mut buckets = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(prefix).filter(|bucket| bucket.quota == quota) {
            return Some(Arc::clone(bucket));
        }
        if buckets.len() >= BUCKETS_MAX {
            let now = self.now();
            buckets.retain(|_, bucket| bucket.full_at.load(Ordering::Relaxed) > now);
        }
        let bucket = Arc::new(Bucket::new(quota));
        buckets.insert(prefix.to_owned(), Arc::clone(&bucket));
        Some(bucket)
    }

    /// Takes one request out of `bucket`.
    pub(super) fn take(&self, bucket: &Bucket) -> (Standing, Result<(), Exhausted>) {
        bucket.take(self.now())
    }

    fn now(&self) -> u64 {
        u64::try_from(Duration::as_nanos(&self.began.elapsed())).unwrap_or(u64::MAX / 2)
    }
}

impl Standing {
    /// Writes `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let mut text = String::with_capacity(32);
        // Writing to a String cannot fail.
        let _ = write!(text, "\"key\";q={};w={}", self.quota.requests, self.quota.window_s);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(POLICY, value);
        }
        text.clear();
        let _ = write!(text, "\"key\";r={};t={}", self.remaining, self.reset_s);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(LIMIT, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_its_quota_at_once_and_then_fills_up_again() {
        let bucket = Bucket::new(Quota { requests: 3, window_s: 6 });
        let now = 100 * SECOND;
        let standings: Vec<_> = (0..3).map(|_| bucket.take(now)).collect();
        assert!(standings.iter().all(|(_, outcome)| outcome.is_ok()));
        assert_eq!(standings.iter().map(|(standing, _)| standing.remaining).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(standings[2].0.reset_s, 6);
        assert_eq!(bucket.take(now).1, Err(Exhausted { retry_after_s: 2 }));
        assert_eq!(bucket.take(now + SECOND).1, Err(Exhausted { retry_after_s: 1 }));
        assert!(bucket.take(now + 2 * SECOND).1.is_ok());
        assert!(bucket.take(now + 2 * SECOND).1.is_err());
        assert_eq!(bucket.take(now + 60 * SECOND).0.remaining, 2);
    }

    #[test]
    fn a_key_has_one_bucket_until_its_limit_changes() {
        let buckets = Buckets::new(10, 60);
        let first = buckets.of("a", None).expect("a bucket");
        assert!(Arc::ptr_eq(&first, &buckets.of("a", None).expect("a bucket")));
        assert!(!Arc::ptr_eq(&first, &buckets.of("b", None).expect("a bucket")));
        let own = buckets.of("a", Some(5)).expect("a bucket");
        assert_eq!(own.quota, Quota { requests: 5, window_s: 60 });
        assert!(Buckets::new(0, 60).of("a", None).is_none());
    }

    #[test]
    fn headers_are_structured_fields() {
        let bucket = Bucket::new(Quota { requests: 100, window_s: 60 });
        let mut headers = HeaderMap::new();
        bucket.take(0).0.write(&mut headers);
        assert_eq!(headers.get("ratelimit-policy").expect("a policy"), "\"key\";q=100;w=60");
        assert_eq!(headers.get("ratelimit").expect("a limit"), "\"key\";r=99;t=1");
    }
}
