//! Slots: the right to run a handler. A slot is taken before a connection is accepted. The
//! handler's entry in the table of live handlers owns it, so removing the entry frees it. Nothing
//! counts by hand.
//!
//! Where connections are accepted that may have to wait before they need a slot, or that are
//! rejected if there is none, no worker takes one in advance: idle there, it would be a slot that a
//! connection in another thread waits for.
//!
//! Where the number of all handlers is limited too (`--max-total`), a slot that has had a handler
//! leaves one less for those to come. A slot without one leaves nothing: exactly so many run.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::sys::events::Waker;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The slots of a service.
#[derive(Debug)]
pub(in crate::serve) struct Slots {
    limit: Option<NonZeroUsize>,
    total: Option<Total>,
    when: When,
    /// How many are taken, some of them in advance; and above, in units of [`SPENT`], how many
    /// handlers have ended, where their total is limited. They change in one step, or the sum of both
    /// could be too low for a moment.
    counts: AtomicU64,
    /// How many have a handler.
    used: AtomicUsize,
    /// How many handlers in wait mode live, which have no slot.
    in_wait_mode: AtomicUsize,
    /// For each worker, whether it waits for a slot.
    waiting: Box<[AtomicBool]>,
    wakers: Arc<[Waker]>,
}

/// One handler that has ended, in [`Slots::counts`].
const SPENT: u64 = 1 << 32;

/// A limit of all handlers that a service has.
#[derive(Debug)]
pub(in crate::serve) struct Total {
    limit: u64,
    /// How many there have been.
    begun: AtomicU64,
}

impl Total {
    /// So many handlers, of which an earlier binary has had some that have ended.
    pub(in crate::serve) fn new(limit: NonZeroUsize, ended: u64) -> Self {
        Self {
            limit: limit.get() as u64,
            begun: AtomicU64::new(ended),
        }
    }
}

/// When a slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum When {
    /// In advance, before a connection is accepted for it.
    Before,
    /// When a connection needs it.
    Needed,
}

/// One slot. Dropping it frees it, and wakes a worker that waits for one.
#[derive(Debug)]
pub(in crate::serve) struct Slot {
    slots: Arc<Slots>,
    state: State,
}

/// The life of a handler in wait mode, which needs no slot. Dropping it ends it.
#[derive(Debug)]
pub(in crate::serve) struct WaitModeLife(Arc<Slots>);

impl Drop for WaitModeLife {
    fn drop(&mut self) {
        self.0.in_wait_mode.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Taken,
    /// It has a handler.
    Used,
    Freed,
}

impl Slots {
    /// So many slots, or an unlimited number, for the workers with these wakers.
    pub(in crate::serve) fn new(
        limit: Option<NonZeroUsize>,
        when: When,
        wakers: Arc<[Waker]>,
    ) -> Arc<Self> {
        Self::with_total(limit, None, when, wakers)
    }

    /// The same, for no more than a total of handlers.
    pub(in crate::serve) fn with_total(
        limit: Option<NonZeroUsize>,
        total: Option<Total>,
        when: When,
        wakers: Arc<[Waker]>,
    ) -> Arc<Self> {
        let ended = |total: &Total| total.begun.load(Ordering::SeqCst);
        let ended = total.as_ref().map_or(0, ended);
        Arc::new(Self {
            limit,
            total,
            when,
            counts: AtomicU64::new(ended.min(u32::MAX.into()) * SPENT),
            used: AtomicUsize::new(0),
            in_wait_mode: AtomicUsize::new(0),
            waiting: wakers.iter().map(|_| AtomicBool::new(false)).collect(),
            wakers,
        })
    }

    /// Returns how many there are, if that is limited.
    pub(in crate::serve) fn limit(&self) -> Option<usize> {
        self.limit.map(NonZeroUsize::get)
    }

    /// Returns when they are taken.
    pub(in crate::serve) fn when(&self) -> When {
        self.when
    }

