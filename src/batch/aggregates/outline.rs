//! A day as the mirror has it: how its rows are read, what they are, and what was built of them before.

use super::failed;
use super::mirror_day::{Facts, MirrorDay};
use super::result::{self, Content};
use crate::catalog::{Aggregate, Check};
use crate::domain::RunDate;
use crate::store::builds::{self, Build};
use crate::store::clickhouse::ClickHouse;

/// Rows of a day below which looking for a range of its keys costs as much as it saves. Of 100,000 rows out of 10 million it costs 40 ms of
/// CPU beside other work, and spares SELECT and hash 75.
pub const LARGE_DAY: u64 = 50_000;

/// A day before its rows are read.
#[derive(Debug)]
pub(super) struct Outline {
    /// How its rows are read.
    pub(super) source: MirrorDay,
    /// The build recorded last.
    pub(super) recorded: Option<Build>,
    /// What readers see; `None` also of a day that will be built in any case.
    content: Option<Content>,
}

/// A day before it is built.
#[derive(Debug)]
pub struct Inspection {
    /// How its rows are read.
    pub source: MirrorDay,
    /// What they are.
    pub facts: Facts,
    /// The build recorded last.
    pub recorded: Option<Build>,
    /// Whether readers see a build of exactly these rows.
    pub is_current: bool,
}

impl Outline {
    /// Looks up how the day's rows are read, by a range of keys where that pays, and at what `known` looks at.
    pub(super) async fn find(
        clickhouse: &ClickHouse,
        aggregate: &Aggregate,
        day: RunDate,
        force: bool,
    ) -> anyhow::Result<Self> {
        let source = MirrorDay::find(clickhouse, aggregate, day);
        let (source, (recorded, content)) = tokio::try_join!(source, known(clickhouse, aggregate, day, force))?;
        let may_be_large = recorded.as_ref().is_none_or(|build| build.rows_in >= LARGE_DAY);
        let source = if may_be_large { source.narrowed(clickhouse).await? } else { source };
        Ok(Self { source, recorded, content })
    }

    /// The same for rows that were looked up for another aggregate.
    pub(super) async fn of(
        source: MirrorDay,
        clickhouse: &ClickHouse,
        aggregate: &Aggregate,
        day: RunDate,
    ) -> anyhow::Result<Self> {
        let (recorded, content) = known(clickhouse, aggregate, day, false).await?;
        Ok(Self { source, recorded, content })
    }

    /// With its rows.
    pub(super) fn with(self, facts: Facts, aggregate: &Aggregate) -> Inspection {
        let Self { source, recorded, content } = self;
        let is_current = match (&recorded, &content) {
            (Some(build), Some(content)) => build.fingerprint == facts.fingerprint(aggregate) && content.shows(build),
            _ => false,
        };
        Inspection { source, facts, recorded, is_current }
    }
}

/// The build recorded last and, unless the day will be built in any case (`force`), what readers see.
async fn known(
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
    day: RunDate,
    force: bool,
) -> anyhow::Result<(Option<Build>, Option<Content>)> {
    let key = aggregate.key();
    let recorded = async {
        let latest = builds::latest(clickhouse, &key, day).await;
        latest.map_err(|error| failed("reading the recorded build", error))
    };
    let content = async { if force { Ok(None) } else { result::content(clickhouse, aggregate, day).await } };
    tokio::try_join!(recorded, content)
}

/// Looks at a day: its rows in the mirror with the values of `checks`, the build that is recorded, the one that readers see.
///
/// # Errors
/// `Failure::Config` without a mirror; ClickHouse's.
pub async fn inspect(
    clickhouse: &ClickHouse,
    aggregate: &Aggregate,
    day: RunDate,
    checks: &[Check],
) -> anyhow::Result<Inspection> {
    let outline = Outline::find(clickhouse, aggregate, day, false).await?;
    let facts = outline.source.facts(clickhouse, aggregate, checks).await?;
    Ok(outline.with(facts, aggregate))
}
