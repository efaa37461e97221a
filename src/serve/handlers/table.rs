//! The table of live handlers. An entry owns all that its handler holds of skd: its pidfd and its
//! slots.

use std::collections::TryReserveError;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::left::{Containment, Left};
use super::linger::KeptConnection;
use super::slab::Slab;
use super::timeouts::Watch;
use super::timers::Timers;
use super::token::Token;
use crate::child::Cgroup;
use crate::config::{ListenerId, Peer, ServiceId};
use crate::report::Told;
use crate::serve::admission::{Slot, SourceSlot, WaitModeLife};
use crate::sys::events::{Interest, Poller};
use crate::sys::process::{self, Change, Ended, Target, Usage, Wait};
use crate::sys::signals::Signal;

/// A live handler.
#[derive(Debug)]
pub(in crate::serve) struct Handler {
    pub(in crate::serve) service: ServiceId,
    /// Where its client has come to.
    pub(in crate::serve) listener: ListenerId,
    pub(in crate::serve) pid: Pid,
    /// Watched by the thread that started the handler. Without it, the handler's end is found by
    /// looking at all children.
    pub(in crate::serve) pidfd: Option<OwnedFd>,
    pub(in crate::serve) work: Work,
    /// What it takes of its source's limits.
    pub(in crate::serve) source_slot: Option<SourceSlot>,
    pub(in crate::serve) peer: Peer,
    /// Whether skd-tls is between it and its client.
    pub(in crate::serve) has_tls: bool,
    pub(in crate::serve) started: Instant,
    /// Why skd has told it to end, if it has: the first reason.
    pub(in crate::serve) told: Option<Told>,
    /// Its connection too, if input is drained after its end.
    pub(in crate::serve) kept: Option<KeptConnection>,
    /// Its control group, if it has one of its own.
    pub(in crate::serve) cgroup: Option<Cgroup>,
    /// Whether it is process 1 of a PID namespace of its own.
    pub(in crate::serve) is_init: bool,
    /// What is known of it, if it has ended and has left processes behind. Its pid may then be
    /// another process's.
    pub(in crate::serve) left: Option<Box<Left>>,
}

/// What a handler is for.
#[derive(Debug)]
pub(in crate::serve) enum Work {
    /// A connection, and the slot that it takes for as long as the entry lives.
    Connection(Slot),
    /// A datagram that skd has received, or all those of a sender, and the slot likewise.
    Datagrams(Slot),
    /// Whatever arrives at the wait-mode socket with this index, which the handler has; and what
    /// counts it.
    WaitMode(usize, WaitModeLife),
}

/// All live handlers, in one part for each thread that starts and reaps some.
///
/// A handler in the table has not been reaped, so its pid is no other process's. Only the main
/// thread ever takes the lock of another thread's part: for signals, and where it has to look at
/// all children.
#[derive(Debug)]
pub(in crate::serve) struct Table {
    parts: Vec<Mutex<Part>>,
    /// How many handlers are without a pidfd that is watched.
    unwatched: AtomicUsize,
    /// How many handlers had ended before this table was made.
    earlier: u64,
    /// Whether handlers may have timeouts.
    timed: bool,
}

impl Table {
    /// An empty table for so many threads, after `earlier` handlers of an earlier process. `timed`
    /// says whether handlers may have timeouts.
    pub(in crate::serve) fn new(threads: usize, earlier: u64, timed: bool) -> Self {
        Self {
            parts: (0..threads).map(|_| Mutex::default()).collect(),
            unwatched: AtomicUsize::new(0),
            earlier,
            timed,
        }
    }

    /// Reserves entries for so many more handlers of this thread: before they are started, since
    /// memory may be short, and a handler that runs must be entered.
    pub(in crate::serve) fn reserve(
        &self,
        thread: usize,
        more: usize,
    ) -> Result<(), TryReserveError> {
        let mut part = self.part(thread);
        part.handlers.reserve(more)?;
        if self.timed {
            let entries = part.handlers.capacity();
            part.timers.reserve(entries)?;
        }
        Ok(())
    }