    /// Returns how many have a handler.
    pub(in crate::serve) fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Returns how many handlers in wait mode live.
    pub(in crate::serve) fn in_wait_mode(&self) -> usize {
        self.in_wait_mode.load(Ordering::Relaxed)
    }

    /// Counts a handler in wait mode as long as it lives.
    pub(in crate::serve) fn live_in_wait_mode(self: &Arc<Self>) -> WaitModeLife {
        self.in_wait_mode.fetch_add(1, Ordering::Relaxed);
        WaitModeLife(Arc::clone(self))
    }

    /// Returns how many there are, if all of them have a handler.
    pub(in crate::serve) fn full(&self) -> Option<usize> {
        self.limit().filter(|limit| self.used() >= *limit)
    }

    /// Returns how many handlers there have been, if their total is limited.
    pub(in crate::serve) fn total(&self) -> u64 {
        let begun = |total: &Total| total.begun.load(Ordering::SeqCst);
        self.total.as_ref().map_or(0, begun)
    }

    /// Returns how many handlers there may be in all, if that is limited.
    pub(in crate::serve) fn total_limit(&self) -> Option<u64> {
        self.total.as_ref().map(|total| total.limit)
    }

    /// Returns whether there have been all handlers that there may be.
    pub(in crate::serve) fn are_spent(&self) -> bool {
        self.total
            .as_ref()
            .is_some_and(|total| total.begun.load(Ordering::SeqCst) >= total.limit)
    }

    /// Whether there is a limit of any kind.
    pub(in crate::serve) fn is_limited(&self) -> bool {
        self.limit.is_some() || self.total.is_some()
    }

    /// Whether a slot is free at these counts.
    fn is_free(&self, counts: u64) -> bool {
        let taken = counts % SPENT;
        let limit = self.limit().map_or(u64::MAX, |limit| limit as u64);
        taken < limit && self.is_left(counts)
    }

    /// Whether another handler may begin, as far as their total is concerned.
    fn is_left(&self, counts: u64) -> bool {
        let (taken, spent) = (counts % SPENT, counts / SPENT);
        let total = self.total.as_ref();
        total.is_none_or(|total| taken + spent < total.limit)
    }

    /// Takes a slot for this worker. If there is none, the worker is woken when it is worth trying
    /// again.
    pub(in crate::serve) fn take(self: &Arc<Self>, worker: usize) -> Option<Slot> {
        if !self.is_limited() {
            return Some(self.slot());
        }
        if self.try_take() {
            // It may have waited, and been woken for another reason.
            self.waiting[worker].store(false, Ordering::SeqCst);
            return Some(self.slot());
        }
        // Announced first and tried again after: a slot freed in between is either seen
        // here or wakes us. That takes the sequential order of all four operations.
        self.waiting[worker].store(true, Ordering::SeqCst);
        if !self.try_take() {
            return None;
        }
        // Or it would be woken for a slot that another waits for.
        self.waiting[worker].store(false, Ordering::SeqCst);
        Some(self.slot())
    }

    /// Takes a slot if there is one.
    pub(in crate::serve) fn take_now(self: &Arc<Self>) -> Option<Slot> {
        (!self.is_limited() || self.try_take()).then(|| self.slot())
    }

    /// Returns whether this worker may accept a connection that will need a slot. If there is none,
    /// the worker is woken when it is worth asking again.
    pub(in crate::serve) fn may_take(&self, worker: usize) -> bool {
        !self.is_limited() || self.waits_for(worker, Self::is_free)
    }

    /// Returns whether this worker may accept a connection that will need a slot or be rejected: not
    /// if all handlers of the total have begun or are about to. Then the worker is woken when it is
    /// worth asking again.
    pub(in crate::serve) fn may_begin(&self, worker: usize) -> bool {
        self.total.is_none() || self.waits_for(worker, Self::is_left)
    }

