//! The engine of this process: one folder, one library, connections that are opened, pooled and killed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

use super::engine_ffi::{Chdb, Connection};
use super::exception::Exception;
use super::profile::Profile;
use super::settings::{self, EngineSettings};
use crate::domain::Failure;

/// Version of the library whose C interface `engine_ffi` was written for.
const LIBRARY_VERSION: &str = "26.7.3";

/// The running engine.
#[derive(Debug)]
pub(super) struct Engine {
    chdb: Chdb,
    arguments: Vec<String>,
    /// Clean connections that may be used again by a request of the same profile; the oldest first.
    idle: Mutex<Vec<(Profile, String, Connection)>>,
    idle_max: usize,
    /// One connection stays open for ever: with the last one the engine would stop.
    keeper: Mutex<Option<Connection>>,
    opened: AtomicU64,
    version: String,
    memory_mb_max: u64,
    /// Released by the operating system however the process ends.
    _lock: Flock<File>,
}

impl Engine {
    /// Loads the library and opens the folder. Blocks for up to a second.
    ///
    /// # Errors
    /// `Failure::Config` for a processor or library that will not do, `Failure::Busy` if another process has the folder,
    /// `Failure::Unavailable` if the engine does not open it.
    pub(super) fn open(library: &Path, folder: &Path, settings: &EngineSettings) -> anyhow::Result<Arc<Self>> {
        require_processor(processor_can_run())?;
        if !library.is_file() {
            return Err(Failure::Config(format!(
                "ClickHouse's engine is not at {}: run `make engines`, or name the file with --engine",
                library.display()
            ))
            .into());
        }
        let folder = make_folder(folder)?;
        let lock = lock(&folder)?;
        let config = settings::write(&folder, settings)?;
        let chdb = Chdb::load(library).with_context(|| {
            Failure::Config(format!("{} cannot be loaded; `make engines` installs it anew", library.display()))
        })?;
        anyhow::ensure!(
            chdb.version() == LIBRARY_VERSION,
            Failure::Config(format!(
                "{} is version {:?}, this program needs {LIBRARY_VERSION}: run `make engines`",
                library.display(),
                chdb.version()
            ))
        );
        let data = folder.join("data");
        let arguments = vec![argument("path", &data)?, argument("config-file", &config)?];
        let mut keeper = chdb.connect(&arguments).ok_or_else(|| {
            Failure::Unavailable(format!(
                "ClickHouse's engine does not open {}; its reason is in the lines above",
                data.display()
            ))
        })?;
        let answer = keeper.query(b"SELECT version()", "TSV", &[]).map_err(anyhow::Error::msg)?;
        let version = String::from_utf8_lossy(answer.bytes()).trim().to_owned();
        drop(answer);
        Ok(Arc::new(Self {
            chdb,
            arguments,
            idle: Mutex::default(),
            idle_max: settings.concurrency_max,
            keeper: Mutex::new(Some(keeper)),
            opened: AtomicU64::new(0),
            version,
            memory_mb_max: settings.memory_mb_max,
            _lock: lock,
        }))
    }

    /// ClickHouse's version, for instance `26.7.2.1`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Limits of an answer in a format that cannot be streamed. The engine holds the formatted text several times over
    /// while it grows (211 MB of JSON were seen to take 1.3 GB), and text is longer than the values it shows.
    pub(super) fn unstreamed_limits(&self, format: &str) -> [(&'static str, u64); 2] {
        let memory = self.memory_mb_max << 20;
        let compact =
            ["arrow", "arrowstream", "parquet", "orc", "avro"].contains(&format.to_ascii_lowercase().as_str());
        let (bytes, rows) = if compact { (memory / 8, memory / 64) } else { (memory / 32, memory / 512) };
        [("max_result_bytes", bytes), ("max_result_rows", rows)]
    }

    /// A connection whose session is exactly `profile`: a used one of the same profile, or a new one.
    ///
    /// # Errors
    /// The engine's, for instance for a database or a setting that it does not know.
    pub(super) fn lease(self: &Arc<Self>, profile: Profile) -> Result<Lease, Exception> {
        let used = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.iter().rposition(|(of, _, _)| *of == profile).map(|at| idle.remove(at))
        };
        let (tag, connection) = match used {
            Some((_, tag, connection)) => (tag, connection),
            None => self.connect(&profile)?,
        };
        Ok(Lease { engine: Arc::clone(self), profile, tag, connection })
    }

