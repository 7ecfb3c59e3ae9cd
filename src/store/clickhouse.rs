//! ClickHouse over HTTP by its official crate: statements, typed reads, Native inserts, and what its errors mean.

use std::time::Duration;

use bytes::Bytes;
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;

use super::buffers::Buffers;
use crate::config;
use crate::domain::Failure;

/// Blocks whose memory is kept for the next ones, and the largest.
const BLOCKS_KEPT: usize = 2;
const BLOCK_BYTES: usize = 128 << 20;

/// A client with limits. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct ClickHouse {
    client: clickhouse::Client,
    timeout: Duration,
    url: String,
    /// Memory of blocks on their way.
    buffers: Buffers,
}

impl std::fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClickHouse").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An error of ClickHouse, with the number that decides what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ClickHouse said `Code: N`.
    #[error("ClickHouse: {text}")]
    Server {
        /// ClickHouse's error code; `reference`: `system.errors`, `src/Common/ErrorCodes.cpp`.
        code: u32,
        /// Its text, cut to 1 KiB.
        text: String,
    },
    /// No answer within the limit; whether an insert took effect is unknown.
    #[error("ClickHouse did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection failed; whether an insert took effect is unknown.
    #[error("ClickHouse is not reachable: {0}")]
    Network(String),
    /// The answer is not what was asked for.
    #[error("ClickHouse's answer cannot be read: {0}")]
    Unreadable(String),
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wait and repeat the same request: the network, a limit, memory, parts, disk.
    Retry,
    /// Repeating cannot help: the statement, the schema, the data, the rights.
    Permanent,
}

impl Error {
    /// The server's error code, if it gave one.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Server { code, .. } => Some(*code),
            Self::TimedOut(_) | Self::Network(_) | Self::Unreadable(_) => None,
        }
    }

    /// Sorted by code: a list of what waiting can mend; an unknown code is permanent.
    pub fn class(&self) -> Class {
        match self {
            Self::TimedOut(_) | Self::Network(_) => Class::Retry,
            Self::Unreadable(_) => Class::Permanent,
            // 3 unexpected end of file, 107/159/160 timeouts, 164/242 read-only, 202/203 too many queries, 209/210 network,
            // 236 aborted, 241 memory, 243 disk, 252 parts, 285/319/425/999 replicas and keeper, 394 cancelled.
            Self::Server { code, .. } => match code {
                3 | 107 | 159 | 160 | 164 | 202 | 203 | 209 | 210 | 236 | 241 | 242 | 243 | 252 | 285 | 319 | 394
                | 425 | 999 => Class::Retry,
                _ => Class::Permanent,
            },
        }
    }

    fn from_driver(error: clickhouse::error::Error, timeout: Duration) -> Self {
        use clickhouse::error::Error as Driver;
        match error {
            Driver::BadResponse(text) => Self::from_text(text),
            Driver::TimedOut => Self::TimedOut(timeout),
            Driver::Network(source) => Self::Network(super::postgres::chain(source.as_ref())),
            other => Self::Unreadable(super::postgres::chain(&other)),
        }
    }

    fn from_text(mut text: String) -> Self {
        let code = text
            .split_once("Code: ")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        let mut end = text.len().min(1024);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        match code {
            Some(code) => Self::Server { code, text },
            // A proxy's page, or a server that is starting: not ClickHouse's own word.
            None => Self::Network(text),
        }
    }
}

/// Adds `Failure::Unavailable` to an error that comes from a ClickHouse that may answer later, unless the error says already
/// how the job ends.
pub fn or_unavailable(error: anyhow::Error) -> anyhow::Error {
    let judged = error.downcast_ref::<Failure>().is_some() || error.chain().any(|cause| cause.is::<Failure>());
    let found = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let transient = found.is_some_and(|error| error.class() == Class::Retry);
    if transient && !judged { error.context(Failure::Unavailable("ClickHouse failed".into())) } else { error }
}

/// A value bound to a `{name:Type}` of a statement. Never pasted into SQL.
pub type Parameter<'a> = (&'a str, &'a str);

impl ClickHouse {
    /// Connects lazily: an error shows at the first request.
    ///
    /// # Errors
    /// `Failure::Config` when the URL is missing.
    pub fn new(settings: &config::ClickHouse) -> anyhow::Result<Self> {
        let url = config::required(&settings.url, "clickhouse.url", "PLATFORM__CLICKHOUSE__URL")?;
        let mut client = clickhouse::Client::default().with_url(url).with_user(&settings.user);
        if !settings.password.expose_secret().is_empty() {
            client = client.with_password(settings.password.expose_secret());
        }
        let compression =
            if settings.compress_inserts { clickhouse::Compression::Lz4 } else { clickhouse::Compression::None };
        let client = client.with_compression(compression);
        Ok(Self {
            client,
            timeout: Duration::from_millis(settings.timeout_ms),
            url: url.to_owned(),
            buffers: Buffers::new(BLOCKS_KEPT, BLOCK_BYTES),
        })
    }

