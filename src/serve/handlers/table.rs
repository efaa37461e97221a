//! The table of live handlers. An entry owns all that its handler holds of skd: its pidfd
//! and its place.

use std::collections::TryReserveError;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::super::admission::{Slot, SourceSlot};
use super::linger::KeptConnection;
use super::timeouts::Watch;
use super::timers::Timers;
use super::token::Token;
use crate::config::ServiceId;
use crate::net::Peer;
use crate::sys::events::{Interest, Poller};
use crate::sys::process::{self, Change, Ended, Target, Wait};
use crate::sys::signals::{Signal, signal_group};

/// A handler that runs.
#[derive(Debug)]
pub(in crate::serve) struct Handler {
    pub(in crate::serve) service: ServiceId,
    pub(in crate::serve) pid: Pid,
    /// Watched by the thread that started it. Where there is none, the handler's end is found
    /// by looking at all children.
    pub(in crate::serve) pidfd: Option<OwnedFd>,
    pub(in crate::serve) work: Work,
    /// What it takes of its source's limits.
    pub(in crate::serve) source_slot: Option<SourceSlot>,
    pub(in crate::serve) peer: Peer,
    pub(in crate::serve) started: Instant,
    /// Its connection too, if the client is heard out after the handler's end.
    pub(in crate::serve) kept: Option<KeptConnection>,
}

/// What a handler is for.
#[derive(Debug)]
pub(in crate::serve) enum Work {
    /// A connection, and the place that it takes for as long as the entry lives.
    Connection(Slot),
    /// A datagram that skd has received, or all those of a sender, and the place likewise.
    Datagrams(Slot),
    /// Whatever comes to the listener with this index, which it was lent.
    WaitMode(usize),
}

/// All of them, in one part for each thread that starts some and reaps them. What is in the
/// table has not been reaped, so its pid is nobody else's. A thread shares the lock of its
/// part with nobody but the main thread, who takes it for signals and where it has to look at
/// all children.
#[derive(Debug)]
pub(in crate::serve) struct Table {
    parts: Vec<Mutex<Part>>,
    /// How many are without a pidfd that is watched.
    unwatched: AtomicUsize,
    /// How many handlers had ended before this table was made.
    earlier: u64,
    /// Whether handlers may be watched for being late.
    timed: bool,
}

impl Table {
    /// An empty table for so many threads, after `earlier` handlers of another image; `timed` if
    /// some handlers have a time limit.
    pub(in crate::serve) fn new(threads: usize, earlier: u64, timed: bool) -> Self {
        Self {
            parts: (0..threads).map(|_| Mutex::default()).collect(),
            unwatched: AtomicUsize::new(0),
            earlier,
            timed,
        }
    }

    /// Makes room for so many more handlers of this thread: before they are started, since
    /// memory may be short, and what runs must be entered.
    pub(in crate::serve) fn reserve(
        &self,
        thread: usize,
        more: usize,
    ) -> Result<(), TryReserveError> {
        let mut part = self.part(thread);
        part.reserve(more)?;
        if self.timed {
            let entries = part.entries.capacity();
            part.timers.reserve(entries)?;
        }
        Ok(())
    }

    /// Enters a handler, for which there is room, with its time limits if it has some, and has
    /// its end watched for. If that can't be, it is entered without its pidfd, and the reason given. Says whether there is room
    /// for another.
    pub(in crate::serve) fn insert(
        &self,
        thread: usize,
        poller: &Poller,
        mut handler: Handler,
        watch: Option<Watch>,
    ) -> (Result<(), Errno>, bool) {
        let mut part = self.part(thread);
        let index = part.next();
        let watched = match &handler.pidfd {
            Some(pidfd) => {
                let key = Token::Handler { thread, index };
                poller.add(pidfd, Interest::Readable, key.into())
            }
            None => Ok(()),
        };
        if watched.is_err() {
            handler.pidfd = None;
        }
        if handler.pidfd.is_none() {
            self.unwatched.fetch_add(1, Ordering::SeqCst);
        }
        part.insert(handler);
        if let Some((due, watch)) = watch.and_then(|watch| Some((watch.due()?, watch))) {
            part.timers.insert(index, due, watch);
        }
        (watched, part.has_room())
    }

