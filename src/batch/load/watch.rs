//! Loads by itself what must be loaded: a table that joins the publication, was made anew, or whose rows changed without a
//! word in the log. Marks a table that leaves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{Progress, begin, locked};
use crate::catalog::{Comparison, Mirror, Table, compare};
use crate::config::Settings;
use crate::domain::{Failure, TableName};
use crate::store::clickhouse::ClickHouse;
use crate::store::mirror;
use crate::store::table_shapes::{self, CatalogSession, Published};
use crate::store::table_states::{self, StateChange, Stored, TableState};

/// How long the mirrors are not looked at while everything else stays as it was and nothing was to be done: only somebody who
/// changes a mirror by hand waits for it.
const MIRRORS_AGE_MAX: Duration = Duration::from_secs(10);
/// Longest wait between two attempts of a load that fails.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(300);

/// What the watch is told and tells.
pub struct Watch<A> {
    /// Settings of the sink that it belongs to.
    pub settings: Settings,
    /// Whether this sink is the one that writes: a standby leaves everything alone.
    pub is_active: A,
    /// Rung when a table's structure has changed, so that the sink makes its mirror follow.
    pub changed: Arc<Notify>,
    /// Ends it.
    pub cancelled: CancellationToken,
}

/// What must be done about the tables.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// To be loaded, with the reason.
    load: Vec<(TableName, String)>,
    /// Mirrors, by name, whose table is not published any more.
    left: Vec<String>,
    /// Whether a mirror has to follow its table.
    changed: bool,
}

impl<A: Fn() -> bool> Watch<A> {
    /// Looks every `sink.supervise_interval_ms`, until cancelled.
    pub async fn run(mut self) {
        // An operator's load comes first.
        self.settings.load.wait_lock_timeout_s = 0;
        let interval = Duration::from_millis(self.settings.sink.supervise_interval_ms.max(100));
        let mut memory = Memory::default();
        let looking = async {
            loop {
                tokio::time::sleep(interval).await;
                if !(self.is_active)() {
                    continue;
                }
                if let Err(error) = self.look(&mut memory).await {
                    counter!("platform_sink_retries_total", "step" => "watch").increment(1);
                    tracing::warn!(error = format!("{error:#}"), "the tables cannot be looked at; tried again");
                }
            }
        };
        self.cancelled.run_until_cancelled(looking).await;
    }

    async fn look(&self, memory: &mut Memory) -> anyhow::Result<()> {
        let clickhouse = ClickHouse::new(&self.settings.clickhouse)?;
        let findings = self.news(&clickhouse, memory).await?;
        if findings.changed {
            self.changed.notify_one();
        }
        for name in &findings.left {
            tracing::warn!(table = name, "the table has left the publication; its mirror stays as it is");
            let change =
                StateChange::of(&self.settings.sink.pipeline, TableState::Left, "it is no longer in the publication");
            failpoint!("watch.before-left");
            table_states::store(&clickhouse, name, &change).await?;
            failpoint!("watch.after-left");
        }
        memory.waits.retain(|name, _| findings.load.iter().any(|(table, _)| table == name));
        for (table, reason) in findings.load {
            let wait = memory.waits.entry(table.clone()).or_default();
            if wait.until.is_some_and(|until| Instant::now() < until) {
                continue;
            }
            // One by one: what is wrong with one table is nothing to the others.
            failpoint!("watch.before-load");
            match self.load(&clickhouse, &table).await {
                Ok(true) => {
                    failpoint!("watch.after-load");
                    counter!("platform_sink_loads_total").increment(1);
                    tracing::info!(table = %table, reason, "loaded by the sink");
                }
                Ok(false) => {}
                // An operator's load runs: what it leaves is looked at afterwards.
                Err(error) if matches!(error.downcast_ref(), Some(Failure::Busy(_))) => return Ok(()),
                Err(error) => {
                    counter!("platform_sink_retries_total", "step" => "load").increment(1);
                    let wait_s = wait.failed().as_secs();
                    tracing::warn!(table = %table, error = format!("{error:#}"), wait_s, "the table cannot be loaded; tried again");
                }
            }
        }
        Ok(())
    }

