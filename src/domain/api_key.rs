//! An API key: what a client sends, and the two parts of it that are stored.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// `pk_` + 8 hexadecimal digits (the prefix, which finds the row) + `_` + 64 hexadecimal digits (256 random bits), all
/// lower case. Only the prefix and the SHA-256 of the whole text are stored. `Debug` prints the prefix alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    text: String,
}

/// The text is not an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct ParseApiKeyError;

const INTRODUCER: &str = "pk_";
const PREFIX_DIGITS: usize = 8;
const SECRET_DIGITS: usize = 64;

impl ApiKey {
    /// Makes a key out of random bytes: 4 for the prefix, 32 for the secret.
    pub fn from_random(prefix: [u8; 4], secret: [u8; 32]) -> Self {
        Self { text: format!("{INTRODUCER}{}_{}", hex::encode(prefix), hex::encode(secret)) }
    }

    /// Reads a key that a client sent.
    ///
    /// # Errors
    /// Any other form, capitals included.
    pub fn parse(text: &str) -> Result<Self, ParseApiKeyError> {
        let (prefix, secret) =
            text.strip_prefix(INTRODUCER).and_then(|rest| rest.split_once('_')).ok_or(ParseApiKeyError)?;
        let hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if hex(prefix, PREFIX_DIGITS) && hex(secret, SECRET_DIGITS) {
            Ok(Self { text: text.to_owned() })
        } else {
            Err(ParseApiKeyError)
        }
    }

    /// The 8 digits that find the row; no secret.
    pub fn prefix(&self) -> &str {
        self.text.get(INTRODUCER.len()..INTRODUCER.len() + PREFIX_DIGITS).unwrap_or_default()
    }

    /// SHA-256 of the whole key, as stored. The secret has 256 random bits, so no slow hash is needed.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// The key itself, to be shown once to whoever asked for it.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({INTRODUCER}{}_…)", self.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_do_not_print() {
        let key = ApiKey::from_random([0xab, 1, 2, 3], [7; 32]);
        assert_eq!(ApiKey::parse(key.expose()), Ok(key.clone()));
        assert_eq!((key.prefix(), key.expose().len()), ("ab010203", 3 + 8 + 1 + 64));
        assert_eq!(format!("{key:?}"), "ApiKey(pk_ab010203_…)");
    }

    #[test]
    fn other_texts_are_refused() {
        let key = ApiKey::from_random([1; 4], [2; 32]).expose().to_owned();
        for text in [
            "",
            "pk_",
            key.trim_start_matches('p'),
            key.trim_end_matches('2'),
            &key.to_uppercase(),
            &format!("{key}0"),
            &key.replace("pk", "sk"),
        ] {
            assert_eq!(ApiKey::parse(text), Err(ParseApiKeyError), "{text}");
        }
    }
}