    /// Reaps a handler that has ended, and takes it out: the one at this place, if it is the
    /// one with this id. (Between being found and being reaped, a handler may have been reaped
    /// by its own thread and another entered in its place.)
    pub(in crate::serve) fn reap(
        &self,
        poller: &Poller,
        (thread, index): (usize, usize),
        pid: Option<Pid>,
    ) -> Reaped {
        let mut part = self.part(thread);
        let handler = part.get(index);
        let Some(handler) = handler.filter(|handler| pid.is_none_or(|pid| handler.pid == pid))
        else {
            return Reaped::Nobody;
        };
        let target = match &handler.pidfd {
            Some(pidfd) => Target::Descriptor(pidfd.as_fd()),
            None => Target::Process(handler.pid),
        };
        let found = process::wait(target, Wait::NOW);
        // Before it is closed: a newborn child that still shares the table would keep the
        // registration alive, under a number that is soon another's.
        let watched = handler.pidfd.take();
        if let Some(pidfd) = &watched {
            let _ = poller.remove(pidfd);
        }
        let ended = match found {
            Ok(Some((_, Change::Ended(ended)))) => ended,
            // Whoever traces it is to know first; after that, CHLD comes.
            Ok(_) if watched.is_some() => {
                self.unwatched.fetch_add(1, Ordering::SeqCst);
                return Reaped::Later;
            }
            Ok(_) => return Reaped::Nobody,
            // Nobody else reaps in this process; so there is nothing to be known.
            Err(_) => Ended::Exited(0),
        };
        if watched.is_none() {
            self.unwatched.fetch_sub(1, Ordering::SeqCst);
        }
        match part.remove(index) {
            Some(handler) => Reaped::Handler(handler, ended),
            None => Reaped::Nobody,
        }
    }

    /// Whether there are handlers whose end is found only by looking at all children.
    pub(in crate::serve) fn has_unwatched(&self) -> bool {
        self.unwatched.load(Ordering::SeqCst) > 0
    }

    /// How many there are, and how many there have been.
    pub(in crate::serve) fn counts(&self) -> (usize, u64) {
        let parts = (0..self.parts.len()).map(|thread| {
            let part = self.part(thread);
            (part.live, part.entered)
        });
        parts.fold((0, self.earlier), |(live, entered), part| {
            (live + part.0, entered + part.1)
        })
    }

    /// Where a handler is, found by looking at all of them.
    pub(in crate::serve) fn find(&self, pid: Pid) -> Option<(usize, usize)> {
        (0..self.parts.len()).find_map(|thread| {
            let part = self.part(thread);
            let found = part.live().find(|(_, handler)| handler.pid == pid);
            found.map(|(index, _)| (thread, index))
        })
    }

    /// Where one is that has ended and that no pidfd tells of, found by asking for each such.
    pub(in crate::serve) fn find_ended(&self) -> Option<((usize, usize), Pid)> {
        (0..self.parts.len()).find_map(|thread| {
            let part = self.part(thread);
            let mut unwatched = part.live().filter(|(_, handler)| handler.pidfd.is_none());
            let (index, handler) = unwatched.find(|(_, handler)| {
                let found = process::wait(Target::Process(handler.pid), Wait::PEEK);
                matches!(found, Ok(Some((_, Change::Ended(_)))))
            })?;
            Some(((thread, index), handler.pid))
        })
    }

    /// Sends a signal to the process groups of those handlers for which `which` says so.
    pub(in crate::serve) fn signal(&self, signal: Signal, which: impl Fn(&Handler) -> bool) {
        for thread in 0..self.parts.len() {
            let part = self.part(thread);
            for (_, handler) in part.live().filter(|(_, handler)| which(handler)) {
                signal_group(handler.pid, signal);
            }
        }
    }

    /// Looks at all of them, and at what they are held to.
    pub(in crate::serve) fn each(&self, mut look: impl FnMut(&Handler, Option<&Watch>)) {
        for thread in 0..self.parts.len() {
            let part = self.part(thread);
            for (index, handler) in part.live() {
                look(handler, part.timers.get(index));
            }
        }
    }

    /// When something is due for a handler of this part.
    pub(in crate::serve) fn next_due(&self, thread: usize) -> Option<Instant> {
        // Without time limits no lock is taken.
        let timers = self.timed.then(|| self.part(thread));
        timers
            .and_then(|part| part.timers.next())
            .map(|(due, _)| due)
    }

