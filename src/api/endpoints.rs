//! Where analytics endpoints come from: the files compiled in, or a folder.

use std::path::Path;

use anyhow::Context as _;
use include_dir::{Dir, include_dir};

use crate::catalog::endpoint::Endpoint;
use crate::domain::Failure;

static COMPILED_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sql/endpoints");
const DAILY: &str = include_str!("../../sql/statistics/daily.sql");

/// The endpoints of `folder`, or those compiled in when it is empty; sorted by name.
///
/// # Errors
/// `Failure::Config` that names the file and the line of what is wrong.
pub fn load(folder: &str) -> anyhow::Result<Vec<Endpoint>> {
    files(folder)?
        .iter()
        .map(|(name, text)| Ok(Endpoint::parse(name, text).map_err(|error| Failure::Config(error.to_string()))?))
        .collect()
}

/// The names and texts of the files of `folder`, or of those compiled in when it is empty; sorted by name.
///
/// # Errors
/// `Failure::Config` for a folder that cannot be read or has no file.
pub fn files(folder: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = if folder.is_empty() { compiled_in()? } else { read_folder(Path::new(folder))? };
    files.sort();
    Ok(files)
}

/// The statement behind `/v1/stats/daily`.
///
/// # Errors
/// `Failure::Config`; a test keeps it from happening.
pub(super) fn daily() -> anyhow::Result<Endpoint> {
    Ok(Endpoint::parse("daily", DAILY).map_err(|error| Failure::Config(error.to_string()))?)
}

fn compiled_in() -> anyhow::Result<Vec<(String, String)>> {
    let files = COMPILED_IN.files().filter(|file| file.path().extension().is_some_and(|extension| extension == "sql"));
    files
        .map(|file| {
            let text = file.contents_utf8().with_context(|| format!("{} is not UTF-8", file.path().display()))?;
            Ok((stem(file.path()), text.to_owned()))
        })
        .collect()
}

fn read_folder(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let wrong = |what: &str| Failure::Config(format!("api.endpoints_dir {}: {what}", folder.display()));
    let entries = std::fs::read_dir(folder).map_err(|error| wrong(&error.to_string()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| wrong(&error.to_string()))?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let text =
                std::fs::read_to_string(&path).map_err(|error| wrong(&format!("{}: {error}", path.display())))?;
            files.push((stem(&path), text));
        }
    }
    if files.is_empty() {
        return Err(wrong("the folder has no .sql file").into());
    }
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_repository_are_compiled_in_and_right() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/endpoints");
        let on_disk = load(here.to_str().expect("UTF-8")).expect("right headers");
        assert_eq!(load("").expect("right headers"), on_disk, "a new file: rebuild after `touch src/api/endpoints.rs`");
        assert!(on_disk.iter().any(|endpoint| endpoint.name == "summary"));
        daily().expect("right header");
    }

    #[test]
    fn a_wrong_folder_is_a_configuration_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().to_str().expect("UTF-8");
        let exit_code = |result: anyhow::Result<Vec<Endpoint>>| Failure::exit_code_of(&result.expect_err("wrong"));
        assert_eq!(exit_code(load(name)), 78);
        std::fs::write(folder.path().join("x.sql"), "-- sumary: x\nselect 1").expect("written");
        let error = load(name).expect_err("wrong");
        assert!(format!("{error:#}").contains("x.sql, line 1"), "{error:#}");
        assert_eq!(exit_code(load("/nowhere/at/all")), 78);
    }
}
