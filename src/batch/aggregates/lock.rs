//! One builder a day: a lock in PostgreSQL, which ends with its session.

use tokio_postgres::Client;

use crate::domain::{Failure, RunDate};
use crate::store::advisory_lock;

/// A held lock. It ends with the session at the latest.
#[derive(Debug)]
pub struct BucketLock<'a> {
    client: &'a Client,
    key: i64,
    name: String,
}

impl<'a> BucketLock<'a> {
    /// Takes the lock of a day of an aggregate on the session of `client`; `None` while another session holds it. The
    /// session itself may take it twice: a caller with several builders needs several sessions.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn acquire(client: &'a Client, aggregate: &str, day: RunDate) -> anyhow::Result<Option<Self>> {
        let name = format!("{aggregate}/{day}");
        let key = advisory_lock::key_of(&format!("platform.aggregate/{name}"));
        Ok(advisory_lock::try_lock(client, key).await?.then_some(Self { client, key, name }))
    }

    /// Makes sure that it is still held: a lost session has lost it, and another builder may be at work.
    ///
    /// # Errors
    /// `Failure::Busy` when it is not.
    pub async fn confirm(&self) -> anyhow::Result<()> {
        match advisory_lock::is_held(self.client, self.key).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => {
                let text = format!("the lock of {} was lost with its session; nothing was changed", self.name);
                Err(Failure::Busy(text).into())
            }
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn release(self) -> anyhow::Result<()> {
        advisory_lock::unlock(self.client, self.key).await
    }
}
