//! The programs of others that `platform up` runs: where they lie, and what to do when one is missing.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::jvm::Jvm;
use crate::domain::Failure;

/// Java's package, as the engines' installer names it.
const JAVA_PACKAGE: &str = "openjdk-17-jre-headless";

/// The folder that `make engines` fills; absolute.
#[derive(Debug, Clone)]
pub(super) struct Engines {
    root: PathBuf,
    java: Option<PathBuf>,
}

impl Engines {
    /// Looks at `root`, and for Java in `JAVA_HOME` and `PATH`.
    ///
    /// # Errors
    /// `Failure::Config` when the folder is not there.
    pub(super) fn find(root: &Path) -> anyhow::Result<Self> {
        let root = root.canonicalize().with_context(|| missing("the engines are", root))?;
        // Java takes a colon for the end of a folder in its class path, Connect a comma in its list of plugins.
        if root.display().to_string().contains([':', ',']) {
            let text = format!("the path {} has a colon or a comma, which Java cannot take", root.display());
            return Err(Failure::Config(text).into());
        }
        let environment = crate::config::environment();
        let homes = environment.get("JAVA_HOME").map(|home| Path::new(home).join("bin")).into_iter();
        let folders = std::env::split_paths(environment.get("PATH").map_or("", String::as_str)).collect::<Vec<_>>();
        let java = homes.chain(folders).map(|folder| folder.join("java")).find(|path| path.is_file());
        Ok(Self { root, java })
    }

    /// PostgreSQL's programs, as the real folder, which may be reachable for others where a link to it is not.
    ///
    /// # Errors
    /// `Failure::Config` when they are missing.
    pub(super) fn postgres(&self) -> anyhow::Result<PathBuf> {
        let bin = self.need("postgres/bin/postgres", "PostgreSQL is")?;
        self.need("postgres/bin/initdb", "PostgreSQL is")?;
        let bin = bin.parent().context("a program lies in a folder")?;
        bin.canonicalize().with_context(|| format!("finding {}", bin.display()))
    }

    /// Java for the jars of the broker, `broker`, or of the Connect worker, `connect`.
    ///
    /// # Errors
    /// `Failure::Config` when one of the two is missing.
    pub(super) fn jvm(&self, part: &str) -> anyhow::Result<Jvm> {
        let what = if part == "connect" { "Kafka Connect is" } else { "Kafka is" };
        let jars = self.need(&format!("kafka/{part}"), what)?;
        // Missing where Java could not make one.
        let classes = Some(self.root.join(format!("kafka/classes/{part}.jsa"))).filter(|path| path.is_file());
        Ok(Jvm { java: self.java()?, jars, classes })
    }

    /// The folder of Connect's plugins, with Debezium in it.
    ///
    /// # Errors
    /// `Failure::Config` when it is missing.
    pub(super) fn plugins(&self) -> anyhow::Result<PathBuf> {
        self.need("kafka/plugins/debezium-connector-postgres", "Debezium is")?;
        self.need("kafka/plugins", "Debezium is")
    }

    /// ClickHouse's library.
    ///
    /// # Errors
    /// `Failure::Config` when it is missing.
    pub(super) fn chdb(&self) -> anyhow::Result<PathBuf> {
        self.need("chdb/libchdb.so", "ClickHouse's engine is")
    }

    /// The Java that runs Kafka and Connect.
    ///
    /// # Errors
    /// `Failure::Config` that names the package which brings it.
    fn java(&self) -> anyhow::Result<PathBuf> {
        let missing = || {
            Failure::Config(format!("Kafka needs Java 17 or newer, and there is none: apt-get install {JAVA_PACKAGE}"))
        };
        Ok(self.java.clone().ok_or_else(missing)?)
    }

    fn need(&self, inside: &str, what: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(inside);
        if path.exists() { Ok(path) } else { Err(missing(what, &path).into()) }
    }
}

fn missing(what: &str, path: &Path) -> Failure {
    Failure::Config(format!("{what} not installed ({} is missing): run `make engines`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let none = Engines::find(&folder.path().join("none")).expect_err("no folder").to_string();
        let engines = Engines::find(folder.path()).expect("an empty folder");
        let broker = engines.jvm("broker").expect_err("no jars").to_string();
        assert!(none.contains("make engines") && broker.contains("Kafka") && broker.contains("make engines"));
        let without_java = Engines { java: None, ..engines }.java().expect_err("no Java").to_string();
        assert!(without_java.contains(JAVA_PACKAGE), "{without_java}");
    }
}
