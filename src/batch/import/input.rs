//! An opened source: its bytes, decompressed by what its first bytes say, and how its records are written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use indicatif::ProgressBar;

use super::prefix::Prefix;
use super::source::Source;
use crate::domain::Failure;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated values (RFC 4180), UTF-8, the first line names the columns.
    Csv,
}

impl Format {
    /// What a file's name tells. `posts.csv.gz.rejected` is read like what it came from.
    pub(super) fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let mut inner = name.as_str();
        while let Some(rest) = inner.strip_suffix(".rejected") {
            inner = rest;
        }
        let inner = inner.strip_suffix(".gz").or_else(|| inner.strip_suffix(".zst")).unwrap_or(inner);
        match inner.rsplit_once('.').map(|(_, extension)| extension) {
            Some("ndjson" | "jsonl" | "json") => Some(Self::Ndjson),
            Some("csv") => Some(Self::Csv),
            _ => None,
        }
    }
}

/// What records are read from.
pub(super) struct Input {
    /// How they are written.
    pub(super) format: Format,
    /// Their bytes, decompressed.
    pub(super) reader: Prefix<Box<dyn BufRead + Send>>,
}

const BUFFER: usize = 256 * 1024;
/// The first bytes of gzip (RFC 1952, 2.3.1) and of zstd, whose file may begin with a frame to be skipped (RFC 8878, 3.1).
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const ZSTD_SKIPPED: &[u8] = b"\x2a\x4d\x18";

impl Input {
    /// Opens `source`. `progress` counts the bytes read, compressed ones as they lie on disk; `hashed` makes the position
    /// one that can be found again.
    ///
    /// # Errors
    /// `Failure::Usage` when it cannot be opened or nothing tells the format; an `io::Error` when it cannot be read.
    pub(super) fn open(source: &Source, progress: &ProgressBar, hashed: bool) -> anyhow::Result<Self> {
        let raw: Box<dyn Read + Send> = match &source.path {
            None => Box::new(progress.wrap_read(io::stdin())),
            Some(path) => {
                let opened = File::open(path)
                    .map_err(|error| Failure::Usage(format!("{} cannot be opened: {error}", source.name)))?;
                Box::new(progress.wrap_read(opened))
            }
        };
        let mut reader = decompressed(BufReader::with_capacity(BUFFER, raw))?;
        let format = match source.format {
            Some(format) => format,
            None => sniffed(&mut reader)?.ok_or_else(|| unknown(source))?,
        };
        Ok(Self { format, reader: Prefix::new(reader, hashed) })
    }
}

fn unknown(source: &Source) -> Failure {
    Failure::Usage(match source.path {
        None => "standard input needs --format ndjson or csv".into(),
        Some(_) => format!(
            "{}: neither its name (.ndjson, .jsonl, .csv, also with .gz or .zst) nor its beginning tells the format; \
             say --format",
            source.name
        ),
    })
}

/// By its first bytes, whatever the name says. Decompressing needs the window of the format alone: 32 KiB for gzip, for
/// zstd at most the 128 MiB that its library allows.
fn decompressed(mut reader: BufReader<Box<dyn Read + Send>>) -> io::Result<Box<dyn BufRead + Send>> {
    let first = first_bytes(&mut reader)?;
    if first.starts_with(GZIP) {
        let gzip = flate2::bufread::MultiGzDecoder::new(reader);
        return Ok(Box::new(BufReader::with_capacity(BUFFER, gzip)));
    }
    let skipped = first.get(1..).is_some_and(|rest| rest.starts_with(ZSTD_SKIPPED))
        && first.first().is_some_and(|byte| byte >> 4 == 5);
    if first.starts_with(ZSTD) || skipped {
        let zstd = zstd::stream::read::Decoder::with_buffer(reader)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, zstd)));
    }
    Ok(Box::new(reader))
}

/// What is in the buffer; a pipe may give a byte at a time, and then a compressed stream is not recognised from it.
fn first_bytes(reader: &mut impl BufRead) -> io::Result<&[u8]> {
    loop {
        match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return reader.fill_buf(),
        }
    }
}

/// An object begins with a brace and a CSV header never does: no column's name has one.
fn sniffed(reader: &mut impl BufRead) -> io::Result<Option<Format>> {
    let first = first_bytes(reader)?;
    let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    Ok(first.starts_with(b"{").then_some(Format::Ndjson))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_beginnings_tell_the_format() {
        for (name, format) in [
            ("a/b.ndjson", Some(Format::Ndjson)),
            ("b.JSONL.GZ", Some(Format::Ndjson)),
            ("x.csv.zst", Some(Format::Csv)),
            ("x.csv.gz.rejected.rejected", Some(Format::Csv)),
            ("x.parquet", None),
            ("csv", None),
        ] {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
        }
        for (text, format) in [("\u{feff}\n {\"", Some(Format::Ndjson)), ("platform,", None), ("", None), ("[{", None)]
        {
            assert_eq!(sniffed(&mut text.as_bytes()).expect("readable"), format, "{text:?}");
        }
    }

    #[test]
    fn compression_is_told_by_content() {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"text").expect("compressed");
        let zstd = zstd::encode_all(&b"text"[..], 1).expect("compressed");
        let skipped = [b"\x51\x2a\x4d\x18\x02\0\0\0xx".as_slice(), &zstd].concat();
        for bytes in [gzip.finish().expect("compressed"), zstd, skipped, b"text".to_vec()] {
            let raw: Box<dyn Read + Send> = Box::new(io::Cursor::new(bytes));
            let mut text = String::new();
            decompressed(BufReader::new(raw)).expect("readable").read_to_string(&mut text).expect("text");
            assert_eq!(text, "text");
        }
    }
}
