//! The mirror of a table at a moment: how far it was, and what it consisted of.

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::readiness::refuse_unready;
use super::{Position, failed, watermark};
use crate::catalog::Aggregate;
use crate::domain::{RunDate, TableName};
use crate::store::builds::{self, Build};
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror_parts::MirrorParts;

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) position: Position,
    /// `None`: there was no mirror.
    pub(super) parts: Option<MirrorParts>,
}

impl Seen {
    /// Looks at both at once, so that the parts may be older than the position. If a later look finds the same parts, they were
    /// these at the position too.
    ///
    /// # Errors
    /// `Failure::Unavailable` before the first load; ClickHouse's.
    pub(super) async fn at_once(clickhouse: &ClickHouse, pipeline: &str, table: &TableName) -> anyhow::Result<Self> {
        let (position, parts) = tokio::try_join!(watermark::position(clickhouse, pipeline), parts(clickhouse, table))?;
        Ok(Self { position, parts })
    }

    /// Whether every read that began after `parts` were looked at, and ended before this look, saw the same rows. `false`: it is not known.
    pub(super) fn consists_of(&self, parts: &MirrorParts) -> bool {
        self.parts.as_ref().is_some_and(|now| parts.is_same_as(now))
    }
}

/// What a mirror consists of.
///
/// # Errors
/// ClickHouse's.
pub(super) async fn parts(clickhouse: &ClickHouse, table: &TableName) -> anyhow::Result<Option<MirrorParts>> {
    MirrorParts::read(clickhouse, table).await.map_err(|error| failed("looking for the mirror", error))
}

/// What was seen beforehand of a mirror that was whole at the position.
#[derive(Debug)]
pub(super) struct Beforehand {
    pub(super) seen: Seen,
    /// The build that was recorded then: it tells the day's size. Whoever is to believe it reads it under the day's lock.
    pub(super) recorded: Option<Build>,
}

impl Beforehand {
    async fn look(
        clickhouse: &ClickHouse,
        pipeline: &str,
        table: &TableName,
        (aggregate, day): (&str, RunDate),
    ) -> anyhow::Result<Self> {
        let position = async {
            let position = watermark::position(clickhouse, pipeline).await?;
            refuse_unready(clickhouse, table, position).await.map(|()| position)
        };
        let recorded = async {
            let latest = builds::latest(clickhouse, aggregate, day).await;
            latest.map_err(|error| failed("reading the recorded build", error))
        };
        let (position, parts, recorded) = tokio::try_join!(position, parts(clickhouse, table), recorded)?;
        Ok(Self { seen: Seen { position, parts }, recorded })
    }

    /// Whether the table is likely to stay as it was for a moment. Nothing may depend on it but speed.
    pub(super) fn was_idle(&self) -> bool {
        self.seen.parts.as_ref().is_some_and(MirrorParts::is_idle)
    }
}

/// A look that goes on while a session begins and a day is locked.
#[derive(Debug)]
pub struct Glimpse(Mutex<Option<JoinHandle<anyhow::Result<Beforehand>>>>);

impl Glimpse {
    /// Begins to look, for a day that will be built in any case.
    pub fn begin(clickhouse: ClickHouse, pipeline: &str, aggregate: &Aggregate, day: RunDate) -> Self {
        let (pipeline, table, key) = (pipeline.to_owned(), aggregate.table.clone(), aggregate.key());
        let look = async move { Beforehand::look(&clickhouse, &pipeline, &table, (&key, day)).await };
        Self(Mutex::new(Some(tokio::spawn(look))))
    }

    /// What was seen, for the first who asks: whoever asks again wants to know what is there then.
    pub(super) async fn take(&self) -> Option<anyhow::Result<Beforehand>> {
        let look = self.0.lock().await.take()?;
        Some(look.await.context("looking at the mirror").flatten())
    }
}
