//! A table whose entries keep their index for life.

use std::collections::TryReserveError;

/// Entries that keep their index for life. The free ones are chained, so neither inserting after
/// [`Self::reserve`] nor removing allocates.
#[derive(Debug)]
pub(in crate::serve) struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// The first free entry.
    free: Option<usize>,
    live: usize,
}

#[derive(Debug)]
enum Entry<T> {
    Live(T),
    /// Free, and the next free entry.
    Free(Option<usize>),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: None,
            live: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Returns an empty slab that never allocates for up to so many entries.
    pub(super) fn with_capacity(entries: usize) -> Result<Self, TryReserveError> {
        let mut slab = Self::default();
        slab.entries.try_reserve_exact(entries)?;
        Ok(slab)
    }

    /// Returns the number of live entries.
    pub(in crate::serve) fn len(&self) -> usize {
        self.live
    }

    /// Returns how many entries there can be without allocating.
    pub(in crate::serve) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Returns the index after the last index that was ever used.
    pub(super) fn end(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether an entry can be inserted without allocating.
    pub(super) fn has_room(&self) -> bool {
        self.free.is_some() || self.entries.len() < self.entries.capacity()
    }

    /// Reserves memory for so many more entries. For one it allocates only if there are more than
    /// ever before.
    pub(in crate::serve) fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        if more == 1 && self.has_room() {
            return Ok(());
        }
        self.entries.try_reserve(more)
    }

    /// Returns the index that the next entry gets.
    pub(super) fn next_index(&self) -> usize {
        self.free.unwrap_or(self.entries.len())
    }

    /// Inserts an entry and returns its index, [`Self::next_index`].
    pub(in crate::serve) fn insert(&mut self, entry: T) -> usize {
        let index = self.next_index();
        self.live += 1;
        match self.entries.get_mut(index) {
            Some(free) => {
                if let Entry::Free(next) = *free {
                    self.free = next;
                }
                *free = Entry::Live(entry);
            }
            None => self.entries.push(Entry::Live(entry)),
        }
        index
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match self.entries.get(index) {
            Some(Entry::Live(entry)) => Some(entry),
            Some(Entry::Free(_)) | None => None,
        }
    }

    pub(in crate::serve) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match self.entries.get_mut(index) {
            Some(Entry::Live(entry)) => Some(entry),
            Some(Entry::Free(_)) | None => None,
        }
    }

    pub(in crate::serve) fn remove(&mut self, index: usize) -> Option<T> {
        let entry = self.entries.get_mut(index)?;
        if let Entry::Free(_) = entry {
            return None;
        }
        match std::mem::replace(entry, Entry::Free(self.free)) {
            Entry::Live(entry) => {
                self.free = Some(index);
                self.live -= 1;
                Some(entry)
            }
            Entry::Free(_) => None,
        }
    }

    /// Removes all entries, and gives back their memory.
    pub(in crate::serve) fn take(&mut self) -> impl Iterator<Item = (usize, T)> + use<T> {
        let entries = std::mem::take(self).entries.into_iter().enumerate();
        entries.filter_map(|(index, entry)| match entry {
            Entry::Live(entry) => Some((index, entry)),
            Entry::Free(_) => None,
        })
    }

    /// Returns the live entries with their indices.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| match entry {
            Entry::Live(entry) => Some((index, entry)),
            Entry::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_index_and_free_ones_are_used_again() {
        let mut slab = Slab::default();
        for value in 0..3 {
            slab.reserve(1).unwrap();
            assert_eq!(slab.insert(value), value);
        }
        assert_eq!(slab.remove(1), Some(1));
        assert_eq!(slab.remove(1), None);
        assert_eq!(slab.remove(0), Some(0));
        assert_eq!(slab.remove(7), None);
        assert_eq!((slab.len(), slab.next_index()), (1, 0));
        slab.reserve(1).unwrap();
        assert_eq!(slab.insert(7), 0);
        assert_eq!(slab.insert(8), 1);
        assert_eq!(slab.get_mut(1), Some(&mut 8));
        assert_eq!(slab.get(2), Some(&2));
        assert_eq!(slab.get(3), None);
        let entries = [(0, 7), (1, 8), (2, 2)];
        let found: Vec<_> = slab.iter().map(|(index, value)| (index, *value)).collect();
        assert_eq!(found, entries);
        assert_eq!(slab.next_index(), 3);
        assert_eq!(slab.take().collect::<Vec<_>>(), entries);
        assert_eq!((slab.len(), slab.capacity(), slab.next_index()), (0, 0, 0));
    }

    #[test]
    fn neither_inserting_nor_removing_allocates() {
        let mut slab = Slab::with_capacity(4).unwrap();
        let capacity = slab.capacity();
        for round in 0..10 {
            for value in 0..4 {
                assert!(slab.has_room());
                slab.insert(value);
            }
            for index in 0..4 {
                assert!(slab.remove((index + round) % 4).is_some());
            }
        }
        assert_eq!(slab.capacity(), capacity);
    }
}
