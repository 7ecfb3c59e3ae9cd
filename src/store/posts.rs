//! Bulk writes into `public.sentiment_social`: COPY straight into the table, or into a staging table and merged from there.

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyInSink};

use super::postgres::{self, chain};
use crate::config;
use crate::domain::{Failure, quote_postgres};

const TABLE: &str = "public.sentiment_social";
const STAGING: &str = "pg_temp.sentiment_social_staging";
/// A statement sends its rows in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

/// What happens to a post whose (platform, post_id) exists already, in the table or earlier in the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// The existing post stays as it is.
    Skip,
    /// The new one replaces it, unless they are equal: then nothing is written.
    Update,
    /// The merge fails.
    Error,
}

/// What a merge did; rows beyond these two changed nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Posts that were new.
    pub inserted: u64,
    /// Posts that existed and differed.
    pub updated: u64,
}

/// Why rows did not go in.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// PostgreSQL does not take a value; the text has its message without the value.
    #[error("{0}")]
    Data(String),
    /// A post exists already; the number is its place in the rows, if it is known.
    #[error("a post with this platform and post_id exists already")]
    Exists(Option<usize>),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// One connection that writes posts, in transactions that the caller begins and commits.
#[derive(Debug)]
pub struct PostWriter {
    pub(super) client: Client,
    columns: String,
    update: String,
}

impl PostWriter {
    /// Connects and makes the staging table, which lives as long as the connection. `columns` are those of the rows of
    /// the binary COPY format that the other functions take.
    ///
    /// # Errors
    /// Those of `postgres::connect`; `Failure::Config` when the table does not exist or the role may not write it.
    pub async fn connect(settings: &config::Postgres, application: &str, columns: &[&str]) -> anyhow::Result<Self> {
        let client = postgres::connect(settings, application).await?;
        let quoted = |prefix: &str, columns: &[&str]| -> String {
            let quoted: Vec<String> = columns.iter().map(|name| format!("{prefix}{}", quote_postgres(name))).collect();
            quoted.join(", ")
        };
        let all = quoted("", columns);
        let sql = format!(
            "set statement_timeout = 0; set client_min_messages = warning; \
             create temp table sentiment_social_staging as select {all} from {TABLE} with no data; \
             alter table {STAGING} add seq bigint generated always as identity (cache 1000)"
        );
        client.batch_execute(&sql).await.map_err(|error| setup_failure(&error))?;
        let others: Vec<&str> =
            columns.iter().copied().filter(|name| !matches!(*name, "platform" | "post_id")).collect();
        let assignments: Vec<String> =
            others.iter().map(|name| format!("{0} = excluded.{0}", quote_postgres(name))).collect();
        // jsonb calls 1.0 and 1.00 equal; as texts they differ, and the new one is kept.
        let exact = |prefix: &str| quoted(prefix, &others).replace("\"raw\"", "\"raw\"::text");
        let update = format!(
            "do update set {} where ({}) is distinct from ({})",
            assignments.join(", "),
            exact("t."),
            exact("excluded.")
        );
        Ok(Self { client, columns: all, update })
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn begin(&self) -> anyhow::Result<()> {
        self.run("begin").await
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The connection broke: whether it was committed is unknown, and repeating the rows is safe.
    pub async fn commit(&self) -> anyhow::Result<()> {
        self.run("commit").await
    }

    /// Commits without waiting for the disk: a crash of the server may lose it and those after it, never one before it.
    /// Replication sees it when it is on the disk. `flush` makes all of them durable.
    ///
    /// # Errors
    /// See `commit`.
    pub async fn commit_soon(&self) -> anyhow::Result<()> {
        self.run("set local synchronous_commit = off; commit").await
    }

    /// Returns when everything that was committed is on the disk.
    ///
    /// # Errors
    /// The connection broke: whether it is there is unknown.
    pub async fn flush(&self) -> anyhow::Result<()> {
        // A transaction with a number waits for its own record of the log, and so for all before it.
        self.run("select pg_current_xact_id()").await
    }

    /// Merges rows through the staging table, inside the transaction. After an error the transaction is as it was before.
    ///
    /// # Errors
    /// See `WriteError`.
    pub async fn merge(&self, rows: &Bytes, on_conflict: OnConflict) -> Result<Merged, WriteError> {
        self.within_savepoint(async {
            self.run(&format!("truncate {STAGING} restart identity")).await?;
            self.copy(STAGING, rows).await?;
            self.merge_staging(on_conflict).await
        })
        .await
    }

    /// Copies rows straight into the table, inside the transaction: for rows that are known to be new. After an error
    /// the transaction is as it was before.
    ///
    /// # Errors
    /// See `WriteError`; `Exists` when one was not new.
    pub async fn insert(&self, rows: &Bytes) -> Result<u64, WriteError> {
        self.within_savepoint(self.copy(TABLE, rows)).await
    }

    /// How many posts of the half-open range of times have a `post_id` in the half-open range of ids, in byte order.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn count(
        &self,
        times: std::ops::Range<chrono::DateTime<chrono::Utc>>,
        ids: std::ops::Range<&str>,
    ) -> anyhow::Result<u64> {
        let sql = format!(
            "select count(*) from {TABLE} where posted_at >= $1 and posted_at < $2 \
             and post_id collate \"C\" >= $3 and post_id collate \"C\" < $4"
        );
        let row = self
            .client
            .query_one(&sql, &[&times.start, &times.end, &ids.start, &ids.end])
            .await
            .map_err(|error| other(&error))?;
        let count: i64 = row.try_get(0)?;
        Ok(count.unsigned_abs())
    }

    async fn within_savepoint<T>(&self, work: impl Future<Output = Result<T, WriteError>>) -> Result<T, WriteError> {
        self.run("savepoint rows").await?;
        let outcome = work.await;
        match &outcome {
            Ok(_) => self.run("release savepoint rows").await?,
            Err(WriteError::Data(_) | WriteError::Exists(_)) => {
                self.run("rollback to savepoint rows; release savepoint rows").await?;
            }
            Err(WriteError::Other(_)) => {}
        }
        outcome
    }

    async fn copy(&self, table: &str, rows: &Bytes) -> Result<u64, WriteError> {
        let sql = format!("copy {table} ({}) from stdin (format binary)", self.columns);
        let sink: CopyInSink<Bytes> = self.client.copy_in(&sql).await.map_err(|error| write_error(&error))?;
        let mut sink = Box::pin(sink);
        let mut head = BytesMut::with_capacity(19);
        head.put_slice(b"PGCOPY\n\xff\r\n\0");
        head.put_i32(0);
        head.put_i32(0);
        let mut rest = rows.clone();
        let mut piece = head.freeze();
        let sent = loop {
            if let Err(error) = sink.feed(piece).await {
                break Err(error);
            }
            if rest.is_empty() {
                break sink.feed(Bytes::from_static(&[0xff, 0xff])).await;
            }
            piece = rest.split_to(rest.len().min(PIECE_BYTES));
        };
        // A refused value ends the stream early; `finish` has the reason.
        let finished = sink.as_mut().finish().await;
        match (sent, finished) {
            (Ok(()), Ok(rows)) => Ok(rows),
            (_, Err(error)) | (Err(error), Ok(_)) => Err(write_error(&error)),
        }
    }

    async fn merge_staging(&self, on_conflict: OnConflict) -> Result<Merged, WriteError> {
        let columns = &self.columns;
        match on_conflict {
            OnConflict::Skip => {
                let sql = format!(
                    "insert into {TABLE} ({columns}) select {columns} from {STAGING} order by seq \
                     on conflict (platform, post_id) do nothing"
                );
                let inserted = self.client.execute(&sql, &[]).await.map_err(|error| write_error(&error))?;
                Ok(Merged { inserted, updated: 0 })
            }
            OnConflict::Update => {
                // `xmax` is 0 only in a row version that this statement inserted.
                let sql = format!(
                    "with merged as (insert into {TABLE} as t ({columns}) select {columns} from \
                     (select distinct on (platform, post_id) * from {STAGING} order by platform, post_id, seq desc) last \
                     order by seq on conflict (platform, post_id) {} returning (t.xmax = 0) as inserted) \
                     select count(*) filter (where inserted), count(*) filter (where not inserted) from merged",
                    self.update
                );
                let row = self.client.query_one(&sql, &[]).await.map_err(|error| write_error(&error))?;
                let number = |at: usize| row.try_get::<_, i64>(at).map(i64::unsigned_abs).context("reading a count");
                Ok(Merged { inserted: number(0)?, updated: number(1)? })
            }
            OnConflict::Error => {
                self.refuse_existing().await?;
                let sql = format!("insert into {TABLE} ({columns}) select {columns} from {STAGING} order by seq");
                let inserted = self.client.execute(&sql, &[]).await.map_err(|error| write_error(&error))?;
                Ok(Merged { inserted, updated: 0 })
            }
        }
    }

    async fn refuse_existing(&self) -> Result<(), WriteError> {
        let sql = format!(
            "select min(seq) from (select seq from {STAGING} s where exists (select from {TABLE} t \
             where t.platform = s.platform and t.post_id = s.post_id) union all select seq from \
             (select seq, row_number() over (partition by platform, post_id order by seq) as n from {STAGING}) d \
             where n > 1) x"
        );
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| write_error(&error))?;
        let first: Option<i64> = row.try_get(0).context("reading a sequence number")?;
        match first {
            None => Ok(()),
            Some(seq) => Err(WriteError::Exists(usize::try_from(seq - 1).ok())),
        }
    }

