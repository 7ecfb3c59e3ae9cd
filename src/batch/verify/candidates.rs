//! The keys that seem to differ: sums of buckets first, then the rows of the buckets whose sums differ.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;

use super::Fence;
use super::fingerprint::{Buckets, Fingerprint, bucket_of};
use super::mirror_rows::MirrorRows;
use super::source::{Held, Visit, scan};
use crate::catalog::Table;

/// What a first look found.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) rows_postgres: u64,
    pub(super) rows_clickhouse: u64,
    /// Keys that differed, or changed between the looks at the two sides.
    pub(super) keys: Vec<Vec<u8>>,
    /// Whether these are all.
    pub(super) complete: bool,
}

/// Looks at both sides whole.
pub(super) async fn find(
    fence: &Fence<'_>,
    mirror: &MirrorRows<'_>,
    table: &Table,
    progress: &ProgressBar,
) -> anyhow::Result<Candidates> {
    let buckets = Arc::new(Buckets::new());
    let held = Held::open(fence.settings, table).await?;
    let visit: Arc<Visit<'static>> = {
        let buckets = Arc::clone(&buckets);
        Arc::new(move |key, row| buckets.add(key, row.unwrap_or_else(Fingerprint::unstorable)))
    };
    let (scanned, sums) = tokio::join!(scan(fence.settings, table, &held, visit, progress), mirror.sums());
    scanned?;
    held.close().await?;
    let (sums, rows_clickhouse) = sums?;
    let (differing, rows_postgres) = buckets.differing(&sums);
    drop((buckets, sums));
    let mut rows = 0;
    let chosen: Vec<u32> = differing
        .iter()
        .take_while(|(_, more)| {
            rows += more;
            rows <= fence.settings.verify.candidate_rows_max
        })
        .map(|(bucket, _)| *bucket)
        .collect();
    let complete = chosen.len() == differing.len();
    let keys = if chosen.is_empty() { Vec::new() } else { keys_of(fence, mirror, table, chosen, progress).await? };
    Ok(Candidates { rows_postgres, rows_clickhouse, keys, complete })
}

/// Keys of `buckets`, sorted, whose rows are not the same on both sides.
async fn keys_of(
    fence: &Fence<'_>,
    mirror: &MirrorRows<'_>,
    table: &Table,
    buckets: Vec<u32>,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let ours: Arc<Mutex<HashMap<Vec<u8>, Option<Fingerprint>>>> = Arc::default();
    let held = Held::open(fence.settings, table).await?;
    let (ours_too, ours_of) = (Arc::clone(&ours), buckets.clone());
    let visit: Arc<Visit<'static>> = Arc::new(move |key, row| {
        if buckets.binary_search(&bucket_of(key)).is_ok() {
            ours_too.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_vec(), row);
        }
    });
    let (scanned, theirs) =
        tokio::join!(scan(fence.settings, table, &held, visit, progress), mirror.of_buckets(&ours_of));
    scanned?;
    held.close().await?;
    let mut ours = std::mem::take(&mut *ours.lock().unwrap_or_else(PoisonError::into_inner));
    let mut keys = Vec::new();
    for (key, row) in theirs? {
        if ours.remove(&key) != Some(Some(row)) {
            keys.push(key);
        }
    }
    keys.extend(ours.into_keys());
    keys.sort();
    Ok(keys)
}
