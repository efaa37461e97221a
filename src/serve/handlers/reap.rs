//! Where every handler ends: status, then a report, then its place freed.
//!
//! A pidfd tells of the end of just one process, at a cost that doesn't depend on how many
//! others live. Looking at all children, which does, is for process 1, who inherits
//! strangers, and for handlers whose pidfd can't be had or watched.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::Handlers;
use super::table::{Handler, Reaped, Work};
use crate::report::{self, Event, Outcome};
use crate::sys::process::{self, Change, Ended, Target, Wait};

/// What is left to do after a handler's end.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::serve) enum After {
    /// Nothing.
    Done,
    /// The lent listener with this index is skd's again.
    Listener(usize),
    /// It was a child that is no handler.
    Stranger(Pid, Ended),
}

/// Reaps a handler that has ended: the one at this place of the table, if it is the one with
/// this id. `by` is the thread that does so.
pub(in crate::serve) fn reap(
    handlers: &Handlers,
    by: usize,
    entry: (usize, usize),
    pid: Option<Pid>,
) -> After {
    let poller = &handlers.pollers[entry.0];
    match handlers.table.reap(poller, entry, pid) {
        Reaped::Handler(handler, ended) => {
            handlers.note_change();
            finish(handlers, handler, ended, by)
        }
        Reaped::Later => {
            handlers.main.wake();
            After::Done
        }
        Reaped::Nobody => After::Done,
    }
}

fn finish(handlers: &Handlers, handler: Handler, ended: Ended, by: usize) -> After {
    let Handler {
        service,
        pid,
        pidfd: _,
        work,
        source_slot,
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
        Work::WaitMode(index) => {
            report::event(Event::Finished(service, &peer, outcome));
            After::Listener(index)
        }
        Work::Datagrams(slot) => {
            report::event(Event::Finished(service, &peer, outcome));
            drop(source_slot);
            let (used, limit) = slot.release(by);
            report::event(Event::Slots(service, used, limit));
            After::Done
        }
        Work::Connection(slot) => {
            report::event(Event::Closed(service, &peer, outcome));
            drop(source_slot);
            let (used, limit) = slot.release(by);
            report::event(Event::Slots(service, used, limit));
            // After its place is free: who sees the end and comes again at once finds it so.
            if let Some(kept) = kept {
                kept.part(handlers, by, pid);
            }
            After::Done
        }
    }
}

/// How long to wait before children are looked at again: ten times a second is enough for
/// what can't be known otherwise.
pub(in crate::serve) const PAUSE: Duration = Duration::from_millis(100);

/// Looks at all children that have ended; calls `after` for each handler among them. Says
/// whether some may be left for later.
pub(in crate::serve) fn sweep(handlers: &Handlers, mut after: impl FnMut(After)) -> bool {
    let main = handlers.main_index();
    // Where processes are parked, other threads' children aren't touched: whoever waits for any child
    // finds one that is traced each time that it is held, and takes that from the thread that
    // traces it. Who is inherited is the main thread's; and all others have pidfds, or are asked for.
    let whose = if handlers.traces {
        while let Some((entry, pid)) = handlers.table.find_ended() {
            after(reap(handlers, main, entry, Some(pid)));
        }
        Wait::PEEK_OWN
    } else {
        Wait::PEEK
    };
    // What is found is left in place until it is known to whom it belongs.
    while let Ok(Some((pid, Change::Ended(_)))) = process::wait(Target::Any, whose) {
        if let Some(entry) = handlers.table.find(pid) {
            after(reap(handlers, main, entry, Some(pid)));
            continue;
        }
        // A stranger, or a handler whose starter hasn't entered it yet.
        if !births_settled(handlers) {
            return true;
        }
        if let Some(entry) = handlers.table.find(pid) {
            after(reap(handlers, main, entry, Some(pid)));
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
fn births_settled(handlers: &Handlers) -> bool {
    let deadline = Instant::now() + Duration::from_millis(5);
    handlers.births.iter().all(|births| {
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
pub(in crate::serve) struct Births(AtomicU32);

/// One such time, which ends when this is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Birth<'a>(&'a Births);

impl Births {
    pub(in crate::serve) fn begin(&self) -> Birth<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Birth(self)
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether a handler is being made.
    pub(in crate::serve) fn under_way(&self) -> bool {
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