    /// Acts on the first watch of this part that is due, if one is.
    pub(in crate::serve) fn when_due<T>(
        &self,
        thread: usize,
        act: impl FnOnce(&mut Watch, &Handler) -> T,
    ) -> Option<T> {
        let mut part = self.timed.then(|| self.part(thread))?;
        let (due, index) = part.timers.next()?;
        if Instant::now() < due {
            return None;
        }
        let Part {
            entries, timers, ..
        } = &mut *part;
        let (Some(Entry::Live(handler)), Some(watch)) = (entries.get(index), timers.get_mut(index))
        else {
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

/// What was found where a handler was said to have ended.
#[derive(Debug)]
pub(in crate::serve) enum Reaped {
    /// It, and how it ended.
    Handler(Handler, Ended),
    /// It can't be reaped yet, and isn't watched any more.
    Later,
    /// Nothing to be done.
    Nobody,
}

/// Entries that keep their index for life. Those that are free are chained, so that neither
/// entering nor removing allocates.
#[derive(Debug, Default)]
struct Part {
    entries: Vec<Entry>,
    free: Option<usize>,
    /// How many are live, and how many have ever been: under the lock that is held anyway, so
    /// that counting costs nothing.
    live: usize,
    entered: u64,
    /// For those that are held to a time.
    timers: Timers<Watch>,
}

#[derive(Debug)]
enum Entry {
    Live(Handler),
    /// Free, and the next one that is.
    Free(Option<usize>),
}

impl Part {
    fn has_room(&self) -> bool {
        self.free.is_some() || self.entries.len() < self.entries.capacity()
    }

    fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        if more == 1 && self.has_room() {
            return Ok(());
        }
        self.entries.try_reserve(more)
    }

    /// The index of the entry that [`Self::insert`] will make.
    fn next(&self) -> usize {
        self.free.unwrap_or(self.entries.len())
    }

    fn insert(&mut self, handler: Handler) {
        let index = self.next();
        self.live += 1;
        self.entered += 1;
        match self.entries.get_mut(index) {
            Some(entry) => {
                if let Entry::Free(next) = *entry {
                    self.free = next;
                }
                *entry = Entry::Live(handler);
            }
            None => self.entries.push(Entry::Live(handler)),
        }
    }

    fn get(&mut self, index: usize) -> Option<&mut Handler> {
        match self.entries.get_mut(index) {
            Some(Entry::Live(handler)) => Some(handler),
            Some(Entry::Free(_)) | None => None,
        }
    }

    fn remove(&mut self, index: usize) -> Option<Handler> {
        let entry = self.entries.get_mut(index)?;
        if let Entry::Free(_) = entry {
            return None;
        }
        self.timers.remove(index);
        match std::mem::replace(entry, Entry::Free(self.free)) {
            Entry::Live(handler) => {
                self.free = Some(index);
                self.live -= 1;
                Some(handler)
            }
            Entry::Free(_) => None,
        }
    }

    fn live(&self) -> impl Iterator<Item = (usize, &Handler)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| match entry {
                Entry::Live(handler) => Some((index, handler)),
                Entry::Free(_) => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(pid: i32) -> Handler {
        Handler {
            service: ServiceId::new(0),
            pid: Pid::from_raw(pid),
            pidfd: None,
            work: Work::WaitMode(0),
            source_slot: None,
            peer: Peer::LocalDatagram,
            started: Instant::now(),
            kept: None,
        }
    }

    #[test]
    fn entries_keep_their_index_and_free_ones_are_used_again() {
        let mut part = Part::default();
        for pid in 1..=3 {
            part.reserve(1).unwrap();
            part.insert(handler(pid));
        }
        assert_eq!(part.remove(1).unwrap().pid.as_raw(), 2);
        assert!(part.remove(1).is_none());
        assert_eq!(part.remove(0).unwrap().pid.as_raw(), 1);
        assert!(part.remove(7).is_none());
        assert_eq!(part.next(), 0);
        part.insert(handler(4));
        part.insert(handler(5));
        let live: Vec<(usize, i32)> = part
            .live()
            .map(|(index, handler)| (index, handler.pid.as_raw()))
            .collect();
        assert_eq!(live, [(0, 4), (1, 5), (2, 3)]);
        assert_eq!((part.live, part.entered), (3, 5));
        assert_eq!(part.next(), 3);
    }
}
