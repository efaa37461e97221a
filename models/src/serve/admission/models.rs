//! The models: a few threads each, and what must hold at every step and at their end.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;

use super::rules::Rules;
use super::rules_handle::RulesHandle;
use super::slots::{Slot, Slots, Total, When};
use super::sources::{SourceLimits, Sources};
use super::token_bucket::Bucket;
use crate::Model;
use crate::config::{Rate, Source};
use crate::sys::events::Waker;
use crate::sys::sync::atomic::{AtomicUsize, Ordering};

pub const ALL: &[Model] = &[
    (
        "a slot has one handler, and a worker that waits gets it",
        slots_two_workers,
        10_000,
    ),
    (
        "three workers take turns, whichever thread frees the slot",
        slots_three_workers,
        10_000,
    ),
    (
        "a slot taken when needed is seen by workers that may not accept",
        slots_when_needed,
        10_000,
    ),
    (
        "a worker that stops waiting takes no wake-up from another",
        slots_stop_waiting,
        10_000,
    ),
    (
        "no more handlers begin than the total, and no fewer",
        slots_total,
        10_000,
    ),
    (
        "a source keeps to its limit, and a worker that waits for it is woken",
        sources_limit,
        10_000,
    ),
    (
        "no more tokens are taken than there are",
        token_bucket,
        10_000,
    ),
    (
        "a connection after a replacement meets the new rules",
        rules_replaced,
        10_000,
    ),
];

fn run_all(count: usize, worker: impl Fn(usize) + Send + Sync + 'static) {
    let worker = Arc::new(worker);
    let start = |index| {
        let worker = Arc::clone(&worker);
        thread::spawn(move || worker(index))
    };
    let threads: Vec<_> = (0..count).map(start).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

fn wakers(count: usize) -> Arc<[Waker]> {
    (0..count).map(|_| Waker::default()).collect()
}

/// One slot.
fn slots(when: When, workers: usize) -> (Arc<Slots>, Arc<[Waker]>) {
    let wakers = wakers(workers);
    let slots = Slots::new(NonZeroUsize::new(1), when, Arc::clone(&wakers));
    (slots, wakers)
}

/// The handlers that run: one at most.
#[derive(Default)]
struct Handlers(AtomicUsize);

impl Handlers {
    fn run<T>(&self, right: T) -> T {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0);
        assert_eq!(self.0.fetch_sub(1, Ordering::SeqCst), 1);
        right
    }
}

fn take(slots: &Arc<Slots>, wakers: &[Waker], worker: usize) -> Slot {
    loop {
        match slots.take(worker) {
            Some(slot) => return slot.in_use(),
            None => wakers[worker].wait(),
        }
    }
}

fn slots_two_workers() {
    let (slots, wakers) = slots(When::Before, 2);
    let (after, handlers) = (Arc::clone(&slots), Handlers::default());
    run_all(2, move |worker| {
        let slot = take(&slots, &wakers, worker);
        handlers.run(slot).release(worker);
    });
    assert_eq!(after.used(), 0);
    assert!(after.take_now().is_some_and(|_| true));
}

fn slots_three_workers() {
    let (slots, wakers) = slots(When::Before, 3);
    let handlers = Handlers::default();
    run_all(3, move |worker| {
        let slot = take(&slots, &wakers, worker);
        handlers.run(slot).release(worker);
        let slot = take(&slots, &wakers, worker);
        drop(handlers.run(slot));
    });
}

/// Two handlers in all, one at a time. The first start fails, so its slot is for another.
fn slots_total() {
    let wakers = wakers(3);
    let total = NonZeroUsize::new(2).map(|total| Total::new(total, 0));
    let one = NonZeroUsize::new(1);
    let slots = Slots::with_total(one, total, When::Before, Arc::clone(&wakers));
    let (after, handlers) = (Arc::clone(&slots), Handlers::default());
    let (failed, begun) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let all = Arc::clone(&begun);
    run_all(3, move |worker| {
        loop {
            match slots.take(worker) {
                Some(slot) if failed.fetch_add(1, Ordering::SeqCst) == 0 => drop(slot),
                Some(slot) => {
                    let slot = slot.in_use();
                    begun.fetch_add(1, Ordering::SeqCst);
                    if slots.are_spent() {
                        // As the main thread does.
                        wakers.iter().for_each(Waker::wake);
                    }
                    handlers.run(slot).release(worker);
                }
                None if slots.are_spent() => return,
                None => wakers[worker].wait(),
            }
        }
    });
    assert_eq!((all.load(Ordering::SeqCst), after.total()), (2, 2));
}

fn slots_when_needed() {
    let (slots, wakers) = slots(When::Needed, 2);
    let handlers = Handlers::default();
    run_all(2, move |worker| {
        let slot = loop {
            if !slots.may_take(worker) {
                wakers[worker].wait();
            } else if let Some(slot) = slots.take_now() {
                break slot.in_use();
            }
        };
        handlers.run(slot).release(worker);
    });
}

fn slots_stop_waiting() {
    let (slots, wakers) = slots(When::Before, 3);
    let slot = std::sync::Mutex::new(slots.take(0));
    run_all(3, move |worker| match worker {
        0 => {
            let slot = slot.lock().unwrap().take();
            drop(slot);
        }
        // It waits for a slot, and then for something else.
        1 => {
            if let Some(slot) = slots.take(1) {
                slot.release(1);
            }
            slots.stop_waiting(1);
        }
        _ => drop(take(&slots, &wakers, 2)),
    });
}

fn sources_limit() {
    let wakers = wakers(2);
    let sources = Sources::new(Arc::clone(&wakers));
    let handlers = Handlers::default();
    let source = Source::user(1);
    let limits = SourceLimits {
        max: NonZeroUsize::new(1),
        rate: None,
    };
    run_all(2, move |worker| {
        let slot = loop {
            match sources.admit_or_wait(source, limits, 0, worker) {
                Ok(slot) => break slot,
                Err(_) => {
                    wakers[worker].wait();
                    assert_eq!(sources.freed(worker), [source]);
                }
            }
        };
        drop(handlers.run(slot));
    });
}

fn token_bucket() {
    let rate = Rate {
        interval: Duration::from_secs(1),
        burst: 2,
    };
    let (bucket, taken) = (Arc::new(Bucket::new(rate)), Arc::new(AtomicUsize::new(0)));
    let (shared, count) = (Arc::clone(&bucket), Arc::clone(&taken));
    run_all(3, move |thread| {
        if shared.take(0).is_ok() {
            match thread {
                0 => shared.give_back(0, 0),
                _ => drop(count.fetch_add(1, Ordering::SeqCst)),
            }
        }
    });
    let rest = (0..3).take_while(|_| bucket.take(0).is_ok()).count();
    assert_eq!(taken.load(Ordering::SeqCst) + rest, 2);
}

fn rules_replaced() {
    let handle = Arc::new(RulesHandle::new(Rules(true)));
    let shared = Arc::clone(&handle);
    let writer = thread::spawn(move || shared.replace(Rules(false)));
    let mut reader = handle.reader();
    let first = reader.current(&handle).0;
    let second = reader.current(&handle).0;
    // Never back to the old ones.
    assert!(first || !second);
    writer.join().unwrap();
    assert!(!reader.current(&handle).0);
}
