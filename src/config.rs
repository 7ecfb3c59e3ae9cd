//! Settings: the compiled-in defaults, a file, the environment. The only reader of the environment.
//!
//! `config/default.toml` is the documentation of every key. Validation that needs several keys, or that only one command
//! needs, happens where the value is used, so that `platform etl` does not ask for a broker.

mod sections;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use config::{Environment, File, FileFormat};

use crate::domain::Failure;
pub use sections::*;

const DEFAULTS: &str = include_str!("../config/default.toml");
const PREFIX: &str = "PLATFORM__";

/// Settings, and where they came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// `.platform/env`, if it was read: said once at the start.
    pub platform_env: Option<PathBuf>,
}

impl Settings {
    /// Loads from `file`, else from the file that `PLATFORM_CONFIG` names, and the environment of this process.
    ///
    /// # Errors
    /// `Failure::Config` that names the key and its source.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Loaded> {
        let environment = environment();
        let file = file.map(Path::to_path_buf).or_else(|| environment.get("PLATFORM_CONFIG").map(PathBuf::from));
        let platform_env = Path::new(".platform/env");
        let below = (file.is_none() && platform_env.is_file()).then(|| platform_env.to_path_buf());
        let mut variables = match &below {
            Some(path) => read_env_file(path)?,
            None => BTreeMap::new(),
        };
        // A value in the environment also replaces a `_FILE` from below, and the other way round.
        for (key, value) in environment {
            let twin = key.strip_suffix("_FILE").map_or_else(|| format!("{key}_FILE"), str::to_owned);
            variables.remove(&twin);
            variables.insert(key, value);
        }
        let settings =
            build(file.as_deref(), variables).map_err(|error| Failure::Config(format!("configuration: {error:#}")))?;
        Ok(Loaded { settings, platform_env: below })
    }

    /// The defaults with `overrides` (`section.key`) over them; for tests and for `platform up`.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong kind.
    pub fn from_overrides<'a>(overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> anyhow::Result<Self> {
        let variables = overrides
            .into_iter()
            .map(|(key, value)| (format!("{PREFIX}{}", key.replace('.', "__").to_uppercase()), value.to_owned()));
        build(None, variables.collect())
    }
}

/// This process's environment: the only place that reads it. Values that are not UTF-8 are left out.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// `KEY=VALUE` lines, as `platform up` writes them. A value may stand in single quotes, as a shell wants it.
///
/// # Errors
/// The file cannot be read or a line has no `=`.
pub fn read_env_file(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (key, value) =
                line.split_once('=').with_context(|| format!("{}: a line without '='", path.display()))?;
            let value = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value);
            Ok((key.trim_start_matches("export ").to_owned(), value.to_owned()))
        })
        .collect()
}

fn build(file: Option<&Path>, variables: BTreeMap<String, String>) -> anyhow::Result<Settings> {
    let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let source = secrets_from_files(variables)?.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let environment = Environment::with_prefix("PLATFORM").prefix_separator("__").separator("__").source(Some(source));
    let settings = builder.add_source(environment).build()?.try_deserialize()?;
    Ok(settings)
}

/// Replaces `PLATFORM__A__B_FILE=path` by `PLATFORM__A__B=contents`, without the final newline.
fn secrets_from_files(
    variables: BTreeMap<String, String>,
) -> anyhow::Result<std::collections::HashMap<String, String>> {
    let ours = variables.into_iter().filter(|(key, _)| key.starts_with(PREFIX));
    ours.map(|(key, value)| match key.strip_suffix("_FILE") {
        Some(target) => {
            let text = std::fs::read_to_string(&value).with_context(|| format!("reading the file that {key} names"))?;
            Ok((target.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        None => Ok((key, value)),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn defaults_are_complete_and_overrides_win() {
        let settings = Settings::from_overrides([
            ("postgres.url", "postgres://a@b/c"),
            ("sink.batch_rows_max", "7"),
            ("postgres.api_password", "007"),
        ])
        .expect("valid");
        assert_eq!(settings.sink.batch_rows_max, 7);
        assert_eq!(settings.postgres.api_password.expose_secret(), "007", "a password of digits stays a text");
        assert_eq!(settings.api.bind, "127.0.0.1:8000");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = Settings::from_overrides([("sink.batch_rows", "7")]).expect_err("unknown");
        assert!(format!("{error:#}").contains("batch_rows"), "{error:#}");
    }

    #[test]
    fn secrets_come_from_files_and_never_print() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("url");
        std::fs::write(&path, "postgres://u:secret@h/d\n").expect("written");
        let variables = BTreeMap::from([("PLATFORM__POSTGRES__URL_FILE".to_owned(), path.display().to_string())]);
        let settings = build(None, variables).expect("valid");
        assert_eq!(settings.postgres.url.expose_secret(), "postgres://u:secret@h/d");
        assert!(!format!("{settings:?}").contains("secret@"));
    }

    #[test]
    fn env_files_take_quoted_values() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("env");
        std::fs::write(&path, "# comment\nA='x=y'\nexport B=2\n\n").expect("written");
        let read = read_env_file(&path).expect("valid");
        assert_eq!(read, BTreeMap::from([("A".to_owned(), "x=y".to_owned()), ("B".to_owned(), "2".to_owned())]));
    }
}
