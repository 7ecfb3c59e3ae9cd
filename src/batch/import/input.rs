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
/// Bytes that are looked at.
const BEGINNING: u64 = 64;
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
        let mut reader = decompressed(raw)?;
        let format = match source.format {
            Some(format) => format,
            None => {
                let (format, again) = sniffed(reader)?;
                reader = again;
                format.ok_or_else(|| unknown(source))?
            }
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
fn decompressed(raw: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let (first, raw) = beginning(raw)?;
    let raw = BufReader::with_capacity(BUFFER, raw);
    if first.starts_with(GZIP) {
        let gzip = flate2::bufread::MultiGzDecoder::new(raw);
        return Ok(Box::new(BufReader::with_capacity(BUFFER, gzip)));
    }
    let skipped = matches!(first.as_slice(), [0x50..=0x5f, rest @ ..] if rest.starts_with(ZSTD_SKIPPED));
    if first.starts_with(ZSTD) || skipped {
        let zstd = zstd::stream::read::Decoder::with_buffer(raw)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, zstd)));
    }
    Ok(Box::new(raw))
}

/// An object begins with a brace and a CSV header never does: no column's name has one. Also gives the reader again.
fn sniffed(reader: Box<dyn BufRead + Send>) -> io::Result<(Option<Format>, Box<dyn BufRead + Send>)> {
    let (first, reader) = beginning(reader)?;
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&first).trim_ascii_start();
    Ok((text.starts_with(b"{").then_some(Format::Ndjson), Box::new(BufReader::with_capacity(BUFFER, reader))))
}

/// The first bytes, and a reader that has them again: a pipe may give one at a time.
fn beginning<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    let mut first = Vec::new();
    reader.by_ref().take(BEGINNING).read_to_end(&mut first)?;
    Ok((first.clone(), io::Cursor::new(first).chain(reader)))
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
            let (told, mut reader) = sniffed(Box::new(text.as_bytes())).expect("readable");
            assert_eq!(told, format, "{text:?}");
            let mut all = String::new();
            reader.read_to_string(&mut all).expect("text");
            assert_eq!(all, text);
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
            let mut text = String::new();
            decompressed(io::Cursor::new(bytes)).expect("readable").read_to_string(&mut text).expect("text");
            assert_eq!(text, "text");
        }
    }
}
