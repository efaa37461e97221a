//! What all threads share about handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::births::Births;
use super::left::{Containment, KILL_AGAIN};
use super::linger::{CALM, KEPT, KeptConnection, Lingering};
use super::table::{Handler, Table};
use super::timeouts::{Act, Timeouts, Watch};
use crate::report::{self, Client, Event, Trouble, Watched};
use crate::serve::gate::GateProcesses;
use crate::sys::events::{Poller, Waker};
use crate::sys::signals::Signal;

/// What all threads share about handlers. A thread is known by its index; the main thread's is the
/// last.
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
    /// The processes that are gates.
    pub(in crate::serve) gates: Arc<GateProcesses>,
    /// Of each service whose handlers are contained.
    pub(in crate::serve) containments: Box<[Option<Containment>]>,
    /// Wakes the main thread.
    pub(in crate::serve) main: Waker,
    /// Whether the next change of the number of handlers is to wake the main thread.
    pub(in crate::serve) count_wanted: AtomicBool,
    /// Whether the main thread is woken when no slot of a service is used any more: one drains.
    pub(in crate::serve) ends_wanted: AtomicBool,
    /// Whether processes are traced: a look at all children may find a child that has only stopped.
    pub(in crate::serve) traces: bool,
}

/// How many timeouts are looked at before connections and ends are again.
const BATCH: usize = 64;

impl Handlers {
    /// The index of the main thread's parts of the tables, after those of the workers.
    pub(in crate::serve) fn main_index(&self) -> usize {
        self.births.len()
    }

    /// The epoll set that the main thread waits with.
    pub(in crate::serve) fn main_poller(&self) -> &Poller {
        &self.pollers[self.main_index()]
    }

    /// Returns how long orphans may take to end, if this process ends them.
    pub(in crate::serve) fn orphans_end_after(&self) -> Option<Duration> {
        let containments = self.containments.iter().flatten();
        let of_orphans = containments.filter(|it| it.by_process_group);
        of_orphans.map(|it| it.kill_after).max()
    }

    /// Whether what handlers have left behind may have to be found by looking.
    pub(super) fn finds_left(&self) -> bool {
        let mut containments = self.containments.iter();
        containments.any(Option::is_some) && self.table.has_unwatched()
    }

    /// Wakes the main thread if it waits for a change of the number of handlers. The order of
    /// that change and of the main thread's counting is the order in which the lock of that part
    /// was taken.
    pub(super) fn note_change(&self) {
        // Written once a second at most, so each core has its own copy at hand.
        if self.count_wanted.load(Ordering::Relaxed)
            && self.count_wanted.swap(false, Ordering::SeqCst)
        {
            self.main.wake();
        }
    }

    /// Wakes the main thread if it waits for the last handler of a service, and no slot of this one is
    /// used. That thread sets the flag before it counts used slots, and this one has freed the slot:
    /// in the sequential order of all four operations, it has seen the end, or this thread sees the
    /// flag.
    pub(super) fn note_used(&self, used: usize) {
        // Hardly ever written, as above.
        if used == 0 && self.ends_wanted.load(Ordering::SeqCst) {
            self.main.wake();
        }
    }

    /// Enters a handler that this thread has started. A handler that can't be watched is found by
    /// looking at all children. Returns whether there is an entry for another.
    pub(in crate::serve) fn enter(
        &self,
        thread: usize,
        handler: Handler,
        watch: Option<Watch>,
    ) -> bool {
        let (service, has_pidfd) = (handler.service, handler.pidfd.is_some());
        let kept = handler.kept.as_ref();
        if kept.is_some_and(KeptConnection::is_by_default) {
            self.lingering.note_kept(thread, handler.started + KEPT);
        }
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

    /// Shortens `limit` so that a thread that waits so long misses no timeout of this part of the
    /// tables.
    pub(in crate::serve) fn until_due(
        &self,
        part: usize,
        limit: Option<Duration>,
    ) -> Option<Duration> {
        let handlers = self.table.next_due(part);
        let due = handlers.into_iter().chain(self.lingering.due(part)).min();
        // Without timeouts no look at the clock.
        let until = due.map(|due| due.saturating_duration_since(Instant::now()));
        limit.into_iter().chain(until).min()
    }

    /// Closes the connections of this part whose time is over: those that linger, and those that are
    /// kept by default. Of the latter all are looked at, at most once in [`CALM`].
    pub(in crate::serve) fn close_overdue(&self, part: usize) {
        let poller = &self.pollers[part];
        let Some(now) = self.lingering.close_overdue(part, poller) else {
            return;
        };
        let mut next: Option<Instant> = None;
        self.table.each_kept(part, |kept, started| {
            let Some(connection) = kept.take_if(|kept| kept.is_by_default()) else {
                return;
            };
            let until = started + KEPT;
            if until <= now {
                return connection.let_go();
            }
            *kept = Some(connection);
            next = Some(next.map_or(until, |next| next.min(until)));
        });
        if let Some(next) = next {
            self.lingering.note_kept(part, next.max(now + CALM));
        }
    }

    /// Acts on the timeouts of this part of the table that are due; not on all at once, if there
    /// are many.
    pub(in crate::serve) fn act_on_timeouts(&self, part: usize) {
        for _ in 0..BATCH {
            let act = |watch: &mut Watch, handler: &mut Handler| {
                let timeouts = self.timeouts.get(handler.service.index());
                let mut sent = Signal::SIGTERM;
                let act = match timeouts.and_then(Option::as_ref) {
                    _ if handler.left.is_some() => kill_left(watch, handler),
                    // Under the lock, so that the handler isn't reaped, and its pid no other's.
                    Some(timeouts) => timeouts.act(watch, handler.started, |signal| {
                        (sent, _) = handler.signal(signal);
                    }),
                    None => {
                        *watch = Watch::none();
                        None
                    }
                };
                if let Some(Act::Terminate(late)) = act {
                    handler.told.get_or_insert(late.told());
                }
                let pid = handler.pid.as_raw();
                let at = (handler.service, handler.listener);
                act.map(|act| (act, sent, at, pid, handler.peer))
            };
            let due = self.table.when_due(part, act);
            let client = |(service, listener), peer| Client {
                service,
                listener,
                peer,
            };
            match due {
                None => return,
                Some(None) => {}
                Some(Some((Act::Terminate(late), sent, at, pid, peer))) => {
                    let is_killed = sent == Signal::SIGKILL;
                    report::event(Event::Late(client(at, &peer), pid, late, is_killed));
                }
                Some(Some((Act::Kill, _, at, pid, peer))) => {
                    report::event(Event::KillingHandler(client(at, &peer), pid));
                }
                Some(Some((Act::Unknown(errno), _, (service, _), ..))) => {
                    report::event(Event::Trouble(Trouble::IdleTimeout(service, errno)));
                }
            }
        }
    }
}

/// Kills what a handler has left behind, if that is due, and says so the first time.
fn kill_left(watch: &mut Watch, handler: &mut Handler) -> Option<Act> {
    let now = Instant::now();
    let act = watch.kill(now)?;
    handler.signal(Signal::SIGKILL);
    watch.kill_again(now + KILL_AGAIN);
    let left = handler.left.as_mut()?;
    (!std::mem::replace(&mut left.is_killed, true)).then_some(act)
}
