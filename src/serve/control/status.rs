//! What the service manager is told while skd serves: that it is ready, how many handlers there
//! are, that it lives, and that it ends.
//!
//! The connection path does nothing for it but look whether the main thread wants to know
//! of a change. That wakes at most once a second for the numbers, and not at all while they
//! stay; and at half of the watchdog's time, if there is one.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::config::{Count, Grouped};
use crate::serve::worker::{Phase, Shared};
use crate::setup::Manager;
use crate::setup::notify::{PAUSE, SavedManager, watchdog_pause};
use crate::sys::descriptors::SavedDescriptors;

/// Asks every worker for a sign of life.
fn ask(shared: &Shared) {
    for (answer, waker) in shared.answers.iter().zip(&*shared.wakers) {
        answer.store(false, Ordering::SeqCst);
        waker.wake();
    }
}

/// Returns whether every worker has given a sign of life. After the end has begun, none is needed.
fn all_answered(shared: &Shared) -> bool {
    let mut answers = shared.answers.iter();
    shared.is_in(Phase::Stopping) || answers.all(|answer| answer.load(Ordering::SeqCst))
}

/// What the main thread tells the service manager, if there is one.
#[derive(Debug)]
pub(in crate::serve) struct Status {
    manager: Option<Manager>,
    /// How many handlers there can be, if that is limited.
    limit: Option<usize>,
    /// The last status that the manager got.
    said: String,
    said_at: Instant,
    /// When there is something to say next.
    due: Option<Instant>,
    watchdog: Option<Watchdog>,
    ending: Ending,
}

#[derive(Debug)]
struct Watchdog {
    /// The longest time between two signs of life.
    time: Duration,
    /// When the next one is due; `None` as soon as all workers have answered.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    Draining,
    AtOnce,
}

impl Status {
    pub(in crate::serve) fn new(manager: Option<Manager>, limit: Option<usize>) -> Self {
        let time = manager.as_ref().and_then(Manager::watchdog);
        Self {
            manager,
            limit,
            said: String::new(),
            said_at: Instant::now(),
            due: None,
            watchdog: time.map(|time| Watchdog { time, due: None }),
            ending: Ending::No,
        }
    }

    /// Saves the connection to the service manager for the next binary.
    pub(in crate::serve) fn save(
        &self,
        to: &mut SavedDescriptors,
    ) -> Result<Option<SavedManager>, Errno> {
        let manager = self.manager.as_ref();
        manager.map(|manager| manager.save(to)).transpose()
    }

    /// When to call [`Self::look`] though nothing has happened.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().and_then(|watchdog| watchdog.due);
        self.due.into_iter().chain(watchdog).min()
    }

    /// Says that skd serves: at the start, and after [`Self::reloading`].
    pub(in crate::serve) fn ready(&mut self, shared: &Shared) {
        // After STOPPING=1 it would be taken back.
        if self.manager.is_none() || self.ending != Ending::No {
            return;
        }
        let status = self.text(shared);
        if let Some(manager) = &mut self.manager {
            manager.ready(&status);
        }
        self.note_said(status);
        self.look(shared, self.said_at);
    }

    /// Says that skd reads again what it has read before; not when it is about to end.
    pub(in crate::serve) fn reloading(&mut self) {
        if self.ending != Ending::No {
            return;
        }
        if let Some(manager) = &mut self.manager {
            manager.reloading();
        }
    }

    /// Says that skd ends, once: now, or when the handlers that are left have ended.
    pub(in crate::serve) fn stopping(&mut self, shared: &Shared, draining: bool) {
        if self.ending != Ending::No {
            return;
        }
        self.ending = if draining {
            Ending::Draining
        } else {
            Ending::AtOnce
        };
        if self.manager.is_none() {
            return;
        }
        let status = draining.then(|| self.text(shared));
        if let Some(manager) = &mut self.manager {
            manager.stopping(status.as_deref());
        }
        self.note_said(status.unwrap_or_default());
    }

    fn note_said(&mut self, status: String) {
        self.said = status;
        self.said_at = Instant::now();
        self.due = None;
    }

    /// Says what is to be said by now; called whenever the main thread has been woken.
    pub(in crate::serve) fn look(&mut self, shared: &Shared, now: Instant) {
        let Some(manager) = &self.manager else {
            return;
        };
        let changed = !shared.handlers.count_wanted.load(Ordering::Relaxed);
        if self.due.is_none() && (changed || manager.is_owed()) {
            self.due = Some(self.said_at + PAUSE);
        }
        if self.due.is_some_and(|due| due <= now) {
            self.tell(shared, now);
        }
        self.appease(shared, now);
    }

    fn tell(&mut self, shared: &Shared, now: Instant) {
        self.due = None;
        self.said_at = now;
        let status = self.text(shared);
        let Some(manager) = &mut self.manager else {
            return;
        };
        let told = if status == self.said {
            manager.settle()
        } else {
            manager.status(&status)
        };
        if told {
            self.said = status;
        } else {
            self.due = Some(now + PAUSE);
        }
    }

    /// Tells the watchdog that skd lives, if every worker has given a sign of life since the last
    /// time; else as soon as each has.
    fn appease(&mut self, shared: &Shared, now: Instant) {
        let (Some(manager), Some(watchdog)) = (&mut self.manager, &mut self.watchdog) else {
            return;
        };
        if watchdog.due.is_some_and(|due| now < due) {
            return;
        }
        watchdog.due = None;
        // Before the answers are looked at: one in between is seen, or wakes this thread.
        shared.answer_wanted.store(true, Ordering::SeqCst);
        if all_answered(shared) {
            shared.answer_wanted.store(false, Ordering::SeqCst);
            watchdog.due = Some(now + watchdog_pause(watchdog.time, manager.alive()));
            ask(shared);
        }
    }

    /// The status as text. From now on any change is noted.
    fn text(&self, shared: &Shared) -> String {
        // Before counting, so that none is missed.
        shared.handlers.count_wanted.store(true, Ordering::SeqCst);
        let (live, served) = shared.handlers.table.counts();
        if self.ending == Ending::Draining {
            return format!("draining, {} left", handlers(live));
        }
        let served = Grouped(served);
        match self.limit {
            Some(limit) => format!("{live} of {}, {served} served", handlers(limit)),
            None => format!("{}, {served} served", handlers(live)),
        }
    }
}

/// A number of handlers, in words.
fn handlers(count: usize) -> Count<usize> {
    Count(count, "handler", "handlers")
}
