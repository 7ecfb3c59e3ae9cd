//! What handlers tell the envelope about the request that they serve, without passing it through every call.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::rate_limit::Standing;

tokio::task_local! {
    static CONTEXT: Rc<Context>;
}

/// Of one request.
#[derive(Debug, Default)]
pub(super) struct Context {
    database: Cell<Duration>,
    standing: Cell<Option<Standing>>,
}

impl Context {
    /// Time that the request has spent on databases, waiting for a connection included.
    pub(super) fn database(&self) -> Duration {
        self.database.get()
    }

    /// How much of its rate limit the caller has left, if it has one.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.standing.get()
    }
}

/// Runs `work` with a context that what it calls can write to.
pub(super) async fn with<T>(context: Rc<Context>, work: impl Future<Output = T>) -> T {
    CONTEXT.scope(context, work).await
}

/// Adds time spent on a database; outside of a request nothing happens.
pub(super) fn add_database_time(time: Duration) {
    let _ = CONTEXT.try_with(|context| context.database.set(context.database.get() + time));
}

/// Notes the caller's rate limit; outside of a request nothing happens.
pub(super) fn set_standing(standing: Standing) {
    let _ = CONTEXT.try_with(|context| context.standing.set(Some(standing)));
}
