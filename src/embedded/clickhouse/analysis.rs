//! What the engine says about a statement: its class before it runs, its counts after.

/// What a statement does to state that outlives it (`chdb_query_class` of chdb.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryClass {
    /// SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS, CHECK.
    Read,
    /// INSERT, CREATE, ALTER, DROP, TRUNCATE, RENAME, UPDATE, DELETE, OPTIMIZE; also functions and named collections.
    Write,
    /// USE, SET, ATTACH, DETACH, SYSTEM, BACKUP, KILL, INTO OUTFILE, INSERT INTO FUNCTION.
    Control,
    /// Did not parse, or this version does not class it.
    Unknown,
}

impl QueryClass {
    /// From the number of the C interface.
    pub(super) fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Read,
            1 | 2 => Self::Write,
            3 => Self::Control,
            _ => Self::Unknown,
        }
    }
}

/// The parser's report on a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Analysis {
    /// Statements in the text; 0 if it does not parse.
    pub(super) statements: u32,
    /// The most restricted class among them.
    pub(super) class: QueryClass,
}

/// Counts of one statement, for `X-ClickHouse-Summary`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Rows and bytes read from storage.
    pub(super) read_rows: u64,
    pub(super) read_bytes: u64,
    /// Rows and bytes written, materialized views included.
    pub(super) written_rows: u64,
    pub(super) written_bytes: u64,
    /// Rows and bytes (in memory) of the result.
    pub(super) result_rows: u64,
    pub(super) result_bytes: u64,
}

impl Statistics {
    /// Adds those of the next piece.
    pub(super) fn add(&mut self, other: Self) {
        self.read_rows += other.read_rows;
        self.read_bytes += other.read_bytes;
        self.written_rows += other.written_rows;
        self.written_bytes += other.written_bytes;
        self.result_rows += other.result_rows;
        self.result_bytes += other.result_bytes;
    }

    /// The header's value: a JSON object of numbers in strings, as ClickHouse writes it.
    pub(super) fn summary(&self, elapsed: std::time::Duration) -> String {
        format!(
            "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
             \"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\"result_bytes\":\"{}\",\"elapsed_ns\":\"{}\"}}",
            self.read_rows,
            self.read_bytes,
            self.written_rows,
            self.written_bytes,
            self.result_rows,
            self.result_bytes,
            elapsed.as_nanos()
        )
    }
}
