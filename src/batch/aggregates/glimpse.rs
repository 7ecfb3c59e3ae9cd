//! The mirror of a table at a moment: how far it was, and then what it consisted of. In this order: whatever is built of these parts,
//! or of later ones, has everything up to the position.

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{Position, failed, watermark};
use crate::catalog::Aggregate;
use crate::domain::TableName;
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
    /// Looks.
    ///
    /// # Errors
    /// `Failure::Unavailable` before the first load; ClickHouse's.
    pub(super) async fn now(clickhouse: &ClickHouse, pipeline: &str, table: &TableName) -> anyhow::Result<Self> {
        let position = watermark::position(clickhouse, pipeline).await?;
        let parts = MirrorParts::read(clickhouse, table).await;
        Ok(Self { position, parts: parts.map_err(|error| failed("looking for the mirror", error))? })
    }
}

/// A look that goes on while a session begins and a day is locked: only the record and the result of the day depend on the lock.
#[derive(Debug)]
pub struct Glimpse(Mutex<Option<JoinHandle<anyhow::Result<Seen>>>>);

impl Glimpse {
    /// Begins to look.
    pub fn begin(clickhouse: ClickHouse, pipeline: &str, aggregate: &Aggregate) -> Self {
        let (pipeline, table) = (pipeline.to_owned(), aggregate.table.clone());
        let look = tokio::spawn(async move { Seen::now(&clickhouse, &pipeline, &table).await });
        Self(Mutex::new(Some(look)))
    }

    /// What was seen, for the first who asks: whoever asks again wants to know what is there then.
    pub(super) async fn take(&self) -> Option<anyhow::Result<Seen>> {
        let look = self.0.lock().await.take()?;
        Some(look.await.context("looking at the mirror").flatten())
    }
}
