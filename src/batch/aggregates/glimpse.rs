//! The mirror of a table at a moment: how far it was, and then what it consisted of. In this order: whatever is built of these parts,
//! or of later ones, has everything up to the position.

use super::{Position, failed, watermark};
use crate::catalog::Aggregate;
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror_parts::MirrorParts;

/// What was seen. It may be taken before the day is locked: only the record and the result of the day depend on the lock.
#[derive(Debug, Clone)]
pub struct Glimpse {
    pub(super) position: Position,
    /// `None`: there was no mirror.
    pub(super) parts: Option<MirrorParts>,
}

impl Glimpse {
    /// Looks.
    ///
    /// # Errors
    /// `Failure::Unavailable` before the first load; ClickHouse's.
    pub async fn take(clickhouse: &ClickHouse, pipeline: &str, aggregate: &Aggregate) -> anyhow::Result<Self> {
        let position = watermark::position(clickhouse, pipeline).await?;
        let parts = MirrorParts::read(clickhouse, &aggregate.table).await;
        Ok(Self { position, parts: parts.map_err(|error| failed("looking for the mirror", error))? })
    }
}