    fn waits_for(&self, worker: usize, is_there: impl Fn(&Self, u64) -> bool) -> bool {
        let is_there = || is_there(self, self.counts.load(Ordering::SeqCst));
        if is_there() {
            return true;
        }
        // As in `take`.
        self.waiting[worker].store(true, Ordering::SeqCst);
        is_there()
    }

    /// Counts a handler that needs no slot, since it is in wait mode. Returns whether it may begin.
    pub(in crate::serve) fn begin_in_wait_mode(&self) -> bool {
        let Some(total) = &self.total else {
            return true;
        };
        let left = |counts| self.is_left(counts).then_some(counts + SPENT);
        let counts = &self.counts;
        let taken = counts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        if taken.is_ok() {
            total.begun.fetch_add(1, Ordering::SeqCst);
        }
        taken.is_ok()
    }

    /// Counts a handler in wait mode no more, since it couldn't be started. The main thread does
    /// this, before it asks whether the slots are spent.
    pub(in crate::serve) fn undo_in_wait_mode(&self) {
        if let Some(total) = &self.total {
            total.begun.fetch_sub(1, Ordering::SeqCst);
            self.counts.fetch_sub(SPENT, Ordering::SeqCst);
            self.wake();
        }
    }

    /// Has this worker wait for no slot any more. If one is free that it may have been woken for,
    /// another worker that waits is woken instead.
    pub(super) fn stop_waiting(&self, worker: usize) {
        if !self.is_limited() {
            return;
        }
        // In the reverse order of `free`: a slot freed in between is either seen here, or wakes
        // another worker.
        self.waiting[worker].store(false, Ordering::SeqCst);
        if self.is_free(self.counts.load(Ordering::SeqCst)) {
            self.wake();
        }
    }

    /// Returns the slot of a handler that runs already, whether or not there are so many.
    pub(in crate::serve) fn occupy(self: &Arc<Self>) -> Slot {
        self.counts.fetch_add(1, Ordering::SeqCst);
        self.slot().in_use()
    }

    fn slot(self: &Arc<Self>) -> Slot {
        Slot {
            slots: Arc::clone(self),
            state: State::Taken,
        }
    }

    fn try_take(&self) -> bool {
        let free = |counts| self.is_free(counts).then_some(counts + 1);
        let counts = &self.counts;
        let taken = counts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        taken.is_ok()
    }

    /// Frees one, that had a handler if `used`; `thread` is the thread that does.
    fn free(&self, used: bool, thread: Option<usize>) {
        if !self.is_limited() {
            return;
        }
        if used && self.total.is_some() {
            let before = self.counts.fetch_add(SPENT - 1, Ordering::SeqCst);
            if !self.is_left(before + (SPENT - 1)) {
                // A worker would find nothing.
                return;
            }
        } else {
            self.counts.fetch_sub(1, Ordering::SeqCst);
        }
        // A worker that waits for the slot and frees it itself needn't be woken.
        let own = thread.and_then(|thread| self.waiting.get(thread));
        let own = own.is_some_and(|waiting| waiting.swap(false, Ordering::SeqCst));
        if !own || self.when == When::Needed {
            self.wake();
        }
    }

    /// Wakes a worker that waits.
    fn wake(&self) {
        // All of them, where the first may only have asked whether to accept.
        let one = self.when == When::Before;
        for (waiting, waker) in self.waiting.iter().zip(&*self.wakers) {
            if waiting.swap(false, Ordering::SeqCst) {
                waker.wake();
                if one {
                    return;
                }
            }
        }
    }
}

impl Slot {
    /// Frees the slot, in this thread. Returns how many have a handler now, and how many there are.
    pub(in crate::serve) fn release(mut self, thread: usize) -> (usize, Option<usize>) {
        self.free(Some(thread));
        self.usage()
    }

    /// Returns how many slots have a handler, and how many there are.
    pub(in crate::serve) fn usage(&self) -> (usize, Option<usize>) {
        (self.slots.used(), self.slots.limit())
    }

    /// Returns whether there have been all handlers that there may be, with that of this slot.
    pub(in crate::serve) fn was_last(&self) -> bool {
        self.slots.are_spent()
    }

