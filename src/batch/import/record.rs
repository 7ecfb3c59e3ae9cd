//! Records cut out of a stream of bytes, verbatim, in bounded memory.

use std::io::{self, BufRead};

/// Bytes that one record may have. With REPLICA IDENTITY FULL a change event holds a row twice, and Kafka takes
/// messages of 64 MiB.
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What `read` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A record; its bytes are in the `Record`.
    Whole,
    /// A record above the limit; its bytes went to the `overflow`.
    TooLong,
    /// Nothing more.
    End,
}

/// Takes the bytes of a record that is too long, piece by piece.
pub(super) type Overflow<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// The bytes of one record as they stand in the file, and the line it begins in.
#[derive(Debug)]
pub(super) struct Record {
    /// Line of the record's first byte, from 1.
    pub line: u64,
    raw: Vec<u8>,
    too_long: bool,
    limit: usize,
    lines_before: u64,
    newlines: u64,
}

impl Record {
    /// An empty one for records of up to `limit` bytes.
    pub(super) fn with_limit(limit: usize) -> Self {
        Self { line: 1, raw: Vec::new(), too_long: false, limit, lines_before: 0, newlines: 0 }
    }

    /// As if everything up to here had been read; `lines` line ends were.
    pub(super) fn go_on_after(&mut self, lines: u64) {
        self.begin();
        self.lines_before = lines;
    }

    /// Line ends read so far.
    pub(super) fn lines(&self) -> u64 {
        self.lines_before + self.newlines
    }

    /// The record without line ends around it.
    pub(super) fn raw(&self) -> &[u8] {
        let start = self.raw.iter().position(|byte| !is_line_end(*byte)).unwrap_or(self.raw.len());
        let end = self.raw.iter().rposition(|byte| !is_line_end(*byte)).map_or(start, |last| last + 1);
        self.raw.get(start..end).unwrap_or_default()
    }

    pub(super) fn begin(&mut self) {
        self.lines_before += self.newlines;
        self.newlines = 0;
        self.raw.clear();
        self.too_long = false;
    }

    pub(super) fn take(&mut self, piece: &[u8], overflow: Overflow<'_>) -> io::Result<()> {
        self.newlines += u64::try_from(piece.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX);
        if !self.too_long && self.raw.len() + piece.len() > self.limit {
            self.too_long = true;
            self.set_line();
            let start = self.raw.iter().position(|byte| !is_line_end(*byte)).unwrap_or(self.raw.len());
            overflow(self.raw.get(start..).unwrap_or_default())?;
            self.raw = Vec::new();
        }
        if self.too_long {
            return overflow(piece);
        }
        self.raw.extend_from_slice(piece);
        Ok(())
    }

    pub(super) fn end(&mut self) -> Next {
        if self.too_long {
            return Next::TooLong;
        }
        self.set_line();
        Next::Whole
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Bytes taken since `begin`, line ends included.
    pub(super) fn taken(&self) -> &[u8] {
        &self.raw
    }

    fn set_line(&mut self) {
        // CSV takes the line ends after a record only with the next one. An empty line is a record of its own.
        let start = self.raw.iter().position(|byte| !is_line_end(*byte)).unwrap_or(0);
        let leading = self.raw.iter().take(start).filter(|byte| **byte == b'\n').count();
        self.line = self.lines_before + u64::try_from(leading).unwrap_or(u64::MAX) + 1;
    }
}

fn is_line_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// Reads up to the next line end. Empty lines are records too; the caller skips them.
///
/// # Errors
/// Those of `input` and `overflow`.
pub(super) fn read_line(input: &mut dyn BufRead, record: &mut Record, overflow: Overflow<'_>) -> io::Result<Next> {
    record.begin();
    let mut any = false;
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok(if any { record.end() } else { Next::End });
        }
        any = true;
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let used = newline.map_or(buffer.len(), |at| at + 1);
        record.take(buffer.get(..used).unwrap_or_default(), overflow)?;
        input.consume(used);
        if newline.is_some() {
            return Ok(record.end());
        }
    }
}

/// Drops the byte order mark that some programs put before UTF-8.
///
/// # Errors
/// Those of `input`.
pub(super) fn skip_byte_order_mark(input: &mut dyn BufRead) -> io::Result<()> {
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn long_lines_pass_through_whole_and_the_next_one_is_found() {
        let mut input: &[u8] = b"\n12\n123456789\nab\r\n";
        let mut record = Record::with_limit(4);
        let mut long = Vec::new();
        let mut seen = Vec::new();
        loop {
            let next = read_line(&mut input, &mut record, &mut |piece| long.write_all(piece));
            match next.expect("readable") {
                Next::End => break,
                next => seen.push((record.line, next, String::from_utf8_lossy(record.raw()).into_owned())),
            }
        }
        let whole = |line, text: &str| (line, Next::Whole, text.to_owned());
        assert_eq!(seen, [whole(1, ""), whole(2, "12"), (3, Next::TooLong, String::new()), whole(4, "ab")]);
        assert_eq!(long, b"123456789\n");
    }
}
