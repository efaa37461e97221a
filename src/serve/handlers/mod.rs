//! Live handlers: how each begins, what it is held to, and where it ends.

pub(in crate::serve) mod linger;
pub(in crate::serve) mod reap;
pub(in crate::serve) mod saved;
pub(in crate::serve) mod slab;
pub(in crate::serve) mod table;
pub(in crate::serve) mod timeouts;
pub(in crate::serve) mod timers;
pub(in crate::serve) mod token;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::report::{self, Event, Trouble, Watched};
use crate::sys::events::{Poller, Waker};

use linger::Lingering;
use reap::Births;
use table::{Handler, Table};
use timeouts::{Timeouts, Watch};

/// What all threads share about handlers. A thread is known by its index; the main thread's is
/// the last.
#[derive(Debug)]
pub(in crate::serve) struct Handlers {
    pub(in crate::serve) table: Table,
    pub(in crate::serve) lingering: Lingering,
    /// The epoll set of each thread, in which the pidfds of its handlers are.
    pub(in crate::serve) pollers: Box<[Poller]>,
    /// Of each thread but the main one.
    pub(in crate::serve) births: Box<[Births]>,
    /// Of each service.
    pub(in crate::serve) timeouts: Box<[Option<Timeouts>]>,
    /// Wakes the main thread.
    pub(in crate::serve) main: Waker,
    /// Whether the next change of the number of handlers is to wake the main thread.
    pub(in crate::serve) count_wanted: AtomicBool,
    /// Whether processes are traced, so that no thread may wait for just any child.
    pub(in crate::serve) traces: bool,
}

impl Handlers {
    /// The main thread's part of the tables, after those of the workers.
    pub(in crate::serve) fn main_index(&self) -> usize {
        self.births.len()
    }

    /// The epoll set that the main thread waits with.
    pub(in crate::serve) fn main_poller(&self) -> &Poller {
        &self.pollers[self.main_index()]
    }

    /// Wakes the main thread if it waits for a change of the number of handlers. The order of
    /// that change and of the main thread's counting is the order in which the lock of that part
    /// was taken.
    pub(in crate::serve) fn note_change(&self) {
        // Written once a second at most, so each core has its own copy at hand.
        if self.count_wanted.load(Ordering::Relaxed)
            && self.count_wanted.swap(false, Ordering::SeqCst)
        {
            self.main.wake();
        }
    }

    /// Enters a handler that this thread has started. One that can't be watched is found by
    /// looking at all children. Returns whether there is an entry for another.
    pub(in crate::serve) fn enter(
        &self,
        thread: usize,
        handler: Handler,
        watch: Option<Watch>,
    ) -> bool {
        let (service, has_pidfd) = (handler.service, handler.pidfd.is_some());
        let poller = &self.pollers[thread];
        let (watched, more) = self.table.insert(thread, poller, handler, watch);
        if let Err(errno) = watched {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: Some(service),
                what: Watched::Handler,
                errno,
            }));
        }
        if !has_pidfd || watched.is_err() {
            self.main.wake();
        }
        self.note_change();
        more
    }
}
