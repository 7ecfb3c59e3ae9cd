//! What a comparison found, for machines and for people: keys of a few rows, never their values.

use serde::Serialize;

use super::settle::{Difference, Kind, texts};
use crate::catalog::Table;

/// Keys that are named of each kind.
const SAMPLES: usize = 5;

/// What `platform verify` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(super) job: &'static str,
    /// `equal`, `different`, `repaired`; `incomplete` when a table could not be compared.
    pub(super) status: &'static str,
    /// Position of the log that the mirror had passed when the comparison began.
    pub(super) lsn: String,
    pub(super) tables: Vec<Compared>,
    /// Tables that could not be compared, with the reason.
    pub(super) not_compared: Vec<NotCompared>,
    pub(super) duration_ms: u128,
}

impl Report {
    /// `equal`, `different`, `repaired` or `incomplete`.
    pub fn status(&self) -> &'static str {
        self.status
    }
}

/// One table.
#[derive(Debug, Default, Serialize)]
pub(super) struct Compared {
    pub(super) table: String,
    /// Rows that were compared.
    pub(super) rows_postgres: u64,
    pub(super) rows_clickhouse: u64,
    pub(super) missing: u64,
    pub(super) extra: u64,
    pub(super) different: u64,
    /// Rows that differ because they are parked in `platform.dead_letters`.
    pub(super) parked: u64,
    /// Keys that changed between every two looks, so that they could not be compared.
    pub(super) restless: u64,
    /// Rows that `--repair` has mended.
    pub(super) repaired: u64,
    /// Whether every row was compared; else the counts are those of a part that was enough to see that far too many differ.
    pub(super) complete: bool,
    /// Keys of a few rows of each kind, one text a key column.
    pub(super) samples: Samples,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Samples {
    missing: Vec<Vec<String>>,
    extra: Vec<Vec<String>>,
    different: Vec<Vec<String>>,
}

#[derive(Debug, Serialize)]
pub(super) struct NotCompared {
    pub(super) table: String,
    pub(super) reason: String,
}

impl Compared {
    /// Notes what differs without being parked.
    pub(super) fn note(&mut self, table: &Table, differences: &[Difference]) -> anyhow::Result<()> {
        for difference in differences {
            let (count, samples) = match difference.kind {
                Kind::Missing => (&mut self.missing, &mut self.samples.missing),
                Kind::Extra => (&mut self.extra, &mut self.samples.extra),
                Kind::Different => (&mut self.different, &mut self.samples.different),
            };
            *count += 1;
            if samples.len() < SAMPLES {
                samples.extend(texts(table, std::slice::from_ref(&difference.key))?);
            }
        }
        Ok(())
    }

    /// Rows that differ and nothing explains.
    pub(super) fn differing(&self) -> u64 {
        self.missing + self.extra + self.different
    }

    /// In a line for people.
    pub(super) fn said(&self) -> String {
        let named = |what: &str, count: u64, samples: &[Vec<String>]| {
            let keys: Vec<String> = samples.iter().map(|key| format!("({})", key.join(", "))).collect();
            (count > 0).then(|| format!("{count} {what}, among them {}", keys.join(" ")))
        };
        let Samples { missing, extra, different } = &self.samples;
        let kinds = [
            named("missing in ClickHouse", self.missing, missing),
            named("extra in ClickHouse", self.extra, extra),
            named("different", self.different, different),
        ];
        let kinds: Vec<String> = kinds.into_iter().flatten().collect();
        let least = if self.complete { "" } else { "at least " };
        let way_out = if self.complete { "" } else { "; a load mends it: platform load " };
        let name = if self.complete { "" } else { &self.table };
        format!("{}: {least}{}{way_out}{name}", self.table, kinds.join("; "))
    }
}

impl Report {
    /// Whether something differs that nothing explains.
    pub(super) fn differs(&self) -> bool {
        self.tables.iter().any(|table| table.differing() > 0)
    }
}