    /// Returns the same slot, now that it has a handler.
    pub(in crate::serve) fn in_use(mut self) -> Self {
        self.slots.used.fetch_add(1, Ordering::Relaxed);
        if let Some(total) = &self.slots.total {
            total.begun.fetch_add(1, Ordering::SeqCst);
        }
        self.state = State::Used;
        self
    }

    fn free(&mut self, thread: Option<usize>) {
        let used = self.state == State::Used;
        if used {
            // In sequence with what the main thread does while it waits for the last.
            self.slots.used.fetch_sub(1, Ordering::SeqCst);
        }
        if self.state != State::Freed {
            self.state = State::Freed;
            self.slots.free(used, thread);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::events::wait_readable;
    use std::os::fd::AsFd;

    fn slots(limit: usize, workers: usize) -> (Arc<Slots>, Arc<[Waker]>) {
        let wakers: Arc<[Waker]> = (0..workers).map(|_| Waker::new().unwrap()).collect();
        let slots = Slots::new(NonZeroUsize::new(limit), When::Before, Arc::clone(&wakers));
        (slots, wakers)
    }

    /// Whether it was woken since this was asked last: read and not polled, for Miri has no
    /// poll(2).
    fn woken(waker: &Waker) -> bool {
        nix::unistd::read(waker, &mut [0; 8]).is_ok()
    }

    #[test]
    fn a_dropped_slot_wakes_one_worker_that_waits() {
        let (slots, wakers) = slots(1, 2);
        let slot = slots.take(0).unwrap();
        assert!(slots.take(0).is_none());
        assert!(slots.take(1).is_none());
        assert!(!woken(&wakers[0]) && !woken(&wakers[1]));
        drop(slot);
        assert!(woken(&wakers[0]) && !woken(&wakers[1]));
        drop(slots.take(0).unwrap());
        assert!(woken(&wakers[1]));
    }

    #[test]
    fn a_worker_that_frees_the_slot_it_waits_for_wakes_none() {
        let (slots, wakers) = slots(1, 2);
        let slot = slots.take(1).unwrap();
        assert!(slots.take(0).is_none());
        assert!(slots.take(1).is_none());
        slot.release(1);
        assert!(!woken(&wakers[0]) && !woken(&wakers[1]));
        // It takes the slot. The other is woken for the next one, whichever thread frees that.
        let slot = slots.take(1).unwrap();
        slot.in_use().release(2);
        assert!(woken(&wakers[0]) && !woken(&wakers[1]));
        assert_eq!(slots.used(), 0);
    }

    #[test]
    fn a_worker_that_frees_a_slot_and_waits_for_none_wakes_another() {
        let (slots, wakers) = slots(1, 2);
        let slot = slots.take(1).unwrap();
        assert!(slots.take(0).is_none());
        slot.release(1);
        assert!(woken(&wakers[0]) && !woken(&wakers[1]));
    }

    #[test]
    fn a_slot_taken_when_needed_wakes_all_workers_that_wait() {
        let wakers: Arc<[Waker]> = (0..3).map(|_| Waker::new().unwrap()).collect();
        let slots = Slots::new(NonZeroUsize::new(1), When::Needed, Arc::clone(&wakers));
        assert!(slots.may_take(0) && slots.may_take(1));
        let slot = slots.take_now().unwrap();
        assert!(slots.take_now().is_none());
        assert!(!slots.may_take(0));
        assert!(slots.take(1).is_none() && slots.take(2).is_none());
        slot.in_use().release(2);
        // The thread that freed it looks by itself.
        assert!(woken(&wakers[0]) && woken(&wakers[1]) && !woken(&wakers[2]));
        assert!(slots.may_take(0));
    }

    #[test]
    fn a_worker_that_stops_waiting_leaves_its_wake_up_to_another() {
        let (slots, wakers) = slots(1, 3);
        let slot = slots.take(0).unwrap();
        assert!(slots.take(0).is_none() && slots.take(1).is_none() && slots.take(2).is_none());
        // None is free.
        slots.stop_waiting(0);
        assert!(!woken(&wakers[1]) && !woken(&wakers[2]));
        slot.release(0);
        assert!(!woken(&wakers[0]) && woken(&wakers[1]) && !woken(&wakers[2]));
        slots.stop_waiting(1);
        assert!(woken(&wakers[2]));
    }

    #[test]
    fn slots_taken_in_advance_are_not_in_use() {
        let (slots, _) = slots(2, 2);
        let (first, second) = (slots.take(0).unwrap(), slots.take(1).unwrap());
        assert_eq!((slots.used(), slots.full()), (0, None));
        let (first, second) = (first.in_use(), second.in_use());
        assert_eq!((slots.used(), slots.full()), (2, Some(2)));
        drop((first, second));
        assert_eq!(slots.used(), 0);
    }

    /// Slots for so many handlers at once, and so many in all.
    fn slots_of(limit: usize, total: usize, workers: usize) -> (Arc<Slots>, Arc<[Waker]>) {
        let wakers: Arc<[Waker]> = (0..workers).map(|_| Waker::new().unwrap()).collect();
        let (limit, total) = (NonZeroUsize::new(limit), NonZeroUsize::new(total).unwrap());
        let total = Some(Total::new(total, 0));
        let slots = Slots::with_total(limit, total, When::Before, Arc::clone(&wakers));
        (slots, wakers)
    }

    #[test]
    fn a_slot_of_a_total_has_one_handler_in_all() {
        for limit in [0, 1, 2] {
            let (slots, wakers) = slots_of(limit, 2, 2);
            let unused = slots.take(0).unwrap();
            drop(unused);
            slots.take(0).unwrap().in_use().release(0);
            assert!(!slots.are_spent() && slots.may_begin(1) && slots.may_take(1));
            let last = slots.take(0).unwrap();
            assert!(slots.take(1).is_none() && !slots.may_begin(1));
            assert!(!slots.are_spent());
            // It couldn't be started.
            drop(last);
            assert!(woken(&wakers[1]));
            let last = slots.take(1).unwrap().in_use();
            assert!(slots.are_spent() && slots.take(0).is_none());
            last.release(1);
            assert!(slots.are_spent() && slots.take(0).is_none() && !slots.may_take(0));
            assert!(!woken(&wakers[0]) && !woken(&wakers[1]));
            assert_eq!((slots.total(), slots.used()), (2, 0));
        }
    }

    #[test]
    fn handlers_in_wait_mode_and_of_an_earlier_binary_count() {
        let wakers: Arc<[Waker]> = [Waker::new().unwrap()].into();
        let total = Total::new(NonZeroUsize::new(4).unwrap(), 1);
        let slots = Slots::with_total(None, Some(total), When::Needed, wakers);
        let live = slots.occupy();
        assert!(slots.begin_in_wait_mode());
        let fourth = slots.take(0).unwrap();
        assert!(!slots.begin_in_wait_mode());
        drop(fourth);
        assert!(slots.begin_in_wait_mode() && slots.are_spent());
        slots.undo_in_wait_mode();
        assert!(!slots.are_spent() && slots.may_take(0));
        drop(live);
        assert_eq!(slots.total(), 3);
    }

    #[test]
    fn never_more_are_taken_than_there_are() {
        let (slots, wakers) = slots(3, 4);
        let running = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (slots, wakers, running) = (&slots, &wakers, &running);
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
                        let slot = loop {
                            match slots.take(worker) {
                                Some(slot) => break slot,
                                None => {
                                    let waker = &wakers[worker];
                                    if cfg!(miri) {
                                        std::thread::yield_now();
                                    } else {
                                        wait_readable([waker.as_fd()], None);
                                    }
                                    waker.clear();
                                }
                            }
                        };
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert_eq!(slots.counts.load(Ordering::SeqCst), 0);
    }
}
