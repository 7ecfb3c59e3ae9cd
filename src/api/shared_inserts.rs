//! Posts that are created at the same time share a statement: one INSERT, one commit and one question for the position serve
//! all requests that came while the worker was writing the ones before.
//!
//! Nobody waits for company: while the worker has a free slot, a request writes its post by itself. What comes when all slots
//! are taken queues up, and whoever ends next takes the queue along. Each request keeps the answer that it would have had
//! alone: a post that the shared statement leaves out, or a statement that PostgreSQL refuses, is tried again one by one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use actix_web::rt;
use metrics::counter;
use tokio::sync::oneshot;
use tokio_postgres::Row;

use super::database_errors::{refuses_a_row, timeout};
use super::post_input::Changes;
use super::posts_batch_sql::{self, Returned};
use super::posts_sql;
use super::problem::{ApiError, ApiResult, Code};
use crate::domain::Lsn;
use crate::store::pool::{AcquireError, Pool};

/// Statements that one worker has under way. Two keep a core and PostgreSQL busy while the answers of one are written; with
/// more, each carries fewer posts (`make bench ARGS="--bench api -- versus"`).
const SLOTS: usize = 2;
/// How long a post that is written by itself keeps others waiting; longer than that only a lock takes.
const SLOT_TIME: Duration = Duration::from_millis(100);
/// Posts in one statement: the cost of a post no longer falls beyond it, and its answers would come late.
const POSTS_MAX: usize = 32;

/// The creations of one worker. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct SharedInserts(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: Pool,
    waiting: RefCell<VecDeque<Waiting>>,
    waiting_max: usize,
    time_max: Duration,
    slots_taken: Cell<usize>,
}

/// A request whose post waits for a statement.
#[derive(Debug)]
struct Waiting {
    post: Changes,
    minimal: bool,
    told: oneshot::Sender<ApiResult<Turn>>,
}

/// What a request does next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Write the post by itself, while holding the slot if there is one.
    Alone(Changes, Option<Slot>),
    /// The post was written: the row begins with its columns if the answer has a body. The position is behind the commit.
    Written(Row, Option<Lsn>),
}

/// The right to have a statement under way. Dropping it starts the next one with those who wait.
#[derive(Debug)]
pub(super) struct Slot(Rc<Inner>);

impl SharedInserts {
    /// Writes through `pool`, each statement in at most `time_max`; at most `waiting_max` requests queue up.
    pub(super) fn new(pool: Pool, waiting_max: usize, time_max: Duration) -> Self {
        Self(Rc::new(Inner {
            pool,
            waiting: RefCell::default(),
            waiting_max: waiting_max.max(1),
            time_max,
            slots_taken: Cell::new(0),
        }))
    }

    /// Waits for this post's turn. Dropping the future before its post was sent takes the post back.
    ///
    /// # Errors
    /// 503 when too many wait, no connection is free in time, or PostgreSQL went away while it wrote; 504.
    pub(super) async fn turn(&self, post: Changes, minimal: bool) -> ApiResult<Turn> {
        if self.0.slots_taken.get() < SLOTS {
            return Ok(Turn::Alone(post, Some(Slot::take(&self.0))));
        }
        let (told, turn) = oneshot::channel();
        {
            let mut waiting = self.0.waiting.borrow_mut();
            if waiting.len() >= self.0.waiting_max {
                waiting.retain(|waiting| !waiting.told.is_closed());
            }
            if waiting.len() >= self.0.waiting_max {
                return Err(ApiError::new(Code::Overloaded, "too many posts wait to be created")
                    .retry_after(1)
                    .because(AcquireError::Exhausted));
            }
            waiting.push_back(Waiting { post, minimal, told });
        }
        turn.await.map_err(|_| ApiError::internal("a creation was dropped"))?
    }
}

impl Slot {
    fn take(inner: &Rc<Inner>) -> Self {
        inner.slots_taken.set(inner.slots_taken.get() + 1);
        Self(Rc::clone(inner))
    }

    /// Does the work while others queue up behind it, and lets them go on without it if it takes long.
    pub(super) async fn hold<T>(slot: Option<Self>, work: impl Future<Output = T>) -> T {
        let Some(slot) = slot else { return work.await };
        let mut work = pin!(work);
        let done = tokio::time::timeout(SLOT_TIME, &mut work).await;
        drop(slot);
        match done {
            Ok(done) => done,
            Err(_) => work.await,
        }
    }

