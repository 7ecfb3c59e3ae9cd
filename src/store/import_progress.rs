//! How far imports have read their files: `platform.imports`.

use anyhow::Context as _;

use super::posts::{PostWriter, other, setup_failure};

/// A file that an import has read in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The file's absolute path.
    pub input: String,
    /// Decompressed bytes that are dealt with.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// Records in them.
    pub records: u64,
    /// Line ends in them.
    pub lines: u64,
    /// Length of the file of rejected records, in bytes.
    pub rejects_bytes: u64,
    /// Length of the file of reasons, in bytes.
    pub reasons_bytes: u64,
}

/// A file that nobody went on with for so many days is begun anew.
const DAYS_KEPT: i32 = 30;

impl PostWriter {
    /// What is known of `inputs` from imports with the same `options`.
    ///
    /// # Errors
    /// `Failure::Config` when the table is not there.
    pub async fn progress(&self, options: &str, inputs: &[String]) -> anyhow::Result<Vec<Progress>> {
        let old = "delete from platform.imports where updated_at < now() - make_interval(days => $1)";
        self.client.execute(old, &[&DAYS_KEPT]).await.map_err(|error| setup_failure(&error))?;
        let sql = "select input, bytes, sha256, records, lines, rejects_bytes, reasons_bytes from platform.imports \
                   where options = $1 and input = any($2)";
        let rows = self.client.query(sql, &[&options, &inputs]).await.map_err(|error| other(&error))?;
        rows.iter()
            .map(|row| {
                let number = |at: usize| row.try_get::<_, i64>(at).map(i64::unsigned_abs);
                let sha256: Vec<u8> = row.try_get(2)?;
                Ok(Progress {
                    input: row.try_get(0)?,
                    bytes: number(1)?,
                    sha256: sha256.try_into().ok().context("a SHA-256 has 32 bytes")?,
                    records: number(3)?,
                    lines: number(4)?,
                    rejects_bytes: number(5)?,
                    reasons_bytes: number(6)?,
                })
            })
            .collect()
    }

    /// Keeps how far a file was read, inside the transaction of its rows.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn keep_progress(&self, options: &str, progress: &Progress) -> anyhow::Result<()> {
        let Progress { input, bytes, sha256, records, lines, rejects_bytes, reasons_bytes } = progress;
        let sql = "insert into platform.imports (input, options, bytes, sha256, records, lines, rejects_bytes, reasons_bytes) \
                   values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (input, options) do update set bytes = excluded.bytes, \
                   sha256 = excluded.sha256, records = excluded.records, lines = excluded.lines, \
                   rejects_bytes = excluded.rejects_bytes, reasons_bytes = excluded.reasons_bytes, updated_at = now()";
        let number = |number: &u64| i64::try_from(*number).context("a number of 63 bits");
        let numbers =
            (number(bytes)?, number(records)?, number(lines)?, number(rejects_bytes)?, number(reasons_bytes)?);
        let kept = self
            .client
            .execute(
                sql,
                &[input, &options, &numbers.0, &sha256.as_slice(), &numbers.1, &numbers.2, &numbers.3, &numbers.4],
            )
            .await;
        kept.map(drop).map_err(|error| other(&error))
    }

    /// Forgets a file that was read to its end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn forget_progress(&self, options: &str, input: &str) -> anyhow::Result<()> {
        let sql = "delete from platform.imports where options = $1 and input = $2";
        self.client.execute(sql, &[&options, &input]).await.map(drop).map_err(|error| other(&error))
    }
}
