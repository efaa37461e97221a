//! A gate that runs, and how it ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::of_service::GateSlot;
use super::processes::GateProcesses;
use crate::sys::events::is_readable;
use crate::sys::process::Ended;
use crate::sys::signals::Signal;

/// How often a gate is looked at whose end nothing tells.
const PAUSE: Duration = Duration::from_millis(100);

/// A gate that runs. If it is dropped before its end, it is killed.
#[derive(Debug)]
pub(in crate::serve) struct LiveGate {
    pid: Pid,
    /// Without it, the gate's end is found by looking.
    pidfd: Option<OwnedFd>,
    started: Instant,
    /// When it gets TERM; once it has got that, KILL.
    due: Option<Instant>,
    kill_after: Duration,
    stop: Option<GateStop>,
    processes: Arc<GateProcesses>,
    /// Where its service still has a gate.
    _slot: Option<GateSlot>,
}

/// Why skd has told a gate to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::serve) enum GateStop {
    /// It has taken too long.
    Timeout,
    /// skd ends.
    End,
}

/// What a look at a gate has found.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) enum Sign {
    /// It runs on, and is looked at again at this time at the latest.
    Runs(Option<Instant>),
    /// It runs on, and has just been killed.
    Killed(Option<Instant>),
    /// It has ended, after so long; and why it was told to, if it was.
    Ended(Ended, Duration, Option<GateStop>),
}

/// A gate that runs, in the state of an upgrade. It stays a child of the process that becomes the next
/// binary. Times are milliseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedGate {
    pid: i32,
    started: u64,
    due: Option<u64>,
    kill_after: Duration,
    stop: Option<GateStop>,
}

impl LiveGate {
    /// A gate that has just started, and may run for `timeout`, and for `kill_after` when it was told to
    /// end.
    pub(in crate::serve) fn new(
        (pid, pidfd): (Pid, Option<OwnedFd>),
        (timeout, kill_after): (Duration, Duration),
        slot: GateSlot,
        processes: &Arc<GateProcesses>,
    ) -> Self {
        processes.add(pid);
        let started = Instant::now();
        Self {
            pid,
            pidfd,
            started,
            due: started.checked_add(timeout),
            kill_after,
            stop: None,
            processes: Arc::clone(processes),
            _slot: Some(slot),
        }
    }

    pub(in crate::serve) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns what tells of its end, if anything does.
    pub(in crate::serve) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Tells it to end, if it wasn't told before.
    pub(in crate::serve) fn stop(&mut self, why: GateStop, now: Instant) {
        if self.stop.is_none() {
            self.stop = Some(why);
            self.due = Some(now + self.kill_after);
            self.processes.signal(self.pid, Signal::SIGTERM);
        }
    }

    /// Reaps it if it has ended. If not, does what is due.
    pub(in crate::serve) fn look(&mut self, now: Instant) -> Sign {
        let told = self.pidfd.as_ref().map(is_readable);
        if told != Some(false) {
            if let Some(ended) = self.processes.reap(self.pid) {
                let after = now.saturating_duration_since(self.started);
                return Sign::Ended(ended, after, self.stop);
            }
            // A tracer of the gate is told first, and until then there would be an event all the time.
            self.pidfd = None;
        }
        let mut is_killed = false;
        if self.due.is_some_and(|due| due <= now) {
            if self.stop.is_none() {
                self.stop(GateStop::Timeout, now);
            } else {
                // If that doesn't help, nothing does.
                self.due = None;
                self.processes.signal(self.pid, Signal::SIGKILL);
                is_killed = true;
            }
        }
        let due = self.next(now);
        match is_killed {
            false => Sign::Runs(due),
            true => Sign::Killed(due),
        }
    }

    /// Returns when to look at it again, should nothing tell of its end before.
    pub(in crate::serve) fn next(&self, now: Instant) -> Option<Instant> {
        let look = self.pidfd.is_none().then(|| now + PAUSE);
        self.due.into_iter().chain(look).min()
    }

    /// Saves it. `time` converts to the clock of the state.
    pub(in crate::serve) fn save(&self, time: impl Fn(Instant) -> u64) -> SavedGate {
        SavedGate {
            pid: self.pid.as_raw(),
            started: time(self.started),
            due: self.due.map(&time),
            kill_after: self.kill_after,
            stop: self.stop,
        }
    }

    /// Restores one. `time` converts from the clock of the state, `pidfd_of` opens a pidfd of a child.
    pub(in crate::serve) fn restore(
        saved: &SavedGate,
        slot: Option<GateSlot>,
        processes: &Arc<GateProcesses>,
        time: impl Fn(u64) -> Instant,
        pidfd_of: impl Fn(Pid) -> Option<OwnedFd>,
    ) -> Self {
        // A child that wasn't reaped: its id can't be another's.
        let pid = Pid::from_raw(saved.pid);
        processes.add(pid);
        Self {
            pid,
            pidfd: pidfd_of(pid),
            started: time(saved.started),
            due: saved.due.map(&time),
            kill_after: saved.kill_after,
            stop: saved.stop,
            processes: Arc::clone(processes),
            _slot: slot,
        }
    }
}

impl Drop for LiveGate {
    fn drop(&mut self) {
        // Nothing, if it was reaped.
        self.processes.kill(self.pid);
    }
}
