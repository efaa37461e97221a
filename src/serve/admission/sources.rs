//! Sources: how many handlers each has, and how fast its clients arrive.
//!
//! A source has an entry of 40 bytes in one of a few parts, each behind a lock of its own. An entry
//! with handlers is never dropped, so the number of handlers bounds those. An entry without is kept
//! for its token bucket alone, and [`IDLE`] of those at most. So a million addresses cost less than
//! 4 MiB: 48 bytes each with the two indexes, and what the allocator adds.
//!
//! Before the table grows, the entry of a bucket that is full again is given to a new source: such
//! an entry is as good as none. At the bound, the fullest of a few buckets is dropped. Its source
//! has a full bucket at once, which a client with so many addresses had anyway.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::token_bucket::Pace;
use crate::config::{Rate, Source};
use crate::sys::events::Waker;
use crate::sys::sync::{Mutex, MutexGuard, PoisonError};

/// How many entries without handlers there are at most, in all parts together; fewer where each
/// step takes a microsecond.
const IDLE: usize = if cfg!(miri) { 256 } else { 65_536 };

/// How many parts there are: more than threads that want one at the same moment.
const PARTS: usize = 16;

/// How many entries without handlers a part has at most, and lists of entries.
const PART: usize = IDLE / PARTS;

/// How many lists a part has for its first entry.
const FIRST: usize = 8;

/// How many entries are looked at before one is dropped.
const LOOK: usize = 8;

/// The limits of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::serve) struct SourceLimits {
    /// How many handlers it may have.
    pub(in crate::serve) max: Option<NonZeroUsize>,
    /// How fast its clients may arrive.
    pub(in crate::serve) rate: Option<Rate>,
}

/// The limit that a source has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Over {
    /// The number of its handlers (or there is no memory to count one more).
    Max,
    /// The rate of its clients, until this time.
    Rate(u64),
}

/// The sources of a service.
#[derive(Debug)]
pub(in crate::serve) struct Sources {
    hasher: RandomState,
    /// Locks that are free almost always. A connection takes one twice for an instant, when it
    /// arrives and when its handler has ended, and threads meet only in one part of many. The count
    /// of an entry, its bucket and whether it may be dropped have to change together, which atomic
    /// numbers can't.
    parts: Box<[Mutex<Option<Box<Part>>>]>,
    /// For each worker, the sources that have lost a handler while it waited for that. Untouched
    /// while none waits.
    freed: Box<[Mutex<Vec<Source>>]>,
    wakers: Arc<[Waker]>,
}

/// A handler of a source, counted. Dropping it takes it off the count, and wakes the workers
/// that wait for that.
#[derive(Debug)]
pub(in crate::serve) struct SourceSlot {
    sources: Arc<Sources>,
    /// Where the entry is, which stays there for as long as it has handlers.
    index: u32,
    part: u8,
    released: bool,
}

impl Sources {
    /// An empty table, for the workers with these wakers.
    pub(in crate::serve) fn new(wakers: Arc<[Waker]>) -> Arc<Self> {
        Arc::new(Self {
            hasher: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            freed: wakers.iter().map(|_| Mutex::default()).collect(),
            wakers,
        })
    }

    /// Takes a slot of this source, and a token, if that keeps within the limits. The token is lost
    /// when the slot is dropped, and given back by [`SourceSlot::undo`].
    pub(in crate::serve) fn admit(
        self: &Arc<Self>,
        source: Source,
        limits: SourceLimits,
        now: u64,
    ) -> Result<SourceSlot, Over> {
        self.source_slot(source, |part, key| part.admit(key, limits, now, None))
    }

    /// Does the same. If the source has all handlers that it may have, this worker is woken once
    /// when one of them has ended, and finds the source in [`Self::freed`]. It has to ask again
    /// then: other workers may be woken, too.
    pub(in crate::serve) fn admit_or_wait(
        self: &Arc<Self>,
        source: Source,
        limits: SourceLimits,
        now: u64,
        worker: usize,
    ) -> Result<SourceSlot, Over> {
        self.source_slot(source, |part, key| {
            part.admit(key, limits, now, Some(worker))
        })
    }

