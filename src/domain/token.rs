//! The consistency token: carries a write in PostgreSQL to a read in ClickHouse.

use std::fmt;
use std::str::FromStr;

use super::Lsn;

/// "Everything up to this position of this log." Text form `v1.LOG.LSN` with the LSN in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Number of the log that `lsn` is a position of.
    pub log: u16,
    /// Position that a reader must have passed.
    pub lsn: Lsn,
}

/// The text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a consistency token")]
pub struct ParseTokenError;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{:x}", self.log, self.lsn.get())
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some("v1"), Some(log), Some(lsn), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(ParseTokenError);
        };
        let lsn = u64::from_str_radix(lsn, 16).map_err(|_| ParseTokenError)?;
        let token = Self { log: log.parse().map_err(|_| ParseTokenError)?, lsn: Lsn::new(lsn) };
        // One spelling a token: signs, leading zeros and capitals are refused.
        if token.to_string() == text { Ok(token) } else { Err(ParseTokenError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_garbage_is_refused() {
        let token = Token { log: 3, lsn: Lsn::new(0xB374_D848) };
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in ["", "v1", "v2.3.1", "v1.3.B3", "v1.+3.1", "v1.70000.1", "v1.3.1.2", "v1.3.01"] {
            assert_eq!(text.parse::<Token>(), Err(ParseTokenError), "{text}");
        }
    }
}
