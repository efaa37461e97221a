//! The table of live handlers. An entry owns all that its handler holds of skd: its pidfd
//! and its place.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::Pid;
use slab::Slab;

use super::admit::Place;
use crate::net::Peer;
use crate::sys::events::{Interest, Poller};
use crate::sys::signals::{Signal, kill, killpg};

/// A handler that runs.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) pid: Pid,
    /// Watched by the main thread. Where there is none, the handler's end is found by
    /// looking at all children.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) work: Work,
    pub(super) peer: Peer,
    pub(super) started: Instant,
}

/// What a handler is for.
#[derive(Debug)]
pub(super) enum Work {
    /// A connection, and the place that it takes, held until the entry goes.
    Connection(Place),
    /// The datagrams of the listener with this index.
    Datagrams(usize),
}

/// Keys of handlers in the main poller begin here.
pub(super) const FIRST_KEY: u64 = 1 << 32;

/// All of them, in one part for each thread that starts some: so a thread shares the lock
/// of its part with nobody but the one who removes entries.
#[derive(Debug)]
pub(super) struct Handlers {
    parts: Vec<Mutex<Slab<Handler>>>,
    count: AtomicUsize,
}

impl Handlers {
    /// An empty table for so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            parts: (0..threads).map(|_| Mutex::new(Slab::new())).collect(),
            count: AtomicUsize::new(0),
        }
    }

    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Enters a handler and has its end watched for. If that can't be, it is entered
    /// without its pidfd, and the reason returned.
    pub(super) fn insert(
        &self,
        thread: usize,
        poller: &Poller,
        mut handler: Handler,
    ) -> Result<(), Errno> {
        let mut part = self.part(thread);
        let entry = part.vacant_entry();
        let key = ((thread as u64 + 1) << 32) | entry.key() as u64;
        let watched = match &handler.pidfd {
            Some(pidfd) => poller.add(pidfd, Interest::Readable, key),
            None => Err(Errno::EBADF),
        };
        if watched.is_err() {
            handler.pidfd = None;
        }
        entry.insert(handler);
        self.count.fetch_add(1, Ordering::Relaxed);
        watched
    }

    /// Takes the handler out that the main poller knows by this key.
    pub(super) fn remove(&self, key: u64) -> Option<Handler> {
        let thread = usize::try_from((key >> 32).checked_sub(1)?).ok()?;
        let index = (key & u64::from(u32::MAX)) as usize;
        let removed = self.parts.get(thread)?.lock();
        let removed = removed
            .unwrap_or_else(PoisonError::into_inner)
            .try_remove(index)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(removed)
    }

    /// The key of a handler, found by looking at all of them.
    pub(super) fn find(&self, pid: Pid) -> Option<u64> {
        (0..self.parts.len()).find_map(|thread| {
            let part = self.part(thread);
            let found = part.iter().find(|(_, handler)| handler.pid == pid);
            found.map(|(index, _)| ((thread as u64 + 1) << 32) | index as u64)
        })
    }

    /// Sends a signal to the process groups of those handlers for which `which` says so.
    ///
    /// None can have been reaped, so no pid can be another's: only the caller, the main
    /// thread, reaps.
    pub(super) fn signal(&self, signal: Signal, which: impl Fn(&Handler) -> bool) {
        for thread in 0..self.parts.len() {
            for (_, handler) in self
                .part(thread)
                .iter()
                .filter(|(_, handler)| which(handler))
            {
                // One that has left its group isn't spared.
                if killpg(handler.pid, signal).is_err() {
                    let _ = kill(handler.pid, signal);
                }
            }
        }
    }

    fn part(&self, thread: usize) -> MutexGuard<'_, Slab<Handler>> {
        self.parts[thread]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
