//! A table whose entries keep their index for life.

use std::collections::TryReserveError;

/// Entries, and the indices of those that are free.
#[derive(Debug)]
pub(in crate::serve) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub(in crate::serve) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(in crate::serve) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// How many there can be without allocating.
    pub(in crate::serve) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Makes room for one more; allocates only if there are more than ever before.
    pub(in crate::serve) fn reserve(&mut self) -> Result<(), TryReserveError> {
        if self.free.is_empty() {
            self.entries.try_reserve(1)?;
            // As many as may once be free.
            self.free.try_reserve(self.entries.capacity())?;
        }
        Ok(())
    }

    pub(in crate::serve) fn insert(&mut self, entry: T) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.entries[index] = Some(entry);
                index
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        }
    }

    /// Takes all out.
    pub(in crate::serve) fn take(&mut self) -> impl Iterator<Item = (usize, T)> + use<T> {
        self.free.clear();
        let entries = std::mem::take(&mut self.entries).into_iter().enumerate();
        entries.filter_map(|(index, entry)| Some((index, entry?)))
    }

    pub(in crate::serve) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.entries.get_mut(index)?.as_mut()
    }

    pub(in crate::serve) fn remove(&mut self, index: usize) -> Option<T> {
        let entry = self.entries.get_mut(index)?.take()?;
        self.free.push(index);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_index_and_free_ones_are_used_again() {
        let mut slab = Slab::new();
        for value in 0..3 {
            slab.reserve().unwrap();
            assert_eq!(slab.insert(value), value);
        }
        assert_eq!(slab.remove(1), Some(1));
        assert_eq!(slab.remove(1), None);
        assert_eq!(slab.len(), 2);
        slab.reserve().unwrap();
        assert_eq!(slab.insert(7), 1);
        assert_eq!(slab.get_mut(1), Some(&mut 7));
        assert_eq!(slab.get_mut(2), Some(&mut 2));
        assert_eq!(slab.get_mut(3), None);
        assert_eq!(slab.take().collect::<Vec<_>>(), [(0, 0), (1, 7), (2, 2)]);
        assert_eq!(slab.len(), 0);
    }
}