    /// Enters a handler for which an entry is reserved, with its timeouts if it has some, and
    /// watches its pidfd. If that fails, the handler is entered without its pidfd, and the error
    /// returned. Returns whether another entry is free, too.
    pub(super) fn insert(
        &self,
        thread: usize,
        poller: &Poller,
        mut handler: Handler,
        watch: Option<Watch>,
    ) -> (Result<(), Errno>, bool) {
        let mut part = self.part(thread);
        let index = part.handlers.next_index();
        let token = Token::Handler { thread, index }.into();
        let watched = match (&handler.left, &handler.pidfd) {
            (Some(_), _) => watch_left(poller, &mut handler, token),
            (None, Some(pidfd)) => poller.add(pidfd, Interest::Readable, token),
            (None, None) => Ok(()),
        };
        if watched.is_err() {
            handler.pidfd = None;
        }
        if !handler.is_watched() {
            self.unwatched.fetch_add(1, Ordering::SeqCst);
        }
        part.handlers.insert(handler);
        part.entered += 1;
        if let Some((due, watch)) = watch.and_then(|watch| Some((watch.due()?, watch))) {
            part.timers.insert(index, due, watch);
        }
        (watched, part.handlers.has_room())
    }

    /// Reaps a handler that has ended, and removes it: the handler of this entry, if it has this
    /// pid. (Between being found and being reaped, a handler may have been reaped by its own
    /// thread, and another entered under its index.)
    ///
    /// A contained handler, as `containments` says of its service, is removed when all that it has
    /// started has ended too.
    pub(super) fn reap(
        &self,
        poller: &Poller,
        (thread, index): (usize, usize),
        pid: Option<Pid>,
        containments: &[Option<Containment>],
    ) -> Reaped {
        let mut part = self.part(thread);
        let handler = part.handlers.get_mut(index);
        let Some(handler) = handler.filter(|handler| pid.is_none_or(|pid| handler.pid == pid))
        else {
            return Reaped::Nothing;
        };
        if handler.left.is_some() {
            return self.remove_left(&mut part, poller, index);
        }
        let target = match &handler.pidfd {
            Some(pidfd) => Target::Descriptor(pidfd.as_fd()),
            None => Target::Process(handler.pid),
        };
        let found = process::wait_with_usage(target, Wait::NOW);
        // Before it is closed: a newborn child that still shares the table would keep the
        // registration alive, under a number that is soon another's.
        let watched = handler.pidfd.take();
        if let Some(pidfd) = &watched {
            let _ = poller.remove(pidfd);
        }
        let (ended, usage) = match found {
            Ok(Some((_, Change::Ended(ended), usage))) => (ended, usage),
            // A tracer of the handler is told first; after that, CHLD arrives.
            Ok(_) if watched.is_some() => {
                self.unwatched.fetch_add(1, Ordering::SeqCst);
                return Reaped::Later;
            }
            Ok(_) => return Reaped::Nothing,
            // Nothing else reaps in this process, so the status can't be known.
            Err(_) => (Ended::Exited(0), Usage::default()),
        };
        if watched.is_none() {
            self.unwatched.fetch_sub(1, Ordering::SeqCst);
        }
        let containment = containments.get(handler.service.index());
        let containment = containment.and_then(Option::as_ref);
        if let Some(containment) = containment.filter(|it| handler.leaves_processes(it)) {
            handler.left = Some(Box::new(Left {
                ended,
                usage,
                is_watched: false,
                is_killed: false,
            }));
            let token = Token::Handler { thread, index }.into();
            // If it can't be watched, it is looked at.
            let _ = watch_left(poller, handler, token);
            let is_watched = handler.is_watched();
            if !is_watched {
                self.unwatched.fetch_add(1, Ordering::SeqCst);
            }
            let (_, count) = handler.signal(Signal::SIGTERM);
            let left = LeftBehind {
                at: (handler.service, handler.listener),
                peer: handler.peer,
                pid: handler.pid,
                count,
                is_watched,
            };
            let before = part.timers.remove(index);
            let watch = containment.watch(before);
            if let Some(due) = watch.due() {
                part.timers.insert(index, due, watch);
            }
            return Reaped::Left(left);
        }
        part.timers.remove(index);
        match part.handlers.remove(index) {
            Some(handler) => Reaped::Handler(handler, ended, usage),
            None => Reaped::Nothing,
        }
    }

