//! How far the mirror is: one poller a process watches the checkpoint; requests read what it saw or wait for it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::domain::Lsn;
use crate::shutdown::Shutdown;
use crate::store::checkpoint::{self, Checkpoint, parse_time, text};
use crate::store::clickhouse::{ClickHouse, Error};
use crate::store::mirror;
use crate::store::table_versions::{self, TableVersions};

/// Pause between two looks while nobody waits.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// Least pause between two looks while somebody waits.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Age of the slowly changing part (log number, states of tables) that is still good.
const SLOW_PART: Duration = Duration::from_secs(1);
/// Age of the tables' versions that is still good while the checkpoint stands still. What changes rows moves it; what does not
/// (a build, a hand) may take so long to be seen.
const VERSIONS_GOOD_FOR: Duration = Duration::from_secs(1);
/// The log's number before ClickHouse knows any.
const FIRST_LOG: u16 = 1;

/// What the poller saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// When the look began; nothing seen is older.
    pub began: Instant,
    /// The newest checkpoint; `None` before the first load.
    pub checkpoint: Option<Checkpoint>,
    /// Number of the current log.
    pub log: u16,
    /// State of every mirrored table that has one.
    pub tables: BTreeMap<String, TableState>,
    /// Versions of tables, read after the checkpoint: equal ones show the same rows. `None` where ClickHouse does not tell them.
    pub versions: Option<Arc<TableVersions>>,
    /// When they were read.
    versions_at: Option<Instant>,
    /// Why the last look failed; the rest is then from an earlier one.
    pub error: Option<String>,
}

/// What a mirrored table is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableState {
    /// `loading`, `halted`, …
    pub state: String,
    /// Why, for people.
    pub reason: String,
    /// Position that the watermark must pass before a load counts.
    pub snapshot: Lsn,
    /// Rows that could not be applied and wait for a replay.
    pub parked: u64,
    /// Rows that the last load copied.
    pub rows_loaded: u64,
    /// Since when.
    pub changed_at: DateTime<Utc>,
}

impl Seen {
    fn nothing() -> Self {
        Self {
            began: Instant::now(),
            checkpoint: None,
            log: FIRST_LOG,
            tables: BTreeMap::new(),
            versions: None,
            versions_at: None,
            error: Some("not asked yet".to_owned()),
        }
    }

