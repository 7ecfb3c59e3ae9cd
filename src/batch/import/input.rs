//! Where records come from: files, compressed or not, and standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use crate::domain::Failure;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated values (RFC 4180), UTF-8, the first line names the columns.
    Csv,
}

/// One opened source of records.
pub struct Input {
    /// As the person wrote it; `stdin` for `-`.
    pub name: String,
    /// How its records are written.
    pub format: Format,
    /// Where its rejected records go: `NAME.rejected` unless the person said otherwise.
    pub rejected: PathBuf,
    pub(super) reader: Box<dyn BufRead + Send>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("name", &self.name).field("format", &self.format).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Input {
    /// Opens `path`, or standard input for `-`. `progress` counts the bytes read, compressed ones as they lie on disk.
    ///
    /// # Errors
    /// `Failure::Usage` when there is no such file or its name does not tell the format.
    pub fn open(path: &Path, format: Option<Format>, progress: &ProgressBar) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            let format = format.ok_or_else(|| Failure::Usage("standard input needs --format ndjson or csv".into()))?;
            let reader = Box::new(BufReader::with_capacity(BUFFER, progress.wrap_read(io::stdin())));
            return Ok(Self { name: "stdin".into(), format, rejected: "stdin.rejected".into(), reader });
        }
        let name = path.display().to_string();
        let (compression, named) = kind(path);
        let Some(format) = format.or(named) else {
            return Err(Failure::Usage(format!(
                "{name}: its name does not tell the format (.ndjson, .jsonl, .csv, also with .gz or .zst); say --format"
            )));
        };
        let file = File::open(path).map_err(|error| Failure::Usage(format!("{name} cannot be opened: {error}")))?;
        let metadata =
            file.metadata().map_err(|error| Failure::Usage(format!("{name} cannot be examined: {error}")))?;
        if metadata.is_dir() {
            return Err(Failure::Usage(format!("{name} is a folder; name the files in it")));
        }
        progress.inc_length(metadata.len());
        let plain = BufReader::with_capacity(BUFFER, progress.wrap_read(file));
        let reader = decompressed(plain, compression)
            .map_err(|error| Failure::Usage(format!("{name} cannot be opened: {error}")))?;
        let mut rejected = path.as_os_str().to_owned();
        rejected.push(".rejected");
        Ok(Self { name, format, rejected: rejected.into(), reader })
    }
}

const BUFFER: usize = 256 * 1024;

fn decompressed(reader: impl BufRead + Send + 'static, how: Compression) -> io::Result<Box<dyn BufRead + Send>> {
    fn buffered(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
        Box::new(BufReader::with_capacity(BUFFER, reader))
    }
    Ok(match how {
        Compression::None => Box::new(reader),
        Compression::Gzip => buffered(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => buffered(zstd::stream::read::Decoder::with_buffer(reader)?),
    })
}

/// What the name tells. `posts.ndjson.gz.rejected` is read like what it came from, but is never compressed.
fn kind(path: &Path) -> (Compression, Option<Format>) {
    let mut name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let rejected = name.ends_with(".rejected");
    while let Some(rest) = name.strip_suffix(".rejected") {
        name.truncate(rest.len());
    }
    let compression = if name.ends_with(".gz") {
        Compression::Gzip
    } else if name.ends_with(".zst") {
        Compression::Zstd
    } else {
        Compression::None
    };
    let inner = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    let format = match inner.rsplit_once('.').map(|(_, extension)| extension) {
        Some("ndjson" | "jsonl" | "json") => Some(Format::Ndjson),
        Some("csv") => Some(Format::Csv),
        _ => None,
    };
    (if rejected { Compression::None } else { compression }, format)
}