    fn connect(&self, profile: &Profile) -> Result<(String, Connection), Exception> {
        // The tag finds the connection's running statement again: `log_comment` is the one free text among the settings.
        let tag = format!("platform-{};", self.opened.fetch_add(1, Ordering::Relaxed));
        let mut arguments = self.arguments.clone();
        arguments.extend(profile.arguments());
        arguments.push(format!("--log_comment={tag}"));
        let refused = || Exception::from_engine("the engine opens no connection: is it stopping?".into());
        let mut connection = self.chdb.connect(&arguments).ok_or_else(refused)?;
        for statement in profile.statements(&tag)? {
            connection.query(statement.as_bytes(), "Null", &[]).map_err(Exception::from_engine)?;
        }
        Ok((tag, connection))
    }

    /// Asks the engine to end the statement of a lease. Does not wait for it.
    pub(super) fn kill(&self, tag: &str) {
        let Some(mut connection) = self.chdb.connect(&self.arguments) else { return };
        let parameters = [("tag".to_owned(), tag.to_owned())];
        let sql = b"KILL QUERY WHERE startsWith(Settings['log_comment'], {tag:String}) ASYNC";
        if let Err(error) = connection.query(sql, "Null", &parameters) {
            tracing::warn!(%error, "a statement could not be cancelled");
        }
    }

    /// Ends whatever still runs, for the end of the process.
    pub(super) fn kill_all(&self) {
        self.kill("platform-");
    }

    /// Closes the connections and stops the engine's threads. The library declines as soon as it has opened a MergeTree
    /// table; then its threads end with the process, which loses nothing that was acknowledged.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        let stopped = self.chdb.shutdown();
        tracing::debug!(stopped, "the engine is closed");
    }
}

/// A connection for one statement. Dropped, it is closed: only `give_back` lets it be used again.
#[derive(Debug)]
pub(super) struct Lease {
    engine: Arc<Engine>,
    profile: Profile,
    tag: String,
    connection: Connection,
}

impl Lease {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What `Engine::kill` takes.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns a connection whose statement ended well and was not killed.
    pub(super) fn give_back(self) {
        let evicted = {
            let mut idle = self.engine.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let evicted = (idle.len() >= self.engine.idle_max && !idle.is_empty()).then(|| idle.remove(0));
            idle.push((self.profile, self.tag, self.connection));
            evicted
        };
        drop(evicted);
    }
}

fn argument(name: &str, path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| {
        Failure::Config(format!("{} is not UTF-8: ClickHouse's engine needs a path that is", path.display()))
    })?;
    Ok(format!("--{name}={text}"))
}

/// The library is compiled for x86-64-v3.
fn processor_can_run() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // The packages for other processors ask for nothing beyond their baseline.
        true
    }
}

fn require_processor(can_run: bool) -> Result<(), Failure> {
    if can_run {
        return Ok(());
    }
    Err(Failure::Config(
        "this processor has no AVX2, BMI2 and FMA, which ClickHouse's engine (libchdb) is compiled for; it would die of an \
         illegal instruction. Use a ClickHouse server instead and set PLATFORM__CLICKHOUSE__URL"
            .into(),
    ))
}

/// Makes the folder. Returns its absolute path: the engine takes relative ones from several places.
fn make_folder(folder: &Path) -> anyhow::Result<PathBuf> {
    let unusable = || {
        Failure::Config(format!("the data folder {} cannot be made; name another with --data-dir", folder.display()))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(unusable)?;
    folder.canonicalize().with_context(unusable)
}

/// Takes the folder for this process. The lock file holds the owner's process id.
fn lock(folder: &Path) -> anyhow::Result<Flock<File>> {
    let path: PathBuf = folder.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| Failure::Config(format!("{} cannot be opened", path.display())))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, _)) => {
            let mut owner = String::new();
            drop(file.read_to_string(&mut owner));
            let owner =
                owner.trim().parse::<u32>().map_or_else(|_| "another process".into(), |id| format!("process {id}"));
            return Err(Failure::Busy(format!(
                "{} is in use by {owner}: only one process at a time can have ClickHouse's engine on a folder. Stop it, \
                 use its HTTP port, or name another folder with --data-dir",
                folder.display()
            ))
            .into());
        }
    };
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_processor_is_refused_before_the_library_is_loaded() {
        let refused = require_processor(false).expect_err("refused");
        assert!(refused.to_string().contains("AVX2"));
        assert_eq!(refused.exit_code(), 78);
        assert_eq!(require_processor(true), Ok(()));
    }

    #[test]
    fn a_folder_has_one_owner_who_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = lock(folder.path()).expect("free");
        let second = lock(folder.path()).expect_err("taken");
        assert_eq!(Failure::exit_code_of(&second), 75);
        let text = format!("{second:#}");
        assert!(text.contains(&std::process::id().to_string()) && text.contains("--data-dir"), "{text}");
        drop(first);
        lock(folder.path()).expect("free again");
    }
}