    /// The same server with another limit a request.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Runs one statement that returns nothing.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<(), Error> {
        let query = self.query(sql, parameters).with_setting("wait_end_of_query", "1");
        // Boxed, here and below: callers join several statements.
        self.limited(Box::pin(query.execute())).await
    }

    /// Runs a SELECT and reads each row into `T` by the names of its columns (`FORMAT JSONEachRow`; 64-bit and larger
    /// integers and decimals come as JSON strings, so that nothing passes through a float).
    ///
    /// # Errors
    /// See `Error`.
    pub async fn fetch_all<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<T>, Error> {
        let bytes = self.fetch_bytes(sql, parameters, "JSONEachRow").await?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|error| Error::Unreadable(error.to_string()))).collect()
    }

    /// As `fetch_all`, for at most one row.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn fetch_optional<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<T>, Error> {
        Ok(self.fetch_all(sql, parameters).await?.into_iter().next())
    }

    /// Runs a SELECT and returns its answer in `format`, whole: for answers that are known to be small.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn fetch_bytes(&self, sql: &str, parameters: &[Parameter<'_>], format: &str) -> Result<Bytes, Error> {
        let query = self
            .query(sql, parameters)
            .with_setting("wait_end_of_query", "1")
            // Its two threads cost a small answer 0.7 ms of CPU.
            .with_setting("output_format_parallel_formatting", "0")
            .with_setting("output_format_json_quote_64bit_integers", "1")
            .with_setting("output_format_json_quote_decimals", "1");
        let timeout = self.timeout;
        let fetch = async {
            let mut cursor = query.fetch_bytes(format)?;
            cursor.collect().await
        };
        tokio::time::timeout(timeout, Box::pin(fetch))
            .await
            .map_err(|_| Error::TimedOut(timeout))?
            .map_err(|error| Error::from_driver(error, timeout))
    }

    /// Runs a SELECT with parameters that may be NULL and with settings over those of `fetch_bytes`, and returns its
    /// answer in `format`, whole.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn select(
        &self,
        sql: &str,
        parameters: &[(&str, Option<&str>)],
        format: &str,
        settings: &[(&str, &str)],
    ) -> Result<Bytes, Error> {
        let mut query = self.query(sql, &[]).with_setting("wait_end_of_query", "1");
        for (name, value) in parameters {
            query = query.param(name, value);
        }
        for (name, value) in settings {
            query = query.with_setting(*name, *value);
        }
        let fetch = async {
            let mut cursor = query.fetch_bytes(format)?;
            cursor.collect().await
        };
        self.limited(fetch).await
    }

    /// Memory for blocks that are to be inserted.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Inserts blocks in the `Native` format into `table` (quoted by the caller) and waits until they are stored.
    ///
    /// # Errors
    /// See `Error`. After `TimedOut` and `Network` the outcome is unknown: repeat the same block.
    pub async fn insert_native(
        &self,
        table: &str,
        columns: &[&str],
        blocks: Bytes,
        settings: &[(&str, &str)],
    ) -> Result<(), Error> {
        let mut insert = self.begin_insert(table, columns, settings);
        insert.send(blocks).await?;
        failpoint!("insert.sent");
        insert.end().await
    }

    /// Begins an INSERT that takes block after block in the `Native` format and stores them as few parts. Nothing is sent
    /// before the first block.
    pub fn begin_insert(&self, table: &str, columns: &[&str], settings: &[(&str, &str)]) -> NativeInsert {
        let columns: Vec<String> = columns.iter().map(|column| crate::domain::quote_clickhouse(column)).collect();
        let sql = format!("INSERT INTO {table} ({}) FORMAT Native", columns.join(", "));
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            .with_timeouts(Some(self.timeout), Some(self.timeout))
            .with_setting("wait_end_of_query", "1")
            .with_setting("async_insert", "0");
        for (name, value) in settings {
            insert = insert.with_setting(*name, *value);
        }
        NativeInsert { insert, timeout: self.timeout }
    }

    fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> clickhouse::query::Query {
        // `query_raw`: no `?` of ours is a placeholder.
        let mut query = self.client.query_raw(sql);
        for (name, value) in parameters {
            query = query.param(name, value);
        }
        query.with_setting("max_execution_time", self.timeout.as_secs().max(1).to_string())
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, clickhouse::error::Error>>) -> Result<T, Error> {
        limit(self.timeout + Duration::from_millis(500), work).await
    }
}

/// An INSERT under way. Dropped before its end it stores nothing, or a part of its blocks: rows that may be repeated.
pub struct NativeInsert {
    insert: clickhouse::insert_formatted::InsertFormatted,
    timeout: Duration,
}

impl NativeInsert {
    /// Sends whole blocks; waits while ClickHouse is behind.
    ///
    /// # Errors
    /// See `Error`; the INSERT is lost.
    pub async fn send(&mut self, blocks: Bytes) -> Result<(), Error> {
        limit(self.timeout, self.insert.send(blocks)).await
    }

    /// Waits until everything is stored.
    ///
    /// # Errors
    /// See `Error`. After `TimedOut` and `Network` the outcome is unknown: repeat the same blocks.
    pub async fn end(self) -> Result<(), Error> {
        limit(self.timeout, self.insert.end()).await
    }
}

impl std::fmt::Debug for NativeInsert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeInsert").finish_non_exhaustive()
    }
}

async fn limit<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, clickhouse::error::Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::TimedOut(limit))?
        .map_err(|error| Error::from_driver(error, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_out_of_the_text() {
        let error = Error::from_text("Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS)".into());
        assert_eq!((error.code(), error.class()), (Some(252), Class::Retry));
        let error = Error::from_text("Code: 60. DB::Exception: Table mirror.x does not exist".into());
        assert_eq!((error.code(), error.class()), (Some(60), Class::Permanent));
        assert_eq!(Error::from_text("<html>502</html>".into()).class(), Class::Retry);
        assert!(Error::from_text("é".repeat(2000)).to_string().len() < 1100);
    }
}
