//! Who may ask: one user that may do everything the engine grants, one that may only read.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::exception::{self, Exception};
use crate::domain::Failure;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Every statement that the engine's grants allow.
    Administrator,
    /// SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS; may change settings other than `readonly`.
    Reader,
}

/// A name, a password and a role.
#[derive(Debug, Clone)]
pub struct User {
    /// Its name; an empty name is no user.
    pub name: String,
    /// Its password. An administrator may have an empty one on loopback; a reader without one is no user.
    pub password: SecretString,
}

/// The users of this front. The engine itself has only one, without a password.
#[derive(Debug, Clone)]
pub(super) struct Users {
    administrator: User,
    reader: Option<User>,
}

/// Name and password as a request gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl Credentials {
    /// From `Authorization: Basic`.
    pub(super) fn from_basic(header: &str) -> Option<Self> {
        let (scheme, encoded) = header.split_once(' ')?;
        let decoded = BASE64_STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self { user: user.to_owned(), password: password.to_owned() })
    }
}

impl Users {
    /// `open` says whether others than this machine's programs can reach the address.
    ///
    /// # Errors
    /// `Failure::Config` for an administrator that anybody on the network could be.
    pub(super) fn new(administrator: User, reader: User, open: bool) -> Result<Self, Failure> {
        if open && (administrator.name.is_empty() || administrator.password.expose_secret().is_empty()) {
            return Err(Failure::Config(
                "an address that is not loopback needs a password: set PLATFORM__CLICKHOUSE__USER and \
                 PLATFORM__CLICKHOUSE__PASSWORD, or --bind to 127.0.0.1"
                    .into(),
            ));
        }
        let reader = Some(reader).filter(|reader| !reader.password.expose_secret().is_empty());
        Ok(Self { administrator, reader })
    }

    /// The role of whoever has these credentials. Takes the same time for every wrong name and password.
    ///
    /// # Errors
    /// 516, without a word on which of the two is wrong.
    pub(super) fn authenticate(&self, given: &Credentials) -> Result<Role, Exception> {
        let administrator = matches(&self.administrator, given);
        let reader = self.reader.as_ref().is_some_and(|reader| matches(reader, given));
        if administrator {
            return Ok(Role::Administrator);
        }
        if reader {
            return Ok(Role::Reader);
        }
        Err(Exception::new(
            exception::AUTHENTICATION_FAILED,
            format_args!(
                "{}: Authentication failed: password is incorrect, or there is no user with such name.",
                given.user.escape_debug()
            ),
        ))
    }
}

fn matches(user: &User, given: &Credentials) -> bool {
    let name = digest(&user.name).ct_eq(&digest(&given.user));
    let password = digest(user.password.expose_secret()).ct_eq(&digest(&given.password));
    bool::from(name & password) && !user.name.is_empty()
}

/// Of equal length whatever is hashed, so that the comparison tells nothing.
fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> User {
        User { name: name.into(), password: password.to_owned().into() }
    }

    fn role(users: &Users, name: &str, password: &str) -> Option<Role> {
        users.authenticate(&Credentials { user: name.into(), password: password.into() }).ok()
    }

    #[test]
    fn each_user_has_its_own_password_and_role() {
        let users = Users::new(user("default", "a"), user("reader", "b"), true).expect("accepted");
        assert_eq!(role(&users, "default", "a"), Some(Role::Administrator));
        assert_eq!(role(&users, "reader", "b"), Some(Role::Reader));
        for (name, password) in [("default", "b"), ("reader", "a"), ("default", ""), ("", ""), ("x", "a")] {
            assert_eq!(role(&users, name, password), None, "{name} {password}");
        }
    }

    #[test]
    fn a_reader_without_name_or_password_is_nobody() {
        for reader in [user("", ""), user("", "x"), user("reader", "")] {
            let users = Users::new(user("default", "a"), reader, false).expect("accepted");
            for (name, password) in [("", ""), ("", "x"), ("reader", "")] {
                assert_eq!(role(&users, name, password), None);
            }
        }
    }

    #[test]
    fn an_open_administrator_stays_on_loopback() {
        assert!(Users::new(user("default", ""), user("", ""), true).is_err());
        let users = Users::new(user("default", ""), user("", ""), false).expect("accepted");
        assert_eq!(role(&users, "default", ""), Some(Role::Administrator));
    }

    #[test]
    fn basic_credentials_may_hold_colons() {
        let header = format!("basic {}", BASE64_STANDARD.encode("u:p:w"));
        assert_eq!(Credentials::from_basic(&header), Some(Credentials { user: "u".into(), password: "p:w".into() }));
        assert_eq!(Credentials::from_basic("Bearer x"), None);
    }
}