    /// Returns the source slot of a handler that runs already, whatever the limits. Returns `None`
    /// if there is no memory to count it.
    pub(in crate::serve) fn occupy(self: &Arc<Self>, source: Source) -> Option<SourceSlot> {
        self.admit(source, SourceLimits::default(), 0).ok()
    }

    /// Returns each source whose bucket isn't full, and when it will be.
    pub(super) fn buckets(&self, now: u64) -> Vec<(Source, u64)> {
        let mut buckets = Vec::new();
        for part in 0..PARTS {
            let part = self.part(part);
            let Some(part) = part.as_deref() else {
                continue;
            };
            // An entry that is free is in no list.
            for link in &part.lists {
                let mut link = *link;
                while let Some(index) = link.checked_sub(1) {
                    let entry = &part.entries[index as usize];
                    if entry.full > now {
                        buckets.push((entry.source, entry.full));
                    }
                    link = entry.next;
                }
            }
        }
        buckets
    }

    /// Has the bucket of a source be full at this time; if there is no memory, it is full now.
    pub(super) fn set_bucket(self: &Arc<Self>, source: Source, full: u64, now: u64) {
        if let Ok(mut slot) = self.admit(source, SourceLimits::default(), now) {
            slot.release(now, |entry| entry.full = full);
        }
    }

    /// Returns how many handlers a source has, and when its bucket will be full. Takes nothing.
    pub(super) fn look(&self, source: Source) -> (u32, u64) {
        let (part, key) = self.key(source);
        let part = self.part(part);
        let found = part.as_deref().and_then(|part| {
            let entry = &part.entries[part.find(key)? as usize];
            Some((entry.handlers, entry.full))
        });
        found.unwrap_or_default()
    }

    /// Returns the part of a source, and its key there.
    fn key(&self, source: Source) -> (usize, Key) {
        // Keyed at random: or a client with many addresses could choose those of one list.
        let hash = self.hasher.hash_one(source);
        let list = (hash >> 32) as u16 % PART as u16;
        (hash as usize % PARTS, Key { source, list })
    }

    fn source_slot(
        self: &Arc<Self>,
        source: Source,
        admit: impl FnOnce(&mut Part, Key) -> Result<u32, Over>,
    ) -> Result<SourceSlot, Over> {
        let (part, key) = self.key(source);
        let index = admit(self.part(part).get_or_insert_default(), key)?;
        Ok(SourceSlot {
            sources: Arc::clone(self),
            index,
            part: part as u8,
            released: false,
        })
    }

