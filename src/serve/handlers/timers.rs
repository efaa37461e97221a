//! Timers of the entries of a slab: a heap in which each entry finds its own.

use std::collections::TryReserveError;
use std::time::Instant;

/// Timers of some entries of a slab, by the indices of those.
///
/// Memory is reserved when the slab reserves it, and nothing else allocates. A removed timer is
/// gone, not skipped when it is due: of handlers that may run for an hour and end at once there
/// are millions in an hour.
#[derive(Debug)]
pub(in crate::serve) struct Timers<T> {
    /// By the index of the entry.
    timers: Vec<Option<Timer<T>>>,
    /// None is due before the one at half of its position.
    heap: Vec<(Instant, usize)>,
}

#[derive(Debug)]
struct Timer<T> {
    what: T,
    /// Its position in the heap.
    position: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            timers: Vec::new(),
            heap: Vec::new(),
        }
    }
}

impl<T> Timers<T> {
    /// Reserves memory for the timers of a slab with this capacity.
    pub(in crate::serve) fn reserve(&mut self, entries: usize) -> Result<(), TryReserveError> {
        let more = entries.saturating_sub(self.timers.len());
        self.timers.try_reserve_exact(more)?;
        let more = entries.saturating_sub(self.heap.len());
        self.heap.try_reserve_exact(more)
    }

    /// Sets the timer of an entry.
    pub(in crate::serve) fn insert(&mut self, index: usize, due: Instant, what: T) {
        self.remove(index);
        if self.timers.len() <= index {
            self.timers.resize_with(index + 1, || None);
        }
        let position = self.heap.len();
        self.timers[index] = Some(Timer { what, position });
        self.heap.push((due, index));
        self.settle(position);
    }

    /// Removes the timer of an entry, if it has one.
    pub(in crate::serve) fn remove(&mut self, index: usize) -> Option<T> {
        let timer = self.timers.get_mut(index)?.take()?;
        let last = self.heap.len() - 1;
        self.swap(timer.position, last);
        self.heap.pop();
        if timer.position < last {
            self.settle(timer.position);
        }
        Some(timer.what)
    }

    /// Returns the first time at which a timer is due, and its entry.
    pub(in crate::serve) fn next(&self) -> Option<(Instant, usize)> {
        self.heap.first().copied()
    }

    /// Returns what the timer of an entry is for.
    pub(in crate::serve) fn get(&self, index: usize) -> Option<&T> {
        let timer = self.timers.get(index)?.as_ref();
        timer.map(|timer| &timer.what)
    }

    /// The same, to be changed.
    pub(in crate::serve) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let timer = self.timers.get_mut(index)?.as_mut();
        timer.map(|timer| &mut timer.what)
    }

    /// Has the timer of an entry due at another time.
    pub(in crate::serve) fn postpone(&mut self, index: usize, due: Instant) {
        if let Some(Some(timer)) = self.timers.get(index) {
            let position = timer.position;
            self.heap[position].0 = due;
            self.settle(position);
        }
    }

    /// Moves the timer at this position to where it belongs: up, or else down.
    fn settle(&mut self, mut position: usize) {
        while position > 0 && self.heap[position] < self.heap[(position - 1) / 2] {
            self.swap(position, (position - 1) / 2);
            position = (position - 1) / 2;
        }
        loop {
            let children = 2 * position + 1..self.heap.len().min(2 * position + 3);
            let Some(first) = children.min_by_key(|&child| self.heap[child]) else {
                return;
            };
            if self.heap[position] <= self.heap[first] {
                return;
            }
            self.swap(position, first);
            position = first;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for position in [one, other] {
            // The entry that is being removed has no timer any more.
            if let Some(timer) = &mut self.timers[self.heap[position].1] {
                timer.position = position;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[derive(Clone, Copy, Debug)]
    enum Change {
        Insert(usize, u64),
        Remove(usize),
        Postpone(usize, u64),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            3 => (0..24_usize, 0..50_u64).prop_map(|(index, due)| Change::Insert(index, due)),
            2 => (0..24_usize).prop_map(Change::Remove),
            2 => (0..24_usize, 0..50_u64).prop_map(|(index, due)| Change::Postpone(index, due)),
        ];
        proptest::collection::vec(change, 0..200)
    }

    proptest! {
        #[test]
        fn they_are_what_a_sorted_list_would_be(changes in changes()) {
            let begin = Instant::now();
            let at = |due| begin + Duration::from_millis(due);
            let (mut timers, mut list) = (Timers::default(), BTreeMap::new());
            timers.reserve(24).unwrap();
            let room = (timers.timers.capacity(), timers.heap.capacity());
            for (number, change) in changes.into_iter().enumerate() {
                match change {
                    Change::Insert(index, due) => {
                        timers.insert(index, at(due), number);
                        list.insert(index, (at(due), number));
                    }
                    Change::Remove(index) => {
                        let was = list.remove(&index).map(|(_, number)| number);
                        prop_assert_eq!(timers.remove(index), was);
                    }
                    Change::Postpone(index, due) => {
                        timers.postpone(index, at(due));
                        list.entry(index).and_modify(|timer| timer.0 = at(due));
                    }
                }
                let first = list.iter().map(|(index, (due, _))| (*due, *index)).min();
                prop_assert_eq!(timers.next(), first);
                for index in 0..24 {
                    let known = list.get(&index).map(|(_, number)| number);
                    prop_assert_eq!(timers.get(index), known);
                }
            }
            prop_assert_eq!((timers.timers.capacity(), timers.heap.capacity()), room);
            let mut order = Vec::new();
            while let Some((due, index)) = timers.next() {
                timers.remove(index);
                order.push((due, index));
            }
            let mut sorted: Vec<_> = list.iter().map(|(index, (due, _))| (*due, *index)).collect();
            sorted.sort();
            prop_assert_eq!(order, sorted);
        }
    }
}
