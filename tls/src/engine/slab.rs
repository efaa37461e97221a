//! Connections by numbers, which an epoll set tells.

/// What a connection is found by. Its number may be another's later, but then the generation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Returns one number with a bit of the caller's. It is never one of the highest two.
    pub(super) fn number(self, bit: bool) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index) << 1 | u64::from(bit)
    }

    /// The key and the bit of a number.
    pub(super) fn of(number: u64) -> (Self, bool) {
        let key = Self {
            index: (number as u32) >> 1,
            generation: (number >> 32) as u32,
        };
        (key, number & 1 == 1)
    }
}

/// The highest index and generation, which no key has.
const NONE: u32 = u32::MAX >> 1;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    // In a box: after a peak the table is large, and what it held is not.
    value: Option<Box<T>>,
}

/// Values by keys.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Adds a value. Gives it back if there are too many.
    pub(super) fn insert(&mut self, value: Box<T>) -> Result<Key, Box<T>> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => match u32::try_from(self.entries.len()) {
                Ok(index) if index < NONE => {
                    self.entries.push(Entry {
                        generation: 0,
                        value: None,
                    });
                    index
                }
                _ => return Err(value),
            },
        };
        let entry = &mut self.entries[index as usize];
        entry.value = Some(value);
        Ok(Key {
            index,
            generation: entry.generation,
        })
    }

    /// Returns the value with this key.
    pub(super) fn get(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        match &mut entry.value {
            Some(value) if entry.generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Removes the value with this key.
    pub(super) fn remove(&mut self, key: Key) -> Option<Box<T>> {
        self.get(key)?;
        let entry = &mut self.entries[key.index as usize];
        entry.generation = (entry.generation + 1) % NONE;
        self.free.push(key.index);
        entry.value.take()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Returns all keys.
    pub(super) fn keys(&self) -> Vec<Key> {
        let entries = self.entries.iter().zip(0..);
        let live = entries.filter(|(entry, _)| entry.value.is_some());
        live.map(|(entry, index)| Key {
            index,
            generation: entry.generation,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_value_and_no_other() {
        let mut slab = Slab::default();
        assert_eq!(slab.len(), 0);
        let first = slab.insert(Box::new('a')).unwrap();
        let second = slab.insert(Box::new('b')).unwrap();
        assert_eq!(slab.get(first), Some(&mut 'a'));
        assert_eq!(slab.remove(first), Some(Box::new('a')));
        assert_eq!(slab.remove(first), None);
        let third = slab.insert(Box::new('c')).unwrap();
        assert_eq!(third.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.keys(), [third, second]);
        for bit in [false, true] {
            assert_eq!(Key::of(third.number(bit)), (third, bit));
        }
        assert_eq!(slab.len(), 2);
    }

    #[test]
    fn numbers_are_never_the_highest_two() {
        let highest = Key {
            index: NONE - 1,
            generation: NONE - 1,
        };
        assert_eq!(Key::of(highest.number(true)), (highest, true));
        assert!(highest.number(true) < u64::MAX - 1);
    }
}
