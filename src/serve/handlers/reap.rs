//! The end of every handler: its status, then the log line, then its slot becomes free.
//!
//! A pidfd tells of the end of one process, at a cost that doesn't depend on how many others live.
//! Looking at all children does. That is for process 1, which inherits orphans, and for handlers
//! whose pidfd can't be had or watched. Else it is done rarely, for children that a handler has made
//! skd's (`CLONE_PARENT`): unreaped, they would fill the table of processes.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::context::Handlers;
use super::table::{Handler, LeftBehind, Reaped, Work};
use crate::config::ServiceId;
use crate::report::{self, Client, Event, Outcome};
use crate::sys::process::{self, Change, Ended, Target, Usage, Wait};

/// What is left to do after a handler's end.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::serve) enum After {
    /// Nothing.
    Done,
    /// A slot of this service is free.
    Freed(ServiceId),
    /// The wait-mode socket with this index is skd's again.
    Listener(usize),
    /// It was a child that is no handler.
    Stranger(Pid, Ended),
}

/// Reaps a handler that has ended: the handler of this entry of the table, if it has this pid. `by`
/// is the thread that does so.
pub(in crate::serve) fn reap(
    handlers: &Handlers,
    by: usize,
    entry: (usize, usize),
    pid: Option<Pid>,
) -> After {
    let poller = &handlers.pollers[entry.0];
    let containments = &handlers.containments;
    match handlers.table.reap(poller, entry, pid, containments) {
        Reaped::Handler(handler, ended, usage) => {
            handlers.note_change();
            finish(handlers, handler, (ended, usage), by)
        }
        Reaped::Left(left) => {
            let LeftBehind {
                at: (service, listener),
                peer,
                pid,
                count,
                is_watched,
            } = left;
            let client = Client {
                service,
                listener,
                peer: &peer,
            };
            report::event(Event::LeftBehind(client, pid.as_raw(), count));
            if !is_watched {
                handlers.main.wake();
            }
            After::Done
        }
        Reaped::Later => {
            handlers.main.wake();
            After::Done
        }
        Reaped::Nothing => After::Done,
    }
}

fn finish(
    handlers: &Handlers,
    handler: Handler,
    (ended, usage): (Ended, Usage),
    by: usize,
) -> After {
    let Handler {
        service,
        listener,
        pid,
        pidfd: _,
        work,
        source_slot,
        peer,
        started,
        told,
        kept,
        mut cgroup,
        has_tls: _,
        is_init: _,
        left: _,
    } = handler;
    let is_killed = ended == Ended::Killed(libc::SIGKILL);
    let out_of_memory = match &mut cgroup {
        Some(cgroup) if is_killed => cgroup.was_out_of_memory(),
        _ => false,
    };
    // Another handler may have it as soon as the slot is free.
    drop(cgroup);
    let outcome = Outcome {
        pid: pid.as_raw(),
        ended,
        told,
        out_of_memory,
        after: started.elapsed(),
        usage,
    };
    let client = Client {
        service,
        listener,
        peer: &peer,
    };
    match work {
        Work::WaitMode(index, life) => {
            report::event(Event::Finished(client, outcome));
            drop(life);
            After::Listener(index)
        }
        Work::Datagrams(slot) => {
            report::event(Event::Finished(client, outcome));
            drop(source_slot);
            let (used, limit) = slot.release(by);
            handlers.note_used(used);
            report::event(Event::Slots(service, used, limit));
            After::Freed(service)
        }
        Work::Connection(slot) => {
            report::event(Event::Closed(client, outcome));
            drop(source_slot);
            let (used, limit) = slot.release(by);
            handlers.note_used(used);
            report::event(Event::Slots(service, used, limit));
            // After its slot is free: a client that sees the end and connects again at once finds
            // it so.
            if let Some(kept) = kept {
                let poller = &handlers.pollers[by];
                kept.release(&handlers.lingering, (by, poller), (pid, service));
            }
            After::Freed(service)
        }
    }
}

/// How long to wait before children are looked at again: ten times a second is enough for what
/// can't be known otherwise.
pub(in crate::serve) const PAUSE: Duration = Duration::from_millis(100);

/// How long to wait where no child is expected whose end nothing else tells.
pub(in crate::serve) const LONG_PAUSE: Duration = Duration::from_secs(5);

/// How many children are reaped at a time. While as many end as are reaped, it would never be over.
const BATCH: usize = 1_024;

/// Reaps children that have ended, and calls `after` for each. Returns whether some may be left
/// for later. `is_seen_to` is whether a child may be reaped elsewhere: a prestarted handler by
/// its pool, skd-tls by what keeps it running.
pub(in crate::serve) fn sweep(
    handlers: &Handlers,
    is_seen_to: impl Fn(Pid) -> bool,
    mut after: impl FnMut(After),
) -> bool {
    let main = handlers.main_index();
    handlers.gates.reap_killed();
    let finds_left = handlers.finds_left();
    if handlers.traces || finds_left {
        // A traced child that is stopped may hide these for a while; what handlers have left isn't all
        // this process's.
        while let Some((entry, pid)) = handlers.table.find_ended() {
            after(reap(handlers, main, entry, Some(pid)));
        }
    }
    for _ in 0..BATCH {
        // A child that is found is not reaped before it is known whose it is.
        let pid = match process::wait(Target::Any, Wait::PEEK) {
            Ok(Some((pid, Change::Ended(_)))) => pid,
            // A child of this process that this process traces is found although it has only
            // stopped. To look at that takes nothing from the tracer.
            Ok(Some((_, Change::Stopped))) => return true,
            Ok(None) | Err(_) => return false,
        };
        if let Some(entry) = handlers.table.find(pid) {
            after(reap(handlers, main, entry, Some(pid)));
            continue;
        }
        // An orphan, or a handler that isn't entered yet.
        if !births_settled(handlers) {
            return true;
        }
        if let Some(entry) = handlers.table.find(pid) {
            after(reap(handlers, main, entry, Some(pid)));
        } else if is_seen_to(pid) || handlers.gates.has(pid) {
            return true;
        } else if let Ok(Some((pid, Change::Ended(ended)))) =
            process::wait(Target::Process(pid), Wait::NOW)
        {
            after(After::Stranger(pid, ended));
        }
    }
    true
}

/// Waits, for a moment at most, until every thread that was making a handler has entered it.
/// Returns whether all have.
pub(super) fn births_settled(handlers: &Handlers) -> bool {
    let deadline = Instant::now() + Duration::from_millis(5);
    handlers.births.iter().all(|births| births.settle(deadline))
}
