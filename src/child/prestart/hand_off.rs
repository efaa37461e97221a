//! A worker hands a connection to a prestarted handler.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use nix::unistd::Pid;

use super::parked::{Parked, Refusal};
use super::pool::{LOOK, Pool, milliseconds};
use super::state::Due;
use crate::child::spawn::Spawned;
use crate::config::Prestart;
use crate::report::{self, Event, Trouble, Way};
use crate::sys::process::{self, Target, Wait};
use crate::sys::sync::MutexGuard;

/// How many connections have to find all templates at work, within [`LOOK`], before another one is
/// made.
pub(super) const CROWD: u32 = 16;

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
        let now = milliseconds(self.began.elapsed());
        let due = self.look_at.load(Ordering::Relaxed);
        if now < due {
            return false;
        }
        let next = now.saturating_add(milliseconds(LOOK));
        let changed =
            self.look_at
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
        if changed.is_err() {
            return false;
        }
        self.crowd.store(0, Ordering::Relaxed);
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
                Ok(_) => {
                    // It knows itself by another id where it has a PID namespace.
                    let pid = parked.pid();
                    let (pidfd, cgroup) = parked.into_parts();
                    return Some(Spawned {
                        pid,
                        pidfd: Some(pidfd),
                        way: Way::Pool,
                        cgroup,
                        is_init: self.jail.as_ref().is_some_and(|jail| jail.is_init()),
                    });
                }
                Err(Refusal::Lost) => {
                    self.discard(parked);
                }
                Err(Refusal::Silent) => {
                    self.replace_silent(parked);
                    return None;
                }
                Err(Refusal::Short) => {
                    // What keeps one from answering may keep others too; the client has waited
                    // enough.
                    self.discard(parked);
                    return None;
                }
            }
        }
    }

    fn give_to_copy(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        let (slot, mut template) = self.free_template()?;
        let successor = template.as_ref()?.give(connection);
        let lost = matches!(successor, Err(Refusal::Lost | Refusal::Silent));
        // A template that was ended for its silence may have made the copy before.
        let lost = template.take_if(|template| lost || template.is_silent());
        if lost.is_some() {
            self.state().set_due(slot, Due::Now);
        }
        drop(template);
        match lost {
            Some(lost) if lost.is_silent() => self.replace_silent(lost),
            Some(lost) => {
                self.discard(lost);
            }
            None => {}
        }
        // A system call for each copy: skd signals its children alone, even if another process of the
        // same user took the socket while the program was starting, and answers with any id.
        let is_child = |pid: &Pid| process::wait(Target::Process(*pid), Wait::PEEK).is_ok();
        successor.ok().filter(is_child).map(|pid| Spawned {
            pid,
            // It can't have been reaped: only its handler's entry has that done.
            pidfd: process::open_pidfd(pid).ok(),
            way: Way::Copy,
            cgroup: None,
            is_init: false,
        })
    }

    /// Locks the first template that isn't at work, so that those that load doesn't ask for have
    /// nothing to do. Waits for one of them if all are. Returns `None` if there is none.
    ///
    /// An attempt to lock each, no system call, and no wait where there are as many as workers.
    fn free_template(&self) -> Option<(usize, MutexGuard<'_, Option<Parked>>)> {
        loop {
            let turn = self.crowd.load(Ordering::Relaxed);
            let (mut at_work, mut awaited) = (0, None);
            for slot in 0..self.most() {
                match self.try_template(slot) {
                    Some(template) if template.is_some() => return Some((slot, template)),
                    Some(_) => {}
                    None => {
                        at_work += 1;
                        // In turn, so that no more wait for one than for another.
                        if turn % at_work == 0 {
                            awaited = Some(slot);
                        }
                    }
                }
            }
            let slot = awaited?;
            // One system call for so many.
            if self.crowd.fetch_add(1, Ordering::Relaxed) + 1 == CROWD {
                self.waker.wake();
            }
            let template = self.template(slot)?;
            if template.is_some() {
                return Some((slot, template));
            }
        }
    }

    /// Discards a process that hasn't answered in time.
    fn replace_silent(&self, parked: Parked) {
        let pid = parked.pid();
        let pause = self.discard(parked);
        report::event(Event::Trouble(Trouble::PrestartedSilent {
            service: self.service,
            program: self.plan.name(),
            pid: pid.as_raw(),
            pause,
        }));
    }
}
