//! Orphans of handlers, which come to this process as a subreaper: containment where there are neither
//! control groups nor namespaces.
//!
//! The kernel gives orphans to the main thread, so they are among the children of that. A child that is
//! in no table has lost its parent. As long as it is in the session of a live handler it is left alone;
//! else it gets TERM, and then KILL.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getsid};

use super::context::Handlers;
use super::reap::births_settled;
use crate::sys::process::{self, Target, Wait};
use crate::sys::signals::{Signal, kill};

/// The orphans that were told to end, and when they are killed. A child isn't reaped before it is
/// removed here, so its id is no other process's.
#[derive(Debug, Default)]
pub(in crate::serve) struct Orphans(HashMap<Pid, Instant>);

/// How often orphans are looked for while handlers live: what tells of the end of a handler's child
/// tells nothing of its grandchildren.
pub(in crate::serve) const PAUSE: Duration = Duration::from_millis(500);

impl Orphans {
    /// Ends orphans. `is_own` says whether a child is one of skd's own processes, or may be, and
    /// `is_session` whether a session has some. `kill_after` is how long orphans may take. Returns whether some are left.
    pub(in crate::serve) fn end(
        &mut self,
        handlers: &Handlers,
        kill_after: Duration,
        is_own: impl Fn(Pid) -> bool,
        is_session: impl Fn(Pid) -> bool,
    ) -> bool {
        let children = process::children_of_main_thread().unwrap_or_default();
        if children.is_empty() || !births_settled(handlers) {
            return !children.is_empty();
        }
        let (mut known, mut live) = (HashSet::new(), HashSet::new());
        handlers.table.each(|handler, _| {
            if handler.left.is_none() {
                known.insert(handler.pid);
                live.insert(handler.pid);
            }
        });
        let now = Instant::now();
        let mut left = HashMap::new();
        for pid in children {
            // A handler that has been reaped meanwhile: its id may be another's.
            if known.contains(&pid) || process::wait(Target::Process(pid), Wait::PEEK).is_err() {
                continue;
            }
            let due = self.0.get(&pid).copied();
            let is_known =
                |session| live.contains(&session) || is_session(session) || is_own(session);
            if is_own(pid) || getsid(Some(pid)).is_ok_and(is_known) {
                // Which isn't certain while others are being made.
                left.extend(due.map(|due| (pid, due)));
                continue;
            }
            let signals: &[Signal] = match due {
                None => &[Signal::SIGTERM, Signal::SIGCONT],
                Some(due) if due <= now => &[Signal::SIGKILL],
                Some(_) => &[],
            };
            for signal in signals {
                let _ = kill(pid, *signal);
            }
            left.insert(pid, due.unwrap_or(now + kill_after));
        }
        self.0 = left;
        !self.0.is_empty()
    }
}
