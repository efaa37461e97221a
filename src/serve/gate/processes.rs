//! The processes that are gates, of all services. The search for what handlers have left looks at all
//! children of skd, and has to know these.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;

use crate::sys::process::{self, Change, Ended, Target, Wait};
use crate::sys::signals::{Signal, signal_group};

/// The processes that are gates. Locked when one starts, is looked at, or ends.
#[derive(Debug, Default)]
pub(in crate::serve) struct GateProcesses {
    all: Mutex<All>,
    /// Whether some were killed and not reaped.
    has_killed: AtomicBool,
}

/// None of these was reaped, so that their ids are no other processes'.
#[derive(Debug, Default)]
struct All {
    /// Those that belong to a pending connection.
    live: BTreeSet<Pid>,
    /// Those that were killed, since their connections have gone. The main thread reaps them.
    killed: BTreeSet<Pid>,
}

impl GateProcesses {
    /// Returns whether this child is a gate that a worker reaps.
    pub(in crate::serve) fn has(&self, pid: Pid) -> bool {
        self.all().live.contains(&pid)
    }

    /// Returns whether the main thread has gates to reap.
    pub(in crate::serve) fn has_killed(&self) -> bool {
        self.has_killed.load(Ordering::SeqCst)
    }

    /// Reaps those that were killed and have ended.
    pub(in crate::serve) fn reap_killed(&self) {
        if !self.has_killed() {
            return;
        }
        let mut all = self.all();
        all.killed.retain(|pid| {
            let found = process::wait(Target::Process(*pid), Wait::NOW);
            !matches!(found, Ok(Some((_, Change::Ended(_)))) | Err(_))
        });
        self.has_killed
            .store(!all.killed.is_empty(), Ordering::SeqCst);
    }

    /// Kills all gates, at the end of skd.
    pub(in crate::serve) fn kill_all(&self) {
        for pid in &self.all().live {
            signal_group(*pid, Signal::SIGKILL);
        }
    }

    pub(super) fn add(&self, pid: Pid) {
        self.all().live.insert(pid);
    }

    /// Signals the process group of a gate that was not reaped.
    pub(super) fn signal(&self, pid: Pid, signal: Signal) {
        let all = self.all();
        if all.live.contains(&pid) {
            signal_group(pid, signal);
        }
    }

    /// Kills a gate whose connection has gone. The main thread reaps it once it is woken.
    pub(super) fn kill(&self, pid: Pid) {
        let mut all = self.all();
        if all.live.remove(&pid) {
            signal_group(pid, Signal::SIGKILL);
            all.killed.insert(pid);
            self.has_killed.store(true, Ordering::SeqCst);
        }
    }

    /// Reaps a gate if it has ended, and first kills what is left of its process group: while it isn't
    /// reaped, the group's id is no other's.
    pub(super) fn reap(&self, pid: Pid) -> Option<Ended> {
        let mut all = self.all();
        let ended = match process::wait(Target::Process(pid), Wait::PEEK) {
            Ok(Some((_, Change::Ended(ended)))) => ended,
            Ok(_) => return None,
            // Nothing else reaps it, so its status can't be known. It lets no client through, and its id may
            // be another's.
            Err(_) => {
                all.live.remove(&pid);
                return Some(Ended::Exited(1));
            }
        };
        if all.live.remove(&pid) {
            signal_group(pid, Signal::SIGKILL);
            // It has ended, so this doesn't wait.
            let _ = process::wait(Target::Process(pid), Wait::NOW);
        }
        Some(ended)
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
