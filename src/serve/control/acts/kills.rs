//! Handlers that an administrator has told to end, and that are killed if they don't.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::serve::handlers::saved::SavedClock;

/// The handlers that were told to end, and when they are killed. A handler that ends before stays
/// here until then: with the time at which it was started, its pid is no other handler's.
#[derive(Debug, Default)]
pub(in crate::serve) struct Kills(HashMap<(Pid, Instant), Instant>);

/// The same in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedKill {
    pub(in crate::serve) pid: i32,
    pub(in crate::serve) at: u64,
}

impl Kills {
    /// Notes that a handler was told to end, and is killed then. Told again, it has no more time.
    pub(in crate::serve) fn add(&mut self, handler: (Pid, Instant), at: Instant) {
        self.0.entry(handler).or_insert(at);
    }

    /// Takes out those that are to be killed now.
    pub(in crate::serve) fn take_due(&mut self, now: Instant) -> HashSet<(Pid, Instant)> {
        let overdue = self.0.iter().filter(|(_, at)| **at <= now);
        let overdue: HashSet<_> = overdue.map(|(handler, _)| *handler).collect();
        self.0.retain(|_, at| now < *at);
        overdue
    }

    /// Returns when the next one is killed.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Saves that of a handler, if it has one: of others the next binary knows only the pid, which may
    /// be another handler's by now.
    pub(in crate::serve) fn save(
        &self,
        handler: (Pid, Instant),
        clock: &SavedClock,
    ) -> Option<SavedKill> {
        let at = self.0.get(&handler)?;
        Some(SavedKill {
            pid: handler.0.as_raw(),
            at: clock.save(*at),
        })
    }
}
