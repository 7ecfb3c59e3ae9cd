//! A look at the mirror before a day is locked: how far it was, and how the day is read.

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::outline::Outline;
use super::readiness::refuse_unready;
use super::{Position, watermark};
use crate::catalog::Aggregate;
use crate::domain::RunDate;
use crate::store::clickhouse::ClickHouse;

/// What was seen beforehand of a mirror that was whole at the position. The rest was looked at beside the position, and may be older: if
/// a later look finds the same parts, they were these at the position too.
#[derive(Debug)]
pub(super) struct Beforehand {
    pub(super) position: Position,
    /// Whoever is to believe its record reads it under the day's lock.
    pub(super) outline: Outline,
}

impl Beforehand {
    async fn look(
        clickhouse: &ClickHouse,
        pipeline: &str,
        aggregate: &Aggregate,
        day: RunDate,
    ) -> anyhow::Result<Self> {
        let position = async {
            let position = watermark::position(clickhouse, pipeline).await?;
            refuse_unready(clickhouse, &aggregate.table, position).await.map(|()| position)
        };
        let (position, outline) = tokio::try_join!(position, Outline::find(clickhouse, aggregate, day, true))?;
        Ok(Self { position, outline })
    }
}

/// A look that goes on while a session begins and a day is locked.
#[derive(Debug)]
pub struct Glimpse(Mutex<Option<JoinHandle<anyhow::Result<Beforehand>>>>);

impl Glimpse {
    /// Begins to look, for a day that will be built in any case.
    pub fn begin(clickhouse: ClickHouse, pipeline: &str, aggregate: &Aggregate, day: RunDate) -> Self {
        let (pipeline, aggregate) = (pipeline.to_owned(), aggregate.clone());
        let look = async move { Beforehand::look(&clickhouse, &pipeline, &aggregate, day).await };
        Self(Mutex::new(Some(tokio::spawn(look))))
    }

    /// What was seen, for the first who asks, and if nobody seemed to write: whoever asks again wants to know what is there then.
    pub(super) async fn take(&self) -> Option<Beforehand> {
        let look = self.0.lock().await.take()?;
        // Whoever looks again finds out what went wrong.
        let beforehand = look.await.ok()?.ok()?;
        beforehand.outline.source.was_idle().then_some(beforehand)
    }
}
