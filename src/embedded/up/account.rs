//! The unprivileged user that PostgreSQL runs as when root starts the platform: PostgreSQL refuses to run as root.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::{Uid, User, geteuid};

use crate::domain::Failure;

/// Users to run as, the first that exists: Debian's PostgreSQL packages make the first, every system has the second.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// Login name.
    pub(super) name: String,
    /// User number.
    pub(super) uid: u32,
    /// Number of the user's group.
    pub(super) gid: u32,
}

impl Account {
    /// Whom PostgreSQL must run as: nobody else than this user, unless this user is root. Data that exist stay with
    /// their owner.
    ///
    /// # Errors
    /// `Failure::Config` when root starts the platform and no other user is known.
    pub(super) fn for_postgres(data: &Path) -> anyhow::Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let owner = data.metadata().ok().map(|metadata| metadata.uid()).filter(|uid| *uid != 0);
        if let Some(uid) = owner {
            let user = User::from_uid(Uid::from_raw(uid)).context("asking for the owner of PostgreSQL's data")?;
            return user.map(|user| Some(Self::from(user))).with_context(|| {
                Failure::Config(format!("PostgreSQL's data in {} belong to the unknown user {uid}", data.display()))
            });
        }
        for name in CANDIDATES {
            if let Some(user) = User::from_name(name).context("asking for a user")? {
                return Ok(Some(Self::from(user)));
            }
        }
        Err(Failure::Config(format!(
            "PostgreSQL refuses to run as root, and there is no user named {}: make one with `useradd --system postgres`",
            CANDIDATES.join(" or ")
        ))
        .into())
    }

    /// Gives a file or folder to this user.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn give(&self, path: &Path) -> anyhow::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("giving {} to user {}", path.display(), self.name))
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }
    }
}