    /// Made when it has a source: most services have few.
    fn part(&self, part: usize) -> MutexGuard<'_, Option<Box<Part>>> {
        self.parts[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the sources for which this worker was woken since the last call.
    pub(in crate::serve) fn freed(&self, worker: usize) -> Vec<Source> {
        let freed = self.freed[worker].lock();
        std::mem::take(&mut *freed.unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes these workers for this source.
    fn wake(&self, waiting: Waiting, source: Source) {
        if waiting == 0 {
            return;
        }
        for (worker, (waker, freed)) in self.wakers.iter().zip(&self.freed).enumerate() {
            if waiting & bit(worker) != 0 {
                let freed = freed.lock();
                freed.unwrap_or_else(PoisonError::into_inner).push(source);
                waker.wake();
            }
        }
    }
}

impl SourceSlot {
    /// Gives back the source slot of a client that was rejected for another reason, together with
    /// the token that was taken at the time `taken` with these limits.
    pub(in crate::serve) fn undo(mut self, limits: SourceLimits, taken: u64, now: u64) {
        self.release(now, |entry| {
            if let Some(rate) = limits.rate {
                entry.full = Pace::from(rate).give_back(entry.full, taken, now);
            }
        });
    }

    fn release(&mut self, now: u64, before: impl FnOnce(&mut Entry)) {
        if self.released {
            return;
        }
        self.released = true;
        let mut part = self.sources.part(self.part.into());
        let Some(own) = part.as_mut() else {
            return;
        };
        let entry = &mut own.entries[self.index as usize];
        let source = entry.source;
        before(entry);
        let waiting = own.release(self.index, now);
        // The lock isn't held while others are woken for it.
        drop(part);
        self.sources.wake(waiting, source);
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        // A bucket that was never used is full at any time. Of others that isn't known here, and is
        // found out when the entry is wanted for another source.
        self.release(0, |_| {});
    }
}

/// Workers, a bit each: with more of them than bits, some are woken for others.
type Waiting = u16;

fn bit(worker: usize) -> Waiting {
    1 << (worker % Waiting::BITS as usize)
}

/// A source, and the list of its part that its entry is in.
#[derive(Clone, Copy)]
struct Key {
    source: Source,
    list: u16,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    /// The workers that wait for the end of one of its handlers.
    waiting: Waiting,
    handlers: u32,
    /// When its bucket will be full.
    full: u64,
    next: Link,
    /// Which list it is in.
    list: u16,
    /// Without handlers: its index among those.
    idle: u16,
}

/// The number of an entry counted from one, or zero for none.
type Link = u32;

/// The entries of one part: a hash table of linked lists, with a list of those that are free.
#[derive(Debug, Default)]
struct Part {
    entries: Vec<Entry>,
    lists: Vec<Link>,
    free: Link,
    /// The entries without handlers, in no order: [`PART`] at most.
    idle: Vec<u32>,
    /// Where among them was looked last.
    hand: usize,
}

impl Part {
    /// The list of the entries with this key, if there is any.
    fn list(&self, key: u16) -> usize {
        usize::from(key) & self.lists.len().saturating_sub(1)
    }

    /// Reserves memory for one more entry, in its list and without handlers. Returns whether there is
    /// some. There are as many lists as entries, up to [`PART`]: they are made anew, twice as many,
    /// a few times in all.
    fn reserve(&mut self) -> bool {
        let wanted = (self.entries.len() + 1).min(PART);
        let idle = wanted.saturating_sub(self.idle.len());
        if self.entries.try_reserve(1).is_err() || self.idle.try_reserve(idle).is_err() {
            return false;
        }
        let lists = wanted.next_power_of_two().clamp(FIRST, PART);
        let more = lists.saturating_sub(self.lists.len());
        if more == 0 {
            return true;
        }
        if self.lists.try_reserve_exact(more).is_err() {
            return !self.lists.is_empty();
        }
        let old = self.lists.len();
        self.lists.resize(lists, 0);
        for list in 0..old {
            let mut link = std::mem::take(&mut self.lists[list]);
            while let Some(index) = link.checked_sub(1) {
                let key = self.entries[index as usize].list;
                let to = self.list(key);
                let entry = &mut self.entries[index as usize];
                let next = std::mem::replace(&mut entry.next, self.lists[to]);
                self.lists[to] = link;
                link = next;
            }
        }
        true
    }

    fn admit(
        &mut self,
        key: Key,
        limits: SourceLimits,
        now: u64,
        worker: Option<usize>,
    ) -> Result<u32, Over> {
        let found = self.find(key);
        let (handlers, full) = found.map_or((0, 0), |index| {
            let entry = &self.entries[index as usize];
            (entry.handlers, entry.full)
        });
        if limits.max.is_some_and(|max| handlers as usize >= max.get()) {
            if let (Some(index), Some(worker)) = (found, worker) {
                self.entries[index as usize].waiting |= bit(worker);
            }
            return Err(Over::Max);
        }
        let full = match limits.rate {
            Some(rate) => {
                let pace = Pace::from(rate);
                let taken = pace.take(full, now);
                if let (Err(_), Some(index)) = (taken, found) {
                    // A bucket that was emptied at a slower rate would stay empty for as long.
                    self.entries[index as usize].full = full.min(pace.empty(now));
                }
                taken.map_err(Over::Rate)?
            }
            None => full,
        };
        let index = match found {
            Some(index) => {
                if handlers == 0 {
                    self.not_idle(index);
                }
                index
            }
            None => self.enter(key, now).ok_or(Over::Max)?,
        };
        let entry = &mut self.entries[index as usize];
        entry.handlers += 1;
        entry.full = full;
        Ok(index)
    }

    /// Counts one handler less. Returns the workers that wait for that.
    fn release(&mut self, index: u32, now: u64) -> Waiting {
        let entry = &mut self.entries[index as usize];
        entry.handlers -= 1;
        let waiting = std::mem::take(&mut entry.waiting);
        match entry.handlers {
            0 if entry.full <= now => self.forget(index),
            0 => self.set_idle(index),
            _ => {}
        }
        waiting
    }

    fn find(&self, key: Key) -> Option<u32> {
        let mut link = self.lists.get(self.list(key.list)).copied()?;
        while let Some(index) = link.checked_sub(1) {
            let entry = &self.entries[index as usize];
            if entry.source == key.source {
                return Some(index);
            }
            link = entry.next;
        }
        None
    }

    /// An entry for this source, which has none; not among those without handlers. `None` if
    /// there is no memory for it, not even another's.
    fn enter(&mut self, key: Key, now: u64) -> Option<u32> {
        if self.free == 0 {
            // Looked for no sooner: so the table is as large as its busiest time.
            let other = self.fullest();
            let full = other.filter(|other| self.entries[*other as usize].full <= now);
            if full.is_some() || !self.reserve() {
                self.forget_idle(other?);
            }
        }
        let list = self.list(key.list);
        let list = &mut self.lists[list];
        let entry = Entry {
            source: key.source,
            waiting: 0,
            handlers: 0,
            full: 0,
            next: *list,
            list: key.list,
            idle: 0,
        };
        let index = match self.free.checked_sub(1) {
            Some(index) => {
                let slot = &mut self.entries[index as usize];
                self.free = slot.next;
                *slot = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        *list = index + 1;
        Some(index)
    }

    /// The fullest bucket of a few without handlers, each time of the next few.
    fn fullest(&mut self) -> Option<u32> {
        let seen = (0..LOOK.min(self.idle.len())).map(|_| {
            self.hand = (self.hand + 1) % self.idle.len();
            self.idle[self.hand]
        });
        seen.min_by_key(|index| self.entries[*index as usize].full)
    }

    fn forget_idle(&mut self, index: u32) {
        self.not_idle(index);
        self.forget(index);
    }

    /// Adds it to those without handlers, for which there is always memory.
    fn set_idle(&mut self, index: u32) {
        let is_full = self.idle.len() == PART;
        if let Some(other) = is_full.then(|| self.fullest()).flatten() {
            self.forget_idle(other);
        }
        self.entries[index as usize].idle = self.idle.len() as u16;
        self.idle.push(index);
    }

    fn not_idle(&mut self, index: u32) {
        let slot = self.entries[index as usize].idle;
        self.idle.swap_remove(slot.into());
        if let Some(moved) = self.idle.get(usize::from(slot)) {
            self.entries[*moved as usize].idle = slot;
        }
    }

    /// Takes an entry out of its list, and keeps its memory for another.
    fn forget(&mut self, index: u32) {
        let Entry { next, list, .. } = self.entries[index as usize];
        let list = self.list(list);
        let mut link = &mut self.lists[list];
        while let Some(before) = link.checked_sub(1).filter(|before| *before != index) {
            link = &mut self.entries[before as usize].next;
        }
        *link = next;
        self.entries[index as usize].next = self.free;
        self.free = index + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv6Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use crate::config::SourcePrefix;

    const SECOND: u64 = 1_000_000_000;

    fn sources(workers: usize) -> (Arc<Sources>, Arc<[Waker]>) {
        let wakers: Arc<[Waker]> = (0..workers).map(|_| Waker::new().unwrap()).collect();
        (Sources::new(Arc::clone(&wakers)), wakers)
    }

    fn limits(max: usize, rate: Option<(u64, u32)>) -> SourceLimits {
        SourceLimits {
            max: NonZeroUsize::new(max),
            rate: rate.map(|(seconds, burst)| Rate {
                interval: Duration::from_secs(seconds),
                burst,
            }),
        }
    }

    /// Read and not polled, for Miri has no poll(2).
    fn woken(waker: &Waker) -> bool {
        nix::unistd::read(waker, &mut [0; 8]).is_ok()
    }

    impl Sources {
        fn count(&self, counted: impl Fn(&Part) -> usize) -> usize {
            let count = |part| self.part(part).as_deref().map_or(0, &counted);
            (0..PARTS).map(count).sum()
        }

        /// How many sources are known.
        fn known(&self) -> usize {
            self.count(|part| {
                let walk = |mut link: Link| {
                    let mut length = 0;
                    while let Some(index) = link.checked_sub(1) {
                        length += 1;
                        link = part.entries[index as usize].next;
                    }
                    length
                };
                let known = part.lists.iter().map(|list| walk(*list)).sum::<usize>();
                assert_eq!(known + walk(part.free), part.entries.len());
                let idle = |(slot, index): (usize, &u32)| {
                    let entry = &part.entries[*index as usize];
                    entry.handlers == 0 && usize::from(entry.idle) == slot
                };
                assert!(part.idle.iter().enumerate().all(idle));
                assert!(part.idle.len() <= known);
                known
            })
        }

        /// How many entries there is memory for.
        fn memory(&self) -> usize {
            self.count(|part| part.entries.len())
        }

        fn handlers(&self, source: Source) -> u32 {
            let hash = self.hasher.hash_one(source);
            let part = self.part(hash as usize % PARTS);
            let Some(part) = part.as_ref() else {
                return 0;
            };
            let list = (hash >> 32) as u16 % PART as u16;
            let found = part.find(Key { source, list });
            found.map_or(0, |index| part.entries[index as usize].handlers)
        }
    }

    #[test]
    fn entries_and_slots_are_small() {
        assert_eq!(size_of::<SourceSlot>(), 16);
        assert_eq!(size_of::<Entry>(), 40);
        assert!(usize::from(u16::MAX) >= PART && usize::from(u8::MAX) >= PARTS);
    }

    #[test]
    fn no_more_handlers_than_its_max_each() {
        let (sources, _) = sources(0);
        let two = limits(2, None);
        let (one, other) = (Source::user(1), Source::user(2));
        let first = sources.admit(one, two, 0).unwrap();
        let second = sources.admit(one, two, 0).unwrap();
        assert_eq!(sources.admit(one, two, 0).unwrap_err(), Over::Max);
        let third = sources.admit(other, two, 0).unwrap();
        drop(first);
        let fourth = sources.admit(one, two, 0).unwrap();
        assert_eq!(sources.handlers(one), 2);
        drop((second, third, fourth));
        // Nothing is kept of sources that have neither handlers nor a bucket.
        assert_eq!(sources.known(), 0);
    }

    #[test]
    fn restored_handlers_count_whatever_the_max() {
        let (sources, _) = sources(0);
        let source = Source::user(1);
        let slots: Vec<_> = (0..3).map(|_| sources.occupy(source).unwrap()).collect();
        let two = limits(2, None);
        assert_eq!(sources.admit(source, two, 0).unwrap_err(), Over::Max);
        drop(slots);
        assert!(sources.admit(source, two, 0).is_ok());
    }

    #[test]
    fn a_bucket_outlives_the_handlers() {
        let (sources, _) = sources(0);
        let source = Source::user(1);
        let limits = limits(1, Some((1, 2)));
        drop(sources.admit(source, limits, 0).unwrap());
        drop(sources.admit(source, limits, 0).unwrap());
        assert_eq!(
            sources.admit(source, limits, 0).unwrap_err(),
            Over::Rate(SECOND)
        );
        let source_slot = sources.admit(source, limits, SECOND).unwrap();
        // Over both: the one without a source slot takes no token.
        assert_eq!(
            sources.admit(source, limits, 2 * SECOND).unwrap_err(),
            Over::Max
        );
        drop(source_slot);
        drop(sources.admit(source, limits, 2 * SECOND).unwrap());
        assert_eq!(sources.known(), 1);
    }

    #[test]
    fn what_is_undone_has_cost_nothing() {
        let (sources, wakers) = sources(1);
        let (source, limits) = (Source::user(1), limits(1, Some((1, 1))));
        for _ in 0..3 {
            let source_slot = sources.admit(source, limits, 5).unwrap();
            let over = sources.admit_or_wait(source, limits, 5, 0).unwrap_err();
            assert_eq!(over, Over::Max);
            source_slot.undo(limits, 5, 5);
            assert!(woken(&wakers[0]));
            assert_eq!(sources.known(), 0);
        }
        let source_slot = sources.admit(source, limits, 5).unwrap();
        drop(source_slot);
        assert_eq!(
            sources.admit(source, limits, 5).unwrap_err(),
            Over::Rate(5 + SECOND)
        );
    }

    #[test]
    fn those_who_wait_for_a_source_are_woken_when_a_handler_of_it_has_gone() {
        let (sources, wakers) = sources(20);
        let one = limits(1, None);
        let slots = [1, 2].map(|user| sources.admit(Source::user(user), one, 0).unwrap());
        let [first, second] = slots;
        for worker in [3, 18] {
            let waits = sources.admit_or_wait(Source::user(1), one, 0, worker);
            assert_eq!(waits.unwrap_err(), Over::Max);
        }
        drop(second);
        assert!(!wakers.iter().any(woken));
        drop(first);
        let all: Vec<_> = (0..20).filter(|index| woken(&wakers[*index])).collect();
        // Those two more because there are more workers than bits.
        assert_eq!(all, [2, 3, 18, 19]);
        assert_eq!(sources.freed(18), [Source::user(1)]);
        assert_eq!((sources.freed(18), sources.freed(4)), (vec![], vec![]));
        // Once.
        drop(sources.admit(Source::user(1), one, 0).unwrap());
        assert!(!wakers.iter().any(woken));
    }

    #[test]
    fn threads_together_admit_no_more_than_the_max() {
        let (sources, wakers) = sources(4);
        let running: [AtomicUsize; 3] = Default::default();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (sources, wakers, running) = (&sources, &wakers, &running);
                scope.spawn(move || {
                    for turn in 0..if cfg!(miri) { 15 } else { 2000 } {
                        let user = turn % 3;
                        let source = Source::user(user as u32);
                        let limits = limits(2, Some((1, u32::MAX)));
                        let source_slot = loop {
                            match sources.admit_or_wait(source, limits, 1, worker) {
                                Ok(source_slot) => break source_slot,
                                Err(_) if cfg!(miri) => std::thread::yield_now(),
                                Err(_) => {
                                    let fd = std::os::fd::AsFd::as_fd(&wakers[worker]);
                                    crate::sys::events::wait_readable([fd], None);
                                    wakers[worker].clear();
                                }
                            }
                        };
                        assert!(running[user].fetch_add(1, Ordering::SeqCst) < 2);
                        std::thread::yield_now();
                        running[user].fetch_sub(1, Ordering::SeqCst);
                        if turn % 2 == 0 {
                            source_slot.undo(limits, 1, 1);
                        }
                    }
                });
            }
        });
        let handlers = (0..3).map(|user| sources.handlers(Source::user(user)));
        assert_eq!(handlers.sum::<u32>(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Come(u32),
        End(prop::sample::Index, bool),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..6_u32).prop_map(Step::Come),
            2 => any::<(prop::sample::Index, bool)>().prop_map(|(which, undo)| Step::End(which, undo)),
            1 => (0..3 * SECOND).prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 1..if cfg!(miri) { 20 } else { 300 })
    }

    proptest! {
        #[test]
        fn it_is_what_a_table_of_all_would_be(steps in steps(), max in 1..4_usize, burst in 1..5) {
            let limits = limits(max, Some((1, burst as u32)));
            let pace = Pace::from(limits.rate.unwrap());
            let (sources, _) = sources(0);
            let (mut now, mut slots) = (SECOND, Vec::new());
            let mut model: HashMap<u32, (usize, u64)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Pass(time) => now += time,
                    Step::End(..) if slots.is_empty() => {}
                    Step::End(which, undo) => {
                        let (user, taken, source_slot): (u32, u64, SourceSlot) =
                            slots.swap_remove(which.index(slots.len()));
                        let (handlers, full) = model.get_mut(&user).unwrap();
                        *handlers -= 1;
                        if undo {
                            *full = pace.give_back(*full, taken, now);
                            source_slot.undo(limits, taken, now);
                        }
                    }
                    Step::Come(user) => {
                        let (handlers, full) = model.entry(user).or_default();
                        let expected = if *handlers == max {
                            Err(Over::Max)
                        } else {
                            pace.take(*full, now).map_err(Over::Rate)
                        };
                        match (sources.admit(Source::user(user), limits, now), expected) {
                            (Ok(source_slot), Ok(then)) => {
                                *handlers += 1;
                                *full = then;
                                slots.push((user, now, source_slot));
                            }
                            (source_slot, expected) => {
                                prop_assert_eq!(source_slot.err(), expected.err());
                            }
                        }
                    }
                }
            }
            prop_assert!(sources.known() <= model.len());
            for (user, (handlers, _)) in model {
                prop_assert_eq!(sources.handlers(Source::user(user)) as usize, handlers);
            }
        }
    }

    /// Never more than the bound of those without handlers, and all of those with.
    #[test]
    fn a_flood_of_sources_costs_a_bounded_table() {
        let (many, live) = if cfg!(miri) {
            (200, 20)
        } else {
            (300_000, 5_000)
        };
        let (sources, _) = sources(0);
        let limits = limits(1, Some((3600, 1)));
        let prefix = SourcePrefix { v4: 32, v6: 128 };
        let source = |number| Source::address(Ipv6Addr::from_bits(number).into(), prefix);
        let first = 1 << 64;
        let slots: Vec<_> = (first..first + live)
            .map(|number| sources.admit(source(number), limits, 1).unwrap())
            .collect();
        for number in 2 * first..2 * first + many {
            drop(sources.admit(source(number), limits, 1).unwrap());
        }
        assert!(sources.known() <= IDLE + slots.len());
        // One more in each part, for the source that is new.
        assert!(sources.memory() <= IDLE + slots.len() + PARTS);
        for number in first..first + live {
            assert_eq!(
                sources.admit(source(number), limits, 1).unwrap_err(),
                Over::Max
            );
        }
        drop(slots);
        let memory = sources.memory();
        assert!(sources.known() <= IDLE);
        // Later, all buckets are full: their memory is for others.
        let later = 3600 * SECOND + 1;
        for number in 3 * first..3 * first + many {
            drop(sources.admit(source(number), limits, later).unwrap());
        }
        assert!(sources.known() <= IDLE);
        assert!(sources.memory() <= memory.max(IDLE + PARTS));
    }

    /// The table keeps its size while a million sources come and go, and only a source that comes
    /// too often is refused. `cargo test --release --lib -- --ignored --nocapture a_million` prints
    /// what a connection costs here.
    #[test]
    #[ignore = "takes seconds"]
    #[allow(clippy::print_stdout)]
    fn a_million_sources() {
        let (sources, _) = sources(0);
        let limits = limits(1, Some((3600, 1)));
        let prefix = SourcePrefix { v4: 32, v6: 128 };
        let anonymous = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon"));
            line.unwrap_or_default().to_owned()
        };
        println!("before: {}", anonymous());
        for (what, step) in [("one", 0), ("a million", 1), ("a million others", 1)] {
            let start = std::time::Instant::now();
            let mut refused = 0;
            for number in 0..1_000_000 {
                let bits = number * step + u128::from(what.len() as u64) * (1 << 64);
                let source = Source::address(Ipv6Addr::from_bits(bits).into(), prefix);
                refused += u32::from(sources.admit(source, limits, 1).is_err());
            }
            let each = start.elapsed() / 1_000_000;
            let (known, now) = (sources.known(), anonymous());
            assert_eq!(refused, if step == 0 { 999_999 } else { 0 }, "{what}");
            assert!(known <= IDLE && sources.memory() <= IDLE + PARTS, "{what}");
            println!("{what}: {each:?} each, {refused} refused, {known} known; {now}");
        }
    }

    #[test]
    fn the_fullest_are_forgotten_first() {
        if cfg!(miri) {
            return;
        }
        let (sources, _) = sources(0);
        let slow = limits(1, Some((3600, 100)));
        let hog = Source::user(0);
        while sources.admit(hog, slow, 1).is_ok() {}
        for user in 1..200_000 {
            drop(sources.admit(Source::user(user), slow, 1).unwrap());
        }
        // Of all whose buckets have one token less, the source that has none left is still known.
        assert!(matches!(sources.admit(hog, slow, 1), Err(Over::Rate(_))));
    }
}
