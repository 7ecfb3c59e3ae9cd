//! Bounded numbers of things at once: what comes over the limit is answered 503 at once instead of slowing everyone down.

use std::cell::Cell;

/// Places of one worker. They are not shared between threads, so taking one costs next to nothing.
#[derive(Debug)]
pub(super) struct Places {
    taken: Cell<usize>,
    max: usize,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Places);

impl Places {
    /// `max` places, at least one.
    pub(super) fn new(max: usize) -> Self {
        Self { taken: Cell::new(0), max: max.max(1) }
    }

    /// A place, or `None` when all are taken.
    pub(super) fn take(&self) -> Option<Place<'_>> {
        let taken = self.taken.get();
        if taken >= self.max {
            return None;
        }
        self.taken.set(taken + 1);
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some() && places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
    }
}
