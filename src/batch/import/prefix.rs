//! How far a source has been read, as a length and a hash of everything before: a place that can be found again, and is
//! found only if nothing before it has changed.

use std::io::{self, BufRead, Read};

use sha2::{Digest as _, Sha256};

/// A place in decompressed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes before it.
    pub(super) bytes: u64,
    /// Their SHA-256.
    pub(super) sha256: [u8; 32],
}

/// A reader that knows its place.
#[derive(Debug)]
pub(super) struct Prefix<R> {
    inner: R,
    bytes: u64,
    hash: Option<Sha256>,
}

impl<R: BufRead> Prefix<R> {
    /// From the beginning on. Without `hashed` there is no place.
    pub(super) fn new(inner: R, hashed: bool) -> Self {
        Self { inner, bytes: 0, hash: hashed.then(Sha256::new) }
    }

    /// Where the next byte is read.
    pub(super) fn place(&self) -> Option<Place> {
        let hash = self.hash.as_ref()?;
        Some(Place { bytes: self.bytes, sha256: hash.clone().finalize().into() })
    }

    /// Goes on to `place`; false when the bytes up to there are others, or end before.
    ///
    /// # Errors
    /// The source's.
    pub(super) fn advance_to(&mut self, place: &Place) -> io::Result<bool> {
        while self.bytes < place.bytes {
            let there = match self.inner.fill_buf() {
                Ok(buffer) => buffer.len(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if there == 0 {
                return Ok(false);
            }
            let wanted = usize::try_from(place.bytes - self.bytes).unwrap_or(usize::MAX);
            self.consume(there.min(wanted));
        }
        Ok(self.place().as_ref() == Some(place))
    }
}

impl<R: BufRead> Read for Prefix<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let buffer = self.fill_buf()?;
        let count = buffer.len().min(into.len());
        for (to, from) in into.iter_mut().zip(buffer) {
            *to = *from;
        }
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Prefix<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(hash) = &mut self.hash
            // What is consumed stands in the buffer, so that this reads nothing.
            && let Ok(buffer) = self.inner.fill_buf()
        {
            hash.update(buffer.get(..amount).unwrap_or_default());
        }
        self.bytes += u64::try_from(amount).unwrap_or(u64::MAX);
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &str) -> Prefix<io::BufReader<&[u8]>> {
        Prefix::new(io::BufReader::with_capacity(3, text.as_bytes()), true)
    }

    #[test]
    fn a_place_is_found_again_only_behind_the_same_bytes() {
        let mut first = reader("one\ntwo\nthree\n");
        let mut line = String::new();
        first.read_line(&mut line).and_then(|_| first.read_line(&mut line)).expect("readable");
        let place = first.place().expect("hashed");
        assert_eq!(place.bytes, 8);
        let mut again = reader("one\ntwo\nthree\nfour\n");
        assert!(again.advance_to(&place).expect("readable"));
        let mut rest = String::new();
        again.read_to_string(&mut rest).expect("readable");
        assert_eq!(rest, "three\nfour\n");
        for other in ["one\ntwo", "one\ntwO\nthree\n", ""] {
            assert!(!reader(other).advance_to(&place).expect("readable"), "{other:?}");
        }
        assert_eq!(Prefix::new(&b"x"[..], false).place(), None);
    }
}
