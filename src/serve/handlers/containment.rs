//! Containment: all that a handler has started ends with it.
//!
//! A handler that has ended and has left processes behind stays in the table, with its slots, until
//! those have ended too. They get TERM at once, and KILL after `--kill-after`.

use std::os::fd::BorrowedFd;

use super::left::Containment;
use super::table::Handler;
use crate::sys::process_stat;
use crate::sys::signals::{Signal, has_group, signal_group};

impl Handler {
    /// Sends a signal to all that the handler consists of. Under the lock of its part of the table, so
    /// that it isn't reaped, and its pid no other's. Returns which, and how many processes of a group of its own
    /// got it.
    ///
    /// Process 1 of a namespace doesn't get TERM unless it catches that: it gets KILL, which ends all
    /// in the namespace, rather than run on.
    pub(in crate::serve) fn signal(&self, signal: Signal) -> (Signal, usize) {
        let is_deaf = || process_stat::catches(self.pid, Signal::SIGTERM) == Some(false);
        let is_init = self.is_init && self.left.is_none();
        let signal = match is_init && signal == Signal::SIGTERM && is_deaf() {
            true => Signal::SIGKILL,
            false => signal,
        };
        let count = self.cgroup.as_ref().map_or(0, |it| it.signal(signal));
        match &self.left {
            // Its own group of processes has it by that, unless root's handler has moved to another
            // control group.
            None if count == 0 => signal_group(self.pid, signal),
            // As long as a group of processes has this id, no process gets it.
            Some(_) if self.cgroup.is_none() && self.has_process_group() => {
                signal_group(self.pid, signal);
            }
            _ => {}
        }
        (signal, count)
    }

    /// Whether processes that it has started live, once it has been reaped.
    pub(super) fn leaves_processes(&self, containment: &Containment) -> bool {
        match &self.cgroup {
            Some(cgroup) => !cgroup.is_empty(),
            None => containment.by_process_group && self.has_process_group(),
        }
    }

    /// Whether it has ended before, and what it had left has ended now.
    pub(super) fn is_over(&self) -> bool {
        let leaves = match &self.cgroup {
            Some(cgroup) => !cgroup.is_empty(),
            None => self.has_process_group(),
        };
        self.left.is_some() && !leaves
    }

    /// Whether its group of processes has some. All in a namespace has ended with its process 1.
    fn has_process_group(&self) -> bool {
        !self.is_init && has_group(self.pid)
    }

    /// What tells of the end of the last process that it has left.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.as_ref()?.events()
    }
}
