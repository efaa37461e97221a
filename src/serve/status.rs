//! What the service manager hears while skd serves: that it does, how many handlers there
//! are, that it lives, and that it ends.
//!
//! The connection path does nothing for it but look whether the main thread wants to know
//! of a change. That wakes at most once a second for the numbers, and not at all while they
//! stay; and at half of the watchdog's time, if there is one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{Phase, Shared};
use crate::setup::Manager;
use crate::setup::notify::HandedManager;
use crate::sys::descriptors::HandOver;

/// The least time between two messages about the numbers, or two tries to tell what is owed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What the other threads have for the main thread to tell.
#[derive(Debug)]
pub(super) struct Signs {
    /// Whether the next change of the numbers is to wake the main thread.
    wanted: AtomicBool,
    /// Whether an answer is to wake it: it is overdue.
    awaited: AtomicBool,
    /// For each acceptor, whether it has answered since it was asked for a sign of life.
    answers: Box<[AtomicBool]>,
}

impl Signs {
    pub(super) fn new(acceptors: usize) -> Self {
        Self {
            wanted: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            answers: (0..acceptors).map(|_| AtomicBool::new(false)).collect(),
        }
    }
}

impl Shared {
    /// A handler has been entered, or taken out of the table. The order of that and of the
    /// main thread's counting is the order in which the lock of that part was taken.
    pub(super) fn note_change(&self) {
        // Written once a second at most, so each core has its own copy at hand.
        if self.signs.wanted.load(Ordering::Relaxed)
            && self.signs.wanted.swap(false, Ordering::SeqCst)
        {
            self.main.wake();
        }
    }

    /// This acceptor has been woken, for whatever reason: it lives.
    pub(super) fn answer(&self, acceptor: usize) {
        self.signs.answers[acceptor].store(true, Ordering::SeqCst);
        if self.signs.awaited.load(Ordering::SeqCst) {
            self.main.wake();
        }
    }

    /// Asks every acceptor for a sign of life.
    fn ask(&self) {
        for (answer, waker) in self.signs.answers.iter().zip(&*self.wakers) {
            answer.store(false, Ordering::SeqCst);
            waker.wake();
        }
    }

    /// Whether every acceptor has given one. One that was told to end needn't.
    fn all_answered(&self) -> bool {
        let mut answers = self.signs.answers.iter();
        self.is_in(Phase::Stopping) || answers.all(|answer| answer.load(Ordering::SeqCst))
    }
}

/// The main thread's word to the service manager; nothing, where there is none.
#[derive(Debug)]
pub(super) struct Status {
    manager: Option<Manager>,
    /// How many handlers there can be, if that is limited.
    limit: Option<usize>,
    /// The last status that it got.
    said: String,
    said_at: Instant,
    /// When there is something to say next.
    due: Option<Instant>,
    watchdog: Option<Watchdog>,
    ending: Ending,
}

#[derive(Debug)]
struct Watchdog {
    /// Within what time it has to hear of skd.
    time: Duration,
    /// When it is to hear of it next; `None` as soon as all have answered.
    due: Option<Instant>,
}

/// How long until a watchdog that has to hear of skd within such a time is told again: half of
/// that; if it hasn't `heard`, well before its patience ends.
pub(super) fn watchdog_pause(time: Duration, heard: bool) -> Duration {
    // No watchdog is in such a hurry, and none may keep skd busy.
    (time / if heard { 2 } else { 16 }).max(Duration::from_millis(1))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    Draining,
    AtOnce,
}

impl Status {
    pub(super) fn new(manager: Option<Manager>, limit: Option<usize>) -> Self {
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

    /// Lets the next image of this process have it.
    pub(super) fn hand_over(&self, to: &mut HandOver) -> Result<Option<HandedManager>, Errno> {
        let manager = self.manager.as_ref();
        manager.map(|manager| manager.pass_on(to)).transpose()
    }

    /// When to call [`Self::look`] though nothing has happened.
    pub(super) fn due(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().and_then(|watchdog| watchdog.due);
        self.due.into_iter().chain(watchdog).min()
    }

    /// Says that skd serves: at the start, and after [`Self::reloading`].
    pub(super) fn ready(&mut self, shared: &Shared) {
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

    /// Says that skd reads again what it has read before; not one that is about to end.
    pub(super) fn reloading(&mut self) {
        if self.ending == Ending::No
            && let Some(manager) = &mut self.manager
        {
            manager.reloading();
        }
    }

    /// Says that skd ends, once: now, or when the handlers that are left have ended.
    pub(super) fn stopping(&mut self, shared: &Shared, draining: bool) {
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
    pub(super) fn look(&mut self, shared: &Shared, now: Instant) {
        let Some(manager) = &self.manager else {
            return;
        };
        let changed = !shared.signs.wanted.load(Ordering::Relaxed);
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

    /// Lets the watchdog know that skd lives, if every acceptor has given a sign of life since
    /// the last time; else as soon as it has.
    fn appease(&mut self, shared: &Shared, now: Instant) {
        let (Some(manager), Some(watchdog)) = (&mut self.manager, &mut self.watchdog) else {
            return;
        };
        if watchdog.due.is_some_and(|due| now < due) {
            return;
        }
        watchdog.due = None;
        // Before the answers are looked at: one in between is seen, or wakes this thread.
        shared.signs.awaited.store(true, Ordering::SeqCst);
        if shared.all_answered() {
            shared.signs.awaited.store(false, Ordering::SeqCst);
            watchdog.due = Some(now + watchdog_pause(watchdog.time, manager.alive()));
            shared.ask();
        }
    }

    /// How things are; from now on any change is noted.
    fn text(&self, shared: &Shared) -> String {
        // Before counting, so that none is missed.
        shared.signs.wanted.store(true, Ordering::SeqCst);
        let (live, served) = shared.handlers.counts();
        if self.ending == Ending::Draining {
            return format!("draining, {} left", Count(live));
        }
        let served = Grouped(served);
        match self.limit {
            Some(limit) => format!("{live} of {}, {served} served", Count(limit)),
            None => format!("{}, {served} served", Count(live)),
        }
    }
}

struct Count(usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} handler{plural}", self.0)
    }
}

/// A number with its thousands set apart: `1,204`.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Self(self.0 / 1000), self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let written = [0, 999, 1000, 1204, 1_000_000, 12_034_056].map(|n| Grouped(n).to_string());
        assert_eq!(
            written,
            ["0", "999", "1,000", "1,204", "1,000,000", "12,034,056"]
        );
        assert_eq!(
            [0, 1, 2].map(|n| Count(n).to_string()),
            ["0 handlers", "1 handler", "2 handlers"]
        );
    }
}
