//! Where every handler ends: status, then its place freed, then a report.
//!
//! A pidfd tells of the end of just one process, at a cost that doesn't depend on how many
//! others live. Looking at all children, which does, is for process 1, who inherits
//! strangers, and for kernels without pidfds.

use std::time::{Duration, Instant};

use super::Shared;
use super::handlers::{Handler, Work};
use crate::report::{self, Event, Outcome};
use crate::sys::process::{self, Change, Ended, Target, Wait};

/// What is left to do after a handler's end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Done,
    /// The datagram listener with this index is skd's again.
    Listener(usize),
}

/// Reaps the handler with this key, which has ended.
pub(super) fn reap(shared: &Shared, key: u64) -> After {
    let Some(handler) = shared.handlers.remove(key) else {
        return After::Done;
    };
    let target = match &handler.pidfd {
        Some(pidfd) => Target::Descriptor(std::os::fd::AsFd::as_fd(pidfd)),
        None => Target::Process(handler.pid),
    };
    let ended = match process::wait(target, Wait::UNTIL_END) {
        Ok(Some((_, Change::Ended(ended)))) => ended,
        // Somebody else has reaped it; nobody in this program does.
        _ => Ended::Exited(0),
    };
    if let Some(pidfd) = &handler.pidfd {
        // Before it is closed: a newborn child that still shares the table would keep the
        // registration alive, under a number that is soon another's.
        let _ = shared.poller.remove(pidfd);
    }
    finish(shared, handler, ended)
}

fn finish(shared: &Shared, handler: Handler, ended: Ended) -> After {
    let Handler {
        pid,
        pidfd,
        work,
        peer,
        started,
    } = handler;
    drop(pidfd);
    let outcome = Outcome {
        pid: pid.as_raw(),
        ended,
        after: started.elapsed(),
    };
    let (after, event) = match work {
        Work::Datagrams(index) => (After::Listener(index), Event::Finished(&peer, outcome)),
        Work::Connection(place) => {
            drop(place);
            (After::Done, Event::Closed(&peer, outcome))
        }
    };
    report::event(event);
    shared.report_places();
    after
}

/// How long to wait before children are looked at again: ten times a second is enough for
/// what can't be known otherwise.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Looks at all children that have ended; calls `after` for each handler among them. Says
/// whether some may be left for later.
pub(super) fn sweep(shared: &Shared, mut after: impl FnMut(After)) -> bool {
    // What is found is left in place until it is known to whom it belongs.
    while let Ok(Some((pid, Change::Ended(_)))) = process::wait(Target::Any, Wait::PEEK) {
        if let Some(key) = shared.handlers.find(pid) {
            after(reap(shared, key));
            continue;
        }
        // A stranger, or a handler whose starter hasn't entered it yet.
        if !starters_settled(shared) {
            return true;
        }
        if let Some(key) = shared.handlers.find(pid) {
            after(reap(shared, key));
        } else {
            let _ = process::wait(Target::Process(pid), Wait::NOW);
        }
    }
    false
}

/// Waits, for a moment at most, until every thread that was starting a handler has entered
/// it.
fn starters_settled(shared: &Shared) -> bool {
    let deadline = Instant::now() + Duration::from_millis(5);
    shared.starters().all(|starting| {
        let before = starting.count();
        while starting.busy(before) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    })
}
