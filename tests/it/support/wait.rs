//! Waiting on a condition with a deadline: the only place of the tests that sleeps.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; panics with `what` when it does not within `limit`.
pub(crate) async fn wait_until<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) {
    let end = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < end, "waited {} s in vain: {what}", limit.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// As `wait_until`, for tests without a runtime.
pub(crate) fn block_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(blocked_until(limit, condition), "waited {} s in vain: {what}", limit.as_secs());
}

/// Waits until `condition` holds; false when it does not within `limit`.
#[expect(clippy::disallowed_methods, reason = "the interval between two looks at a condition")]
pub(crate) fn blocked_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}
