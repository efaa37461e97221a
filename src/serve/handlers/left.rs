//! What handlers that are contained leave behind, as data.

use std::time::{Duration, Instant};

use super::timeouts::Watch;
use crate::sys::process::{Ended, Usage};

/// How the handlers of a service are contained.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Containment {
    /// Whether what a handler without a group or namespace of its own leaves behind is found by its
    /// group of processes, this process being a subreaper.
    pub(in crate::serve) by_process_group: bool,
    /// How long what is left of a handler may run after it was told to end.
    pub(in crate::serve) kill_after: Duration,
}

/// What is known of a handler that has ended and has left processes behind.
#[derive(Debug)]
pub(in crate::serve) struct Left {
    /// How the handler itself has ended.
    pub(super) ended: Ended,
    /// What it has used.
    pub(super) usage: Usage,
    /// Whether the end of the last process is told. If not, it is found by looking.
    pub(super) is_watched: bool,
    /// Whether KILL was sent to it.
    pub(super) is_killed: bool,
}

/// How long until KILL is sent again to what is left. Without a descriptor none is sent, and before
/// Linux 5.14 a process that is just being made doesn't get it.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(1);

impl Containment {
    /// The time limits of what a handler has left behind, if it had these.
    pub(super) fn watch(&self, before: Option<Watch>) -> Watch {
        let watch = before.unwrap_or_else(Watch::none);
        watch.only_kill(Instant::now() + self.kill_after)
    }
}
