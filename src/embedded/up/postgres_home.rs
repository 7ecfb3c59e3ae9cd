//! Where PostgreSQL's programs and data lie, so that the user who runs it can reach them.
//!
//! Usually that is `.engines` and `.platform/postgres`. Started by root in a folder that other users cannot enter, they
//! lie in a refuge instead; a link in the data folder remembers it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rand::RngExt as _;

use super::account::Account;
use super::console::say;
use super::data_dir::{DataDir, make_folder};
use crate::domain::Failure;

/// Folders for a refuge, the first that can be used. Both survive a restart of the machine.
const REFUGES: [&str; 2] = ["/var/lib/platform", "/var/tmp/platform"];
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Written last into a copy of the programs: what it is a copy of.
const COPY_STAMP: &str = ".copy-of";

/// Where PostgreSQL lives, and as whom.
#[derive(Debug, Clone)]
pub(super) struct PostgresHome {
    /// Folder of its data and its socket; belongs to `account`.
    pub(super) folder: PathBuf,
    /// Folder of its programs.
    pub(super) bin: PathBuf,
    /// The user it runs as, if that is not this one.
    pub(super) account: Option<Account>,
}

impl PostgresHome {
    /// Finds or makes a home; `bin` is the folder of the installed programs.
    ///
    /// # Errors
    /// `Failure::Config` when no folder can be reached by the user who must run it.
    pub(super) async fn settle(data_dir: &DataDir, bin: &Path) -> anyhow::Result<Self> {
        let link = data_dir.root().join("postgres");
        if link.is_symlink() && !link.exists() {
            let target = std::fs::read_link(&link).unwrap_or_default();
            return Err(Failure::Config(format!(
                "PostgreSQL's data were kept in {}, which is gone: restore it, or remove the link {} to begin anew",
                target.display(),
                link.display()
            ))
            .into());
        }
        let Some(account) = Account::for_postgres(&link.join("data"))? else {
            make_folder(&link, 0o700)?;
            return Ok(Self { folder: link, bin: bin.to_owned(), account: None });
        };
        let folder = reachable(&link, &account, Owner::Account).await?;
        let bin = if runs(&account, bin).await {
            bin.to_owned()
        } else {
            let copies = reachable(&data_dir.root().join("postgres-engine"), &account, Owner::Root).await?;
            copy_of_programs(bin, &copies, &account).await?
        };
        Ok(Self { folder, bin, account: Some(account) })
    }
}

/// Whom a folder belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Data: nobody else may read them.
    Account,
    /// Programs: everybody may read, nobody may change them.
    Root,
}

/// The folder at `link`, or the refuge that it leads to from now on.
async fn reachable(link: &Path, account: &Account, owner: Owner) -> anyhow::Result<PathBuf> {
    if !link.is_symlink() {
        make_owned(link, account, owner)?;
        if !can_enter(account, link).await {
            let refuge = make_refuge(link, account, owner).await?;
            // What lies there was reachable once: the folder was moved. Across file systems only a person can do that.
            std::fs::rename(link, &refuge)
                .with_context(|| {
                    Failure::Config(format!(
                        "user {} cannot enter {} any more: move its contents to {} and replace it by a link to there",
                        account.name,
                        link.display(),
                        refuge.display()
                    ))
                })
                .or_else(|error| if is_empty(link) { Ok(std::fs::remove_dir(link)?) } else { Err(error) })?;
            symlink(&refuge, link).with_context(|| format!("making the link {}", link.display()))?;
        }
    }
    let real = link.canonicalize().with_context(|| format!("finding {}", link.display()))?;
    if link.is_symlink() {
        say(format!(
            "platform: {} lies in {}, where user {} can reach it",
            base_name(link),
            real.display(),
            account.name
        ));
    }
    Ok(real)
}

fn make_owned(folder: &Path, account: &Account, owner: Owner) -> anyhow::Result<()> {
    match owner {
        Owner::Account => {
            make_folder(folder, 0o700)?;
            account.give(folder)
        }
        Owner::Root => make_folder(folder, 0o755),
    }
}