    async fn run(&self, sql: &str) -> anyhow::Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| other(&error))
    }
}

pub(super) fn setup_failure(error: &tokio_postgres::Error) -> anyhow::Error {
    match error.code() {
        Some(code) if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_COLUMN => {
            Failure::Config(format!("PostgreSQL has no {TABLE} as this program knows it; run `platform migrate`"))
                .into()
        }
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            Failure::Config(format!("the role of postgres.url may not write {TABLE}: {}", chain(error))).into()
        }
        _ => other(error),
    }
}

/// 22 data exception, 23 integrity constraint, 54 a limit such as the size of an index row: the value's fault.
fn write_error(error: &tokio_postgres::Error) -> WriteError {
    let Some(db) = error.as_db_error() else { return WriteError::Other(other(error)) };
    if *db.code() == SqlState::UNIQUE_VIOLATION && db.constraint() == Some("sentiment_social_platform_post_id_key") {
        return WriteError::Exists(None);
    }
    match db.code().code().get(..2) {
        // The message alone: details and contexts repeat the row.
        Some("22" | "23" | "54") => {
            WriteError::Data(format!("PostgreSQL refuses it: {} ({})", db.message(), db.code().code()))
        }
        _ => WriteError::Other(other(error)),
    }
}

pub(super) fn other(error: &tokio_postgres::Error) -> anyhow::Error {
    let text = format!("writing posts: {}", chain(error));
    if postgres::is_transient(error) { Failure::Unavailable(text).into() } else { anyhow::Error::msg(text) }
}
