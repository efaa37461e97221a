//! A worker hands a connection to a prestarted handler.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::parked::Refusal;
use super::pool::Pool;
use super::state::Due;
use crate::child::spawn::Spawned;
use crate::config::Prestart;
use crate::sys::process;

/// How often at most the program's files are looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Pool {
    /// Hands a connection to a prestarted handler, if there is one.
    pub(in crate::child) fn hand_off(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        if self.is_outdated() {
            self.renew();
            return None;
        }
        match self.prestart {
            Prestart::Warm(_) => self.give_to_one(connection),
            Prestart::ForkServer { .. } => self.give_to_copy(connection),
        }
    }

    /// Whether the program has changed since it was started.
    ///
    /// Looked at by one thread, once a second at most: two system calls, and some more for a
    /// script. All other connections cost an atomic read.
    fn is_outdated(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        if now.saturating_sub(looked) < LOOK.as_millis() as u64 {
            return false;
        }
        let next = self
            .looked
            .compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed);
        if next.is_err() {
            return false;
        }
        // Not looked at under the lock: a file may be on a remote server.
        let sources = self.state().sources.clone();
        sources.is_some_and(|sources| !sources.are_unchanged())
    }

    fn give_to_one(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        loop {
            // A lock that is held for a moment: all workers take from the same few.
            let mut state = self.state();
            let parked = state.parked.pop_front();
            state.missed = state.missed.saturating_add(u32::from(parked.is_none()));
            // One system call where the keeper has nothing to do, and none under load.
            let idle = std::mem::take(&mut state.idle);
            drop(state);
            if idle {
                self.waker.wake();
            }
            let parked = parked?;
            // From now on another thread watches its pidfd.
            let _ = self.poller.remove(parked.pidfd());
            match parked.give(connection) {
                Ok(pid) => {
                    return Some(Spawned {
                        pid,
                        pidfd: Some(parked.into_pidfd()),
                    });
                }
                Err(Refusal::Lost) => self.discard(parked),
                Err(Refusal::Short | Refusal::Silent) => {
                    // What keeps one from answering may keep others too; the client has waited
                    // enough.
                    self.discard(parked);
                    return None;
                }
            }
        }
    }

    fn give_to_copy(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        let mut template = self.template();
        let successor = template.as_ref()?.give(connection);
        match successor {
            Ok(pid) => {
                drop(template);
                Some(Spawned {
                    pid,
                    // It can't have been reaped: only its handler's entry has that done.
                    pidfd: process::open_pidfd(pid).ok(),
                })
            }
            Err(Refusal::Short) => None,
            Err(Refusal::Lost | Refusal::Silent) => {
                let lost = template.take();
                self.state().template = Due::Now;
                drop(template);
                lost.into_iter().for_each(|lost| self.discard(lost));
                None
            }
        }
    }
}