/// An empty folder outside, with a name of its own: a new platform never finds the data of one that was deleted.
async fn make_refuge(link: &Path, account: &Account, owner: Owner) -> anyhow::Result<PathBuf> {
    let id: [u8; 4] = rand::rng().random();
    let name = format!("{}-{}", base_name(link), hex::encode(id));
    for parent in REFUGES.map(Path::new) {
        let folder = parent.join(&name);
        let made = make_folder(parent, 0o755).and_then(|()| make_owned(&folder, account, owner));
        if made.is_ok() && can_enter(account, &folder).await {
            return Ok(folder);
        }
        drop(std::fs::remove_dir(&folder));
    }
    Err(Failure::Config(format!(
        "user {}, whom PostgreSQL runs as because root must not run it, can enter neither {} nor a folder in {}: \
         choose a folder that it can enter with --data-dir, or start the platform as another user",
        account.name,
        link.display(),
        REFUGES.join(" or ")
    ))
    .into())
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn base_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or("postgres")
}

/// Asks the system itself, by starting a process there as that user.
async fn can_enter(account: &Account, folder: &Path) -> bool {
    succeeds(account, "/bin/sh".as_ref(), &["-c", ":"], folder).await
}

async fn runs(account: &Account, bin: &Path) -> bool {
    succeeds(account, &bin.join("postgres"), &["--version"], Path::new("/")).await
        && succeeds(account, &bin.join("initdb"), &["--version"], Path::new("/")).await
}

async fn succeeds(account: &Account, program: &Path, arguments: &[&str], folder: &Path) -> bool {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).uid(account.uid).gid(account.gid).current_dir(folder).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = tokio::time::timeout(PROBE_TIMEOUT, command.status()).await;
    status.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}

/// Copies the installation around `bin` into `copies` unless it is there; returns the copy's `bin`.
async fn copy_of_programs(bin: &Path, copies: &Path, account: &Account) -> anyhow::Result<PathBuf> {
    let installation = bin.parent().context("PostgreSQL's programs lie in a folder")?;
    let metadata = bin.join("postgres").metadata().context("looking at PostgreSQL's program")?;
    let stamp = format!("{} {} {:?}\n", installation.display(), metadata.len(), metadata.modified().ok());
    let copy = copies.join("current");
    let copied_bin = copy.join(base_name(bin));
    if std::fs::read_to_string(copy.join(COPY_STAMP)).ok().as_deref() != Some(stamp.as_str()) {
        let new = copies.join("new");
        remove_folder(&new)?;
        let (from, to) = (installation.to_owned(), new.clone());
        tokio::task::spawn_blocking(move || copy_folder(&from, &to)).await.context("copying")??;
        std::fs::File::create(new.join(COPY_STAMP))
            .and_then(|mut file| file.write_all(stamp.as_bytes()))
            .context("finishing the copy of PostgreSQL's programs")?;
        remove_folder(&copy)?;
        std::fs::rename(&new, &copy).context("putting the copy of PostgreSQL's programs in place")?;
    }
    if runs(account, &copied_bin).await {
        return Ok(copied_bin);
    }
    Err(Failure::Config(format!(
        "user {} can run neither PostgreSQL's programs in {} nor their copy in {}: install the system's PostgreSQL \
         (apt-get install postgresql), remove .engines/postgres and run `make engines`",
        account.name,
        bin.display(),
        copied_bin.display()
    ))
    .into())
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Copies files, folders and links with their modes.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    make_folder(to, 0o755)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            std::fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_files_and_links() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir_all(from.join("lib")).expect("made");
        std::fs::write(from.join("lib/a.so.1"), "library").expect("written");
        symlink("a.so.1", from.join("lib/a.so")).expect("linked");
        copy_folder(&from, &to).expect("copied");
        assert_eq!(std::fs::read_to_string(to.join("lib/a.so")).expect("readable"), "library");
        assert_eq!(std::fs::read_link(to.join("lib/a.so")).expect("a link"), Path::new("a.so.1"));
    }
}
