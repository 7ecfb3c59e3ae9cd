//! Which files are read: those that are named, those of a folder, and standard input.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::input::Format;
use crate::domain::Failure;

/// One source of records, not opened yet.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the person wrote it; `stdin` for `-`.
    pub name: String,
    /// How its records are written, if the person or the name says so; else its first bytes do.
    pub format: Option<Format>,
    /// Where its rejected records go: `NAME.rejected` unless the person said otherwise.
    pub rejected: PathBuf,
    /// Size of the file; 0 for standard input.
    pub bytes: u64,
    /// None is standard input.
    pub path: Option<PathBuf>,
}

impl Source {
    /// The sources of `paths` in their order; a folder's files by name, those below its own folders left out.
    ///
    /// # Errors
    /// `Failure::Usage` when a file cannot be opened or a folder has none that can be imported.
    pub fn list(paths: &[PathBuf], format: Option<Format>) -> Result<Vec<Self>, Failure> {
        let mut sources = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                let (name, rejected) = ("stdin".into(), "stdin.rejected".into());
                sources.push(Self { name, format, rejected, bytes: 0, path: None });
            } else if path.is_dir() {
                sources.extend(folder(path, format)?);
            } else {
                sources.push(file(path, format)?);
            }
        }
        Ok(sources)
    }

    /// The file's own name in the whole system, by which an interrupted import finds it again.
    pub(super) fn identity(&self) -> Option<String> {
        let path = self.path.as_ref().filter(|path| path.is_file())?.canonicalize().ok()?;
        path.into_os_string().into_string().ok()
    }
}

fn trouble(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be opened: {error}", path.display()))
}

fn file(path: &Path, format: Option<Format>) -> Result<Source, Failure> {
    // A pipe is opened once only: its writer would take the second opening for the end.
    let metadata = path.metadata().map_err(|error| trouble(path, &error))?;
    if metadata.is_file() {
        File::open(path).map_err(|error| trouble(path, &error))?;
    }
    let mut rejected = path.as_os_str().to_owned();
    rejected.push(".rejected");
    Ok(Source {
        name: path.display().to_string(),
        format: format.or_else(|| Format::of_name(path)),
        rejected: rejected.into(),
        bytes: metadata.len(),
        path: Some(path.to_owned()),
    })
}

fn folder(path: &Path, format: Option<Format>) -> Result<Vec<Source>, Failure> {
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<PathBuf> =
        entries.map_err(|error| trouble(path, &error))?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file() && is_data(file) && (format.is_some() || Format::of_name(file).is_some()));
    files.sort();
    if files.is_empty() {
        let text = format!(
            "{} has no file that can be imported (.ndjson, .jsonl, .csv, also with .gz or .zst)",
            path.display()
        );
        return Err(Failure::Usage(text));
    }
    files.iter().map(|path| file(path, format)).collect()
}

/// Hidden files and what imports left behind are not data of a folder; named by themselves they are.
fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && !name.ends_with(".rejected") && !name.ends_with(".reasons")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_data_by_name_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.csv", "a.ndjson.gz", "a.ndjson.gz.rejected", "x.reasons", ".c.csv", "notes.txt"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        std::fs::create_dir(folder.path().join("below.csv")).expect("made");
        let names = |format| -> Vec<String> {
            let sources = Source::list(&[folder.path().to_owned()], format).expect("files");
            let name = |source: &Source| {
                source.path.as_ref().and_then(|path| path.file_name()).map(|name| name.to_os_string())
            };
            sources.iter().filter_map(name).filter_map(|name| name.into_string().ok()).collect()
        };
        assert_eq!(names(None), ["a.ndjson.gz", "b.csv"]);
        assert_eq!(names(Some(Format::Csv)), ["a.ndjson.gz", "b.csv", "notes.txt"]);
        let empty = tempfile::tempdir().expect("a folder");
        assert!(Source::list(&[empty.path().to_owned()], None).is_err());
    }
}
