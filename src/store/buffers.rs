//! Buffers that are used again: the pages of a fresh one must be cleared by the kernel first, which costs as much as
//! filling them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Unused buffers, a limited number of limited size. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    kept_max: usize,
    bytes_max: usize,
}

impl Buffers {
    /// Keeps at most `kept_max` buffers of at most `bytes_max` bytes each.
    pub fn new(kept_max: usize, bytes_max: usize) -> Self {
        Self { free: Arc::default(), kept_max, bytes_max }
    }

    /// A buffer, with whatever it held before: who only overwrites need not clear it.
    pub fn take(&self) -> Vec<u8> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// The first `length` bytes of the buffer; when nobody holds them any more the buffer comes back.
    pub fn freeze(&self, buffer: Vec<u8>, length: usize) -> Bytes {
        let length = length.min(buffer.len());
        Bytes::from_owner(Lent { buffer, length, home: self.clone() })
    }
}

struct Lent {
    buffer: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut free = self.home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.home.kept_max && buffer.capacity() <= self.home.bytes_max {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_holds_it() {
        let buffers = Buffers::new(1, 100);
        let mut first = buffers.take();
        first.extend([7; 50]);
        let (pointer, bytes) = (first.as_ptr(), buffers.freeze(first, 40));
        assert_eq!(bytes, [7; 40][..]);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(buffers.take().capacity(), 0, "a part of it is still held");
        drop(part);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), buffers.take().capacity()), (pointer, 0));
        drop(buffers.freeze(vec![0; 101], 1));
        assert_eq!(buffers.take().capacity(), 0, "it is too large to be kept");
    }
}
