//! Events for clients of the control socket that watch them: a bounded queue.
//!
//! Nothing is queued while nothing watches, which costs each event one relaxed load.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skd_control::EventLine;

use super::event::Event;
use super::{counters, json};
use crate::sys::events::Waker;

/// The maximum number of events in the queue: half a second of 8,000 connections, with some 3 MB.
const CAPACITY: usize = 4096;

static WATCHED: AtomicBool = AtomicBool::new(false);

/// Locked for each event, but only while something watches, and for no longer than a push takes.
static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    events: VecDeque::new(),
    lost: 0,
    waker: None,
});

#[derive(Debug)]
struct Queue {
    events: VecDeque<EventLine<'static>>,
    /// How many events have found the queue full since some were taken.
    lost: u64,
    waker: Option<Arc<Waker>>,
}

/// Has events queued until it is dropped. There is one at a time.
#[derive(Debug)]
#[must_use]
pub struct Watch(());

/// Queues events from now on. The waker is woken when there are some, after there were none.
pub fn watch(waker: Arc<Waker>) -> Watch {
    queue().waker = Some(waker);
    WATCHED.store(true, Ordering::Relaxed);
    Watch(())
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::Relaxed);
        let (waker, events) = {
            let mut queue = queue();
            queue.lost = 0;
            (queue.waker.take(), std::mem::take(&mut queue.events))
        };
        // Not under the lock, which threads that serve may wait for.
        drop((waker, events));
    }
}

/// Moves all queued events to the end of `events`. Returns how many were lost after them, since the
/// queue was full.
pub fn take(events: &mut Vec<EventLine<'static>>) -> u64 {
    // Nothing is freed under the lock.
    let (taken, lost) = {
        let mut queue = queue();
        let taken = std::mem::take(&mut queue.events);
        (taken, std::mem::take(&mut queue.lost))
    };
    events.extend(taken);
    lost
}

/// Whether events are to be queued.
pub(super) fn is_watched() -> bool {
    WATCHED.load(Ordering::Relaxed)
}

/// Queues an event.
pub(super) fn push(event: &Event<'_>) {
    let line = json::with_line(event, |line| line.clone().into_owned());
    let mut queue = queue();
    // It was let go of meanwhile.
    let Some(waker) = queue.waker.clone() else {
        return;
    };
    if queue.events.len() >= CAPACITY {
        queue.lost = queue.lost.saturating_add(1);
        counters::count_lost_events(1);
        return;
    }
    let was_empty = queue.events.is_empty();
    queue.events.push_back(line);
    drop(queue);
    if was_empty {
        waker.wake();
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::{self as report, DropReason};
    use super::*;
    use crate::config::ServiceId;
    use std::os::fd::AsFd;

    #[test]
    fn events_are_queued_while_something_watches_and_lost_ones_are_counted() {
        report::set_test_services();
        let event = Event::Dropped(ServiceId::new(6), 7, DropReason::Empty);
        // Other tests report too.
        let own = |events: &[EventLine<'_>]| {
            let own = |line: &&EventLine<'_>| line.count == Some(7);
            events.iter().filter(own).count()
        };
        let mut events = Vec::new();
        report::event(event);
        take(&mut events);
        assert_eq!(events, []);
        let waker = Arc::new(Waker::new().unwrap());
        let woken = || crate::sys::events::is_readable(waker.as_fd());
        let watch = watch(Arc::clone(&waker));
        assert!(!woken());
        report::event(event);
        assert!(woken());
        take(&mut events);
        assert_eq!(own(&events), 1);
        for _ in 0..CAPACITY + 3 {
            report::event(event);
        }
        events.clear();
        assert!(take(&mut events) >= 3);
        assert_eq!(events.len(), CAPACITY);
        assert_eq!(take(&mut Vec::new()), 0);
        drop(watch);
        report::event(event);
        events.clear();
        take(&mut events);
        assert_eq!(events, []);
    }
}
