//! Where every handler ends: status, then a report, then its place freed.
//!
//! A pidfd tells of the end of just one process, at a cost that doesn't depend on how many
//! others live. Looking at all children, which does, is for process 1, who inherits
//! strangers, and for handlers whose pidfd can't be had or watched.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::Shared;
use super::handlers::{Handler, Reaped, Work};
use crate::report::{self, Event, Outcome};
use crate::sys::process::{self, Change, Ended, Target, Wait};

/// What is left to do after a handler's end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Done,
    /// The lent listener with this index is skd's again.
    Listener(usize),
    /// It was a child that is no handler.
    Stranger(Pid, Ended),
}

/// Reaps a handler that has ended: the one at this place of the table, if it is the one with
/// this id. `by` is the thread that does so.
pub(super) fn reap(shared: &Shared, by: usize, entry: (usize, usize), pid: Option<Pid>) -> After {
    let poller = &shared.pollers[entry.0];
    match shared.handlers.reap(poller, entry, pid) {
        Reaped::Handler(handler, ended) => {
            shared.note_change();
            finish(shared, handler, ended, by)
        }
        Reaped::Later => {
            shared.main.wake();
            After::Done
        }
        Reaped::Nobody => After::Done,
    }
}

fn finish(shared: &Shared, handler: Handler, ended: Ended, by: usize) -> After {
    let Handler {
        pid,
        pidfd: _,
        work,
        seat,
        peer,
        started,
        kept,
    } = handler;
    let outcome = Outcome {
        pid: pid.as_raw(),
        ended,
        after: started.elapsed(),
    };
    match work {
        Work::Lent(index) => {
            report::event(Event::Finished(&peer, outcome));
            After::Listener(index)
        }
        Work::Datagrams(place) => {
            report::event(Event::Finished(&peer, outcome));
            drop(seat);
            let (used, limit) = place.release(by);
            report::event(Event::Places(used, limit));
            After::Done
        }
        Work::Connection(place) => {
            report::event(Event::Closed(&peer, outcome));
            drop(seat);
            let (used, limit) = place.release(by);
            report::event(Event::Places(used, limit));
            // After its place is free: who sees the end and comes again at once finds it so.
            if let Some(kept) = kept {
                kept.part(shared, by, pid);
            }
            After::Done
        }
    }
}

/// How long to wait before children are looked at again: ten times a second is enough for
/// what can't be known otherwise.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Looks at all children that have ended; calls `after` for each handler among them. Says
/// whether some may be left for later.
pub(super) fn sweep(shared: &Shared, mut after: impl FnMut(After)) -> bool {
    let main = shared.main_index();
    // Where processes are parked, other threads' children aren't touched: whoever waits for any child
    // finds one that is traced each time that it is held, and takes that from the thread that
    // traces it. Who is inherited is the main thread's; and all others have pidfds, or are asked for.
    let whose = if shared.stocks().next().is_some() {
        while let Some((entry, pid)) = shared.handlers.find_ended() {
            after(reap(shared, main, entry, Some(pid)));
        }
        Wait::PEEK_OWN
    } else {
        Wait::PEEK
    };
    // What is found is left in place until it is known to whom it belongs.
    while let Ok(Some((pid, Change::Ended(_)))) = process::wait(Target::Any, whose) {
        if let Some(entry) = shared.handlers.find(pid) {
            after(reap(shared, main, entry, Some(pid)));
            continue;
        }
        // A stranger, or a handler whose starter hasn't entered it yet.
        if !births_settled(shared) {
            return true;
        }
        if let Some(entry) = shared.handlers.find(pid) {
            after(reap(shared, main, entry, Some(pid)));
        } else if let Ok(Some((pid, Change::Ended(ended)))) =
            process::wait(Target::Process(pid), Wait::NOW)
        {
            after(After::Stranger(pid, ended));
        }
    }
    false
}

/// Waits, for a moment at most, until every thread that was making a handler has entered
/// it.
fn births_settled(shared: &Shared) -> bool {
    let deadline = Instant::now() + Duration::from_millis(5);
    shared.births.iter().all(|births| {
        let before = births.count();
        while births.still_at(before) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    })
}

/// Whether a thread is between making a handler and entering it: a count that is odd then.
#[derive(Debug, Default)]
pub(super) struct Births(AtomicU32);

/// One such time, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Birth<'a>(&'a Births);

impl Births {
    pub(super) fn begin(&self) -> Birth<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Birth(self)
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether a handler is being made.
    pub(super) fn under_way(&self) -> bool {
        self.count() % 2 == 1
    }

    /// Whether what was going on at `count` still is.
    fn still_at(&self, count: u32) -> bool {
        count % 2 == 1 && self.count() == count
    }
}

impl Drop for Birth<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}