    /// One statement for those who wait; then the slot is free for the next.
    async fn write(self) {
        let together = self.0.next();
        if together.is_empty() {
            return;
        }
        let written = tokio::time::timeout(self.0.time_max, self.0.insert(&together)).await;
        match written.unwrap_or_else(|_| Err(Failed::All(timeout().because("no answer from the database")))) {
            Ok((rows, position)) => {
                counter!("platform_api_shared_inserts_total", "outcome" => "written").increment(1);
                for (Waiting { post, told, .. }, row) in together.into_iter().zip(rows) {
                    let turn = row.map_or_else(|| Turn::Alone(post, None), |row| Turn::Written(row, position));
                    // Whoever has gone needs no answer.
                    let _ = told.send(Ok(turn));
                }
            }
            Err(Failed::NothingWritten) => {
                counter!("platform_api_shared_inserts_total", "outcome" => "refused").increment(1);
                for Waiting { post, told, .. } in together {
                    let _ = told.send(Ok(Turn::Alone(post, None)));
                }
            }
            Err(Failed::All(error)) => {
                counter!("platform_api_shared_inserts_total", "outcome" => "failed").increment(1);
                for Waiting { told, .. } in together {
                    let _ = told.send(Err(error.clone()));
                }
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slots_taken.set(self.0.slots_taken.get().saturating_sub(1));
        if !self.0.waiting.borrow().is_empty() {
            rt::spawn(Self::take(&self.0).write());
        }
    }
}

/// Why a shared statement has no rows.
enum Failed {
    /// PostgreSQL refused it as a whole because of one of its posts.
    NothingWritten,
    /// It does not depend on the posts, or nobody knows whether they were written.
    All(ApiError),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        if refuses_a_row(&error) { Self::NothingWritten } else { Self::All(error.into()) }
    }
}

impl Inner {
    /// The next posts, without those whose clients have gone.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let mut together = Vec::with_capacity(waiting.len().min(POSTS_MAX));
        while together.len() < POSTS_MAX {
            let Some(one) = waiting.pop_front() else { break };
            if !one.told.is_closed() {
                together.push(one);
            }
        }
        together
    }

    /// The row of each post that was written, and the position behind their commit.
    async fn insert(&self, together: &[Waiting]) -> Result<(Vec<Option<Row>>, Option<Lsn>), Failed> {
        let mut lease = self.pool.lease().await.map_err(|error| Failed::All(error.into()))?;
        let Some(client) = lease.connection() else {
            return Err(Failed::All(ApiError::internal("a lease without connection")));
        };
        let returned = if together.iter().all(|one| one.minimal) { Returned::Identity } else { Returned::Post };
        let posts: Vec<&Changes> = together.iter().map(|one| &one.post).collect();
        let statement = posts_batch_sql::prepare_shared(client, returned).await?;
        // Sent one behind the other: the position is asked for after the insert has committed, in one round trip.
        let (rows, position) = tokio::join!(
            biased;
            posts_batch_sql::insert_shared(&***client, &statement, &posts),
            posts_sql::position(client)
        );
        lease.finish();
        Ok((rows?, position?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::store::pool::Limits;
    use futures_util::poll;

    fn nowhere() -> Pool {
        let second = Duration::from_secs(1);
        let limits = Limits { connections: 1, acquire: second, statement: second };
        let mut settings = config::Settings::load(None).expect("the defaults").settings.postgres;
        settings.url = "postgres://nobody@127.0.0.1:1/none".into();
        Pool::new(&settings, limits).expect("a pool")
    }

    fn post(id: &str) -> Changes {
        let column =
            super::super::post_input::COLUMNS.iter().find(|column| column.name == "post_id").expect("a column");
        Changes(vec![(column, super::super::post_input::Value::Text(Some(id.to_owned())))])
    }

    #[actix_web::test]
    async fn who_finds_no_slot_queues_up_and_leaves_with_its_client() {
        let creations = SharedInserts::new(nowhere(), 2, Duration::from_secs(20));
        let mut slots = Vec::new();
        for _ in 0..SLOTS {
            match creations.turn(post("alone"), true).await {
                Ok(Turn::Alone(_, Some(slot))) => slots.push(slot),
                other => panic!("{other:?}"),
            }
        }
        let mut first = Box::pin(creations.turn(post("first"), true));
        let mut second = Box::pin(creations.turn(post("second"), true));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        let full = creations.turn(post("third"), true).await.expect_err("two may wait");
        assert_eq!(full.code(), Code::Overloaded);

        drop(first);
        let mut third = Box::pin(creations.turn(post("third"), true));
        assert!(poll!(&mut third).is_pending(), "the place of one who has gone is free");
        let together: Vec<String> = creations.0.next().iter().map(|one| one.post.identity().1.to_owned()).collect();
        assert_eq!(together, ["second", "third"]);
        drop(slots);
        assert_eq!(creations.0.slots_taken.get(), 0);
    }

    #[actix_web::test]
    async fn those_who_wait_are_told_that_postgresql_is_away() {
        let creations = SharedInserts::new(nowhere(), 2, Duration::from_secs(20));
        let slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::take(&creations.0)).collect();
        let mut waiting = Box::pin(creations.turn(post("first"), true));
        assert!(poll!(&mut waiting).is_pending());
        drop(slots);
        let error = waiting.await.expect_err("nobody listens there");
        assert_eq!(error.code(), Code::DatabaseUnavailable);
    }
}