    /// Removes a handler that has ended before, if all that it had left has ended.
    fn remove_left(&self, part: &mut Part, poller: &Poller, index: usize) -> Reaped {
        let handler = part.handlers.get_mut(index);
        let Some(handler) = handler.filter(|handler| handler.is_over()) else {
            return Reaped::Nothing;
        };
        if !handler.is_watched() {
            self.unwatched.fetch_sub(1, Ordering::SeqCst);
        } else if let Some(events) = handler.events() {
            let _ = poller.remove(events);
        }
        part.timers.remove(index);
        let handler = part.handlers.remove(index);
        let parts = handler.and_then(|mut handler| handler.left.take().map(|left| (handler, left)));
        match parts {
            Some((handler, left)) => Reaped::Handler(handler, left.ended, left.usage),
            None => Reaped::Nothing,
        }
    }

    /// Returns whether there are handlers whose end is found only by looking at all children.
    pub(in crate::serve) fn has_unwatched(&self) -> bool {
        self.unwatched.load(Ordering::SeqCst) > 0
    }

    /// Returns how many handlers live, and how many there have been.
    pub(in crate::serve) fn counts(&self) -> (usize, u64) {
        let parts = (0..self.parts.len()).map(|thread| {
            let part = self.part(thread);
            (part.handlers.len(), part.entered)
        });
        parts.fold((0, self.earlier), |(live, entered), part| {
            (live + part.0, entered + part.1)
        })
    }

    /// Returns the entry of a handler, found by looking at all of them.
    pub(super) fn find(&self, pid: Pid) -> Option<(usize, usize)> {
        (0..self.parts.len()).find_map(|thread| {
            let part = self.part(thread);
            let mut handlers = part.handlers.iter();
            let is_it = |handler: &Handler| handler.pid == pid && handler.left.is_none();
            let found = handlers.find(|(_, handler)| is_it(handler));
            found.map(|(index, _)| (thread, index))
        })
    }

    /// Returns the entry of a handler that has ended, with all that it had left, and isn't watched,
    /// found by asking for each such handler.
    pub(super) fn find_ended(&self) -> Option<((usize, usize), Pid)> {
        (0..self.parts.len()).find_map(|thread| {
            let part = self.part(thread);
            let handlers = part.handlers.iter();
            let mut unwatched = handlers.filter(|(_, handler)| !handler.is_watched());
            let (index, handler) = unwatched.find(|(_, handler)| {
                if handler.left.is_some() {
                    return handler.is_over();
                }
                let found = process::wait(Target::Process(handler.pid), Wait::PEEK);
                matches!(found, Ok(Some((_, Change::Ended(_)))))
            })?;
            Some(((thread, index), handler.pid))
        })
    }

    /// Sends a signal to all that the handlers consist of that `which` selects, and notes why.
    pub(in crate::serve) fn signal(
        &self,
        signal: Signal,
        why: Told,
        mut which: impl FnMut(&Handler) -> bool,
    ) {
        for thread in 0..self.parts.len() {
            let mut part = self.part(thread);
            for index in 0..part.handlers.end() {
                let handler = part.handlers.get_mut(index);
                if let Some(handler) = handler.filter(|handler| which(handler)) {
                    handler.told.get_or_insert(why);
                    handler.signal(signal);
                }
            }
        }
    }

