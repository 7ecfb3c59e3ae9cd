//! The platform's folder: where each thing lies in it, and who may use it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::domain::Failure;

/// A log that is longer than this when its service starts is put aside as `NAME.log.1`.
const LOG_BYTES_MAX: u64 = 50 * 1024 * 1024;

/// The folder of everything that `platform up` keeps; absolute.
#[derive(Debug, Clone)]
pub(super) struct DataDir {
    root: PathBuf,
}

/// Held while a `platform up` uses the folder.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl DataDir {
    /// Makes the folder if need be. Others may enter it, because PostgreSQL runs as another user when root starts it;
    /// what is secret in it is closed by itself.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("finding {}", path.display()))?;
        make_folder(&path, 0o755)?;
        let root = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
        let data_dir = Self { root };
        make_folder(&data_dir.run(), 0o755)?;
        make_folder(&data_dir.logs(), 0o755)?;
        Ok(data_dir)
    }

    /// Takes the folder for this process, until the lock is dropped or the process ends in whatever way.
    ///
    /// # Errors
    /// `Failure::Busy` that names the process which has it.
    pub(super) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.root.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let mut holder = String::new();
        file.read_to_string(&mut holder).unwrap_or_default();
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                let holder = holder.trim();
                return Err(Failure::Busy(format!(
                    "another `platform up` (process {holder}) runs on {}: stop it with Ctrl-C or `kill {holder}`, \
                     or give this one its own folder and ports: --data-dir DIR --postgres-port 0 …",
                    self.root.display()
                ))
                .into());
            }
            Err((_, error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
        };
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).context("writing the lock file")?;
        Ok(Lock { _file: file })
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Pid files.
    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The services' own logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of the service or job `name`.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The pid file of the service or job `name`.
    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    /// Makes the folder of a part, for this user alone.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn part(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        make_folder(&path, 0o700)?;
        Ok(path)
    }

    /// Puts logs aside that have grown long. Call before anything that writes them is started.
    ///
    /// # Errors
    /// The folder cannot be read or a file not renamed.
    pub(super) fn rotate_logs(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.logs()).context("reading the folder of logs")? {
            let path = entry?.path();
            let is_log = path.extension().is_some_and(|extension| extension == "log");
            if is_log && path.metadata()?.len() > LOG_BYTES_MAX {
                std::fs::rename(&path, path.with_extension("log.1"))
                    .with_context(|| format!("putting {} aside", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Makes a folder with `mode`, whatever the umask; one that exists keeps its mode.
///
/// # Errors
/// The folder cannot be made.
pub(super) fn make_folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(path).with_context(|| format!("making {}", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| format!("opening {}", path.display()))
}

/// Writes a file that only this user may read, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        if let Err(error) = std::fs::remove_file(&new)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = DataDir::open(&folder.path().join("a/b")).expect("made");
        let lock = data_dir.lock().expect("free");
        let refused = data_dir.lock().expect_err("held").to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(lock);
        data_dir.lock().expect("free again");
    }

    #[test]
    fn only_long_logs_are_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = DataDir::open(folder.path()).expect("made");
        File::create(data_dir.log("long")).and_then(|file| file.set_len(LOG_BYTES_MAX + 1)).expect("written");
        std::fs::write(data_dir.log("short"), "text").expect("written");
        data_dir.rotate_logs().expect("rotated");
        assert!(!data_dir.log("long").exists() && data_dir.logs().join("long.log.1").exists());
        assert!(data_dir.log("short").exists());
    }

    #[test]
    fn a_private_file_is_private_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        write_private(&path, "one").expect("written");
        write_private(&path, "two").expect("written again");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "two");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
    }
}