    /// A number that is another one as soon as one of these tables of `analytics` may show other rows than before; `None` when
    /// that cannot be known. Where ClickHouse does not tell the versions of tables it is that of the checkpoint, which heartbeats move.
    pub(super) fn version_of(&self, tables: &[String]) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        let Some(versions) = &self.versions else {
            self.checkpoint.as_ref()?.position().hash(&mut hasher);
            return Some(hasher.finish());
        };
        for table in tables {
            // A view reads the mirror's table of its name, or an aggregate's result, whose builds are on record.
            let [shown, mirrored] = ["analytics", "mirror"].map(|base| versions.get(&(base.to_owned(), table.clone())));
            let builds = || versions.get(&("platform".to_owned(), "builds".to_owned()));
            (shown?, mirrored.or_else(builds)).hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    /// As `version_of`, of what decides which days of an aggregate are built.
    pub(super) fn version_of_builds(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        for table in ["builds", "dirty_buckets"] {
            self.versions.as_ref()?.get(&("platform".to_owned(), table.to_owned()))?.hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    /// Milliseconds from the newest applied commit to `now`; heartbeats keep it small while nothing else happens.
    pub(super) fn lag_ms(&self, now: DateTime<Utc>) -> Option<i64> {
        self.checkpoint.as_ref().map(|checkpoint| (now - checkpoint.committed_at).num_milliseconds().max(0))
    }
}

/// Reader of what the poller sees.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    seen: watch::Receiver<Arc<Seen>>,
    wanted: Arc<Notify>,
}

impl Replica {
    /// Starts the poller on the current runtime; it ends with `shutdown`.
    pub(super) fn start(clickhouse: ClickHouse, pipeline: String, shutdown: &Shutdown) -> Self {
        let (sender, seen) = watch::channel(Arc::new(Seen::nothing()));
        let wanted = Arc::new(Notify::new());
        let replica = Self { seen, wanted: Arc::clone(&wanted) };
        let stop = shutdown.token().clone();
        tokio::spawn(async move {
            let mut slow_part_at = None;
            loop {
                let before = Arc::clone(&sender.borrow());
                let next = look(&clickhouse, &pipeline, &before, &mut slow_part_at).await;
                if sender.send(Arc::new(next)).is_err() {
                    return;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(IDLE_PAUSE) => {}
                    () = wanted.notified() => tokio::time::sleep(BUSY_PAUSE).await,
                }
            }
        });
        replica
    }

    /// What was seen last, at most about a second ago.
    pub(super) fn last(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.borrow())
    }

    /// What is seen by a look that begins from now on.
    pub(super) async fn fresh(&self, deadline: Instant) -> Arc<Seen> {
        let since = Instant::now();
        let mut seen = self.seen.clone();
        self.wanted.notify_one();
        let waited = tokio::time::timeout_at(deadline, async {
            loop {
                let current = Arc::clone(&seen.borrow_and_update());
                if current.began >= since || seen.changed().await.is_err() {
                    return current;
                }
                // A look was already under way: ask for the one after it.
                self.wanted.notify_one();
            }
        });
        waited.await.unwrap_or_else(|_| self.last())
    }
}

async fn look(clickhouse: &ClickHouse, pipeline: &str, before: &Seen, slow_part_at: &mut Option<Instant>) -> Seen {
    let began = Instant::now();
    let mut seen = Seen { began, error: None, ..before.clone() };
    let result = async {
        let checkpoint = checkpoint::latest(clickhouse, pipeline).await?;
        // After the checkpoint, and never without it: what it says is applied must be in the versions, so that no answer from
        // before it is taken for one from after it.
        let position = |checkpoint: Option<&Checkpoint>| checkpoint.map(Checkpoint::position);
        let moved = position(checkpoint.as_ref()) != position(before.checkpoint.as_ref());
        if moved || before.versions_at.is_none_or(|at| at.elapsed() >= VERSIONS_GOOD_FOR) {
            seen.versions = versions(clickhouse).await?;
            seen.versions_at = Some(began);
        }
        seen.checkpoint = checkpoint;
        if slow_part_at.is_none_or(|at| at.elapsed() >= SLOW_PART) {
            seen.log = mirror::newest_log(clickhouse).await?.map_or(FIRST_LOG, |log| log.number);
            seen.tables = table_states(clickhouse).await?;
            *slow_part_at = Some(Instant::now());
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = result.await {
        seen.error = Some(error.to_string());
    }
    seen
}

/// `None` where the view is not there yet, or this user may not read it.
async fn versions(clickhouse: &ClickHouse) -> Result<Option<Arc<TableVersions>>, Error> {
    match table_versions::read(clickhouse).await {
        Ok(versions) => Ok(Some(Arc::new(versions))),
        Err(error) if matches!(error.code(), Some(60 | 497)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn table_states(clickhouse: &ClickHouse) -> Result<BTreeMap<String, TableState>, Error> {
    #[derive(Deserialize)]
    struct Row {
        table: String,
        state: String,
        reason: String,
        #[serde(with = "text")]
        snapshot_lsn: u64,
        #[serde(with = "text")]
        rows_loaded: u64,
        #[serde(with = "text")]
        parked: u64,
        changed_at: String,
    }
    let sql = "select table, state, reason, snapshot_lsn, rows_loaded, parked, changed_at from platform.tables final \
               left join (select table, count() as parked from platform.dead_letters final where state = 'parked' group by table) \
               as letters using table";
    let rows: Vec<Row> = clickhouse.fetch_all(sql, &[]).await?;
    let states = rows.into_iter().map(|row| {
        let state = TableState {
            state: row.state,
            reason: row.reason,
            snapshot: Lsn::new(row.snapshot_lsn),
            parked: row.parked,
            rows_loaded: row.rows_loaded,
            changed_at: parse_time(&row.changed_at)?,
        };
        Ok((row.table, state))
    });
    states.collect()
}