    /// Calls `look` for each handler, with its timeouts.
    pub(in crate::serve) fn each(&self, mut look: impl FnMut(&Handler, Option<&Watch>)) {
        for thread in 0..self.parts.len() {
            let part = self.part(thread);
            for (index, handler) in part.handlers.iter() {
                look(handler, part.timers.get(index));
            }
        }
    }

    /// Calls `look` for the connection of each handler of this part that is kept, with the start of
    /// the handler.
    pub(super) fn each_kept(
        &self,
        thread: usize,
        mut look: impl FnMut(&mut Option<KeptConnection>, Instant),
    ) {
        let mut part = self.part(thread);
        for index in 0..part.handlers.end() {
            if let Some(handler) = part.handlers.get_mut(index) {
                if handler.kept.is_some() {
                    look(&mut handler.kept, handler.started);
                }
            }
        }
    }

    /// Returns when a timeout of this part is due.
    pub(in crate::serve) fn next_due(&self, thread: usize) -> Option<Instant> {
        // Without timeouts no lock is taken.
        let part = self.timed.then(|| self.part(thread));
        part.and_then(|part| part.timers.next()).map(|(due, _)| due)
    }

    /// Calls `act` for the first timeout of this part that is due, if one is.
    pub(super) fn when_due<T>(
        &self,
        thread: usize,
        act: impl FnOnce(&mut Watch, &mut Handler) -> T,
    ) -> Option<T> {
        let mut part = self.timed.then(|| self.part(thread))?;
        let (due, index) = part.timers.next()?;
        if Instant::now() < due {
            return None;
        }
        let Part {
            handlers, timers, ..
        } = &mut *part;
        let (Some(handler), Some(watch)) = (handlers.get_mut(index), timers.get_mut(index)) else {
            timers.remove(index);
            return None;
        };
        let result = act(watch, handler);
        match watch.due() {
            Some(due) => timers.postpone(index, due),
            None => drop(timers.remove(index)),
        }
        Some(result)
    }

    fn part(&self, thread: usize) -> MutexGuard<'_, Part> {
        self.parts[thread]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler {
    /// Whether a thread is told when it has ended: it, or the last of what it has left.
    fn is_watched(&self) -> bool {
        match &self.left {
            Some(left) => left.is_watched,
            None => self.pidfd.is_some(),
        }
    }
}

/// Watches for the end of the last process that a handler has left.
fn watch_left(poller: &Poller, handler: &mut Handler, token: u64) -> Result<(), Errno> {
    let watched = match handler.events() {
        Some(events) => poller.add(events, Interest::Priority, token),
        None => return Ok(()),
    };
    if let Some(left) = &mut handler.left {
        left.is_watched = watched.is_ok();
    }
    watched
}

/// A handler that has ended, and has left processes behind.
#[derive(Debug)]
pub(super) struct LeftBehind {
    pub(super) at: (ServiceId, ListenerId),
    pub(super) peer: Peer,
    pub(super) pid: Pid,
    /// How many processes, as far as it is known.
    pub(super) count: usize,
    /// Whether the end of the last of them is told.
    pub(super) is_watched: bool,
}

/// What was found where a handler was said to have ended.
#[derive(Debug)]
pub(super) enum Reaped {
    /// The handler, how it ended, and what it has used.
    Handler(Handler, Ended, Usage),
    /// The handler has been reaped, and isn't over: it has left processes behind.
    Left(LeftBehind),
    /// The handler can't be reaped yet, and isn't watched any more.
    Later,
    Nothing,
}

/// The handlers of one thread.
#[derive(Debug, Default)]
struct Part {
    handlers: Slab<Handler>,
    /// How many there have ever been. Counted under the lock that is held anyway.
    entered: u64,
    /// The timeouts of handlers, by their indices.
    timers: Timers<Watch>,
}