    /// What is to be done that was not seen to be done already.
    async fn news(&self, clickhouse: &ClickHouse, memory: &mut Memory) -> anyhow::Result<Findings> {
        let pipeline = &self.settings.sink.pipeline;
        // One that failed is gone then.
        let catalog = match memory.catalog.take() {
            Some(catalog) if !catalog.is_closed() => catalog,
            _ => CatalogSession::begin(&self.settings.postgres, "platform sink watch").await?,
        };
        let published = catalog.published(pipeline, &self.settings.tables).await?;
        memory.catalog = Some(catalog);
        let states = table_states::of_pipeline(clickhouse, pipeline).await?;
        if memory.whole.as_ref().is_some_and(|whole| whole.is_still_so(&published, &states)) {
            return Ok(Findings::default());
        }
        let mirrors = mirror::mirrors(clickhouse).await?;
        let findings = find(&published, &mirrors, &states);
        let nothing_to_do = findings == Findings::default();
        memory.whole = nothing_to_do.then(|| Whole { published, states, seen_at: Instant::now() });
        Ok(findings)
    }

    /// Loads a table, unless a load that ended since the look has done so: what was `loading` then was not interrupted.
    async fn load(&self, clickhouse: &ClickHouse, table: &TableName) -> anyhow::Result<bool> {
        let client = begin(&self.settings).await?;
        let findings = self.findings(&client, clickhouse).await?;
        if !findings.load.iter().any(|(name, _)| name == table) {
            return Ok(false);
        }
        locked(&self.settings, &client, std::slice::from_ref(table), &Progress::new()).await?;
        Ok(true)
    }

    async fn findings(&self, client: &Client, clickhouse: &ClickHouse) -> anyhow::Result<Findings> {
        let pipeline = &self.settings.sink.pipeline;
        let published = table_shapes::published(client, pipeline, &self.settings.tables).await?;
        let mirrors = mirror::mirrors(clickhouse).await?;
        let states = table_states::of_pipeline(clickhouse, pipeline).await?;
        Ok(find(&published, &mirrors, &states))
    }
}

/// What one look leaves for the next.
#[derive(Default)]
struct Memory {
    catalog: Option<CatalogSession>,
    whole: Option<Whole>,
    waits: HashMap<TableName, Wait>,
}

/// The tables when there was nothing to do about them.
struct Whole {
    published: Published,
    states: BTreeMap<String, Stored>,
    seen_at: Instant,
}

impl Whole {
    fn is_still_so(&self, published: &Published, states: &BTreeMap<String, Stored>) -> bool {
        self.seen_at.elapsed() < MIRRORS_AGE_MAX && (&self.published, &self.states) == (published, states)
    }
}

/// When a table whose load failed may be loaded again.
#[derive(Debug, Default)]
struct Wait {
    failures: u32,
    until: Option<Instant>,
}

impl Wait {
    /// Twice as long after each failure.
    fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = Duration::from_secs(1 << self.failures.min(9)).min(RETRY_WAIT_MAX);
        self.until = Some(Instant::now() + wait);
        wait
    }
}

impl<A> std::fmt::Debug for Watch<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

fn find(published: &Published, mirrors: &BTreeMap<String, Mirror>, states: &BTreeMap<String, Stored>) -> Findings {
    let mut findings = Findings::default();
    let nothing = Mirror::default();
    for table in &published.tables {
        let name = table.name().mirror_name();
        let state = states.get(&name).map(|stored| stored.state);
        let compared = compare(mirrors.get(&name).unwrap_or(&nothing), table);
        let load = match (state, compared) {
            // Somebody must look at it first, and loads it then.
            (Some(TableState::Halted), _) => None,
            (Some(TableState::Wanted), _) => states.get(&name).map(|stored| stored.reason.clone()),
            // Loads hold a lock: while one runs, this one ends at once.
            (Some(TableState::Loading), _) => Some("its load was interrupted".to_owned()),
            (Some(TableState::Left), _) => Some("it has joined the publication again".to_owned()),
            (_, Comparison::Absent) => Some("it has joined the publication".to_owned()),
            (_, Comparison::Replaced(why)) => Some(why.to_owned()),
            // The sink halts it, or makes the mirror follow and says whether its rows are wanted too.
            (_, Comparison::Incompatible(_)) => {
                findings.changed = true;
                None
            }
            (_, Comparison::Follows(evolution)) => {
                let noted = mirrors.get(&name).map(|mirror| mirror.comment.as_str());
                let now = table.relation().to_comment(&table.key_attnums());
                findings.changed |= evolution.reload.is_some() || noted != Some(now.as_str());
                None
            }
        };
        findings.load.extend(load.map(|why| (table.name().clone(), why)));
    }
    let refused = published.refused.iter().map(|(name, _)| name);
    let there: HashSet<String> =
        published.tables.iter().map(Table::name).chain(refused).map(TableName::mirror_name).collect();
    let gone = states.iter().filter(|(name, stored)| stored.state != TableState::Left && !there.contains(*name));
    findings.left = gone.map(|(name, _)| name.clone()).collect();
    findings
}
