//! Draining: nobody new comes in, and every handler ends, by itself, told, or killed.
//!
//! The acceptors accept who has come already, and end. From then on the main thread sees the
//! ends of their handlers too, by watching what they watched.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::config::Span;
use crate::report::{self, Event, Overdue, Trouble, Watched};
use crate::serve::handlers::reap;
use crate::serve::handlers::token::Token;
use crate::serve::worker::{Phase, Shared};
use crate::sys::events::{Interest, no_events};
use crate::sys::signals::Signal;

/// How long the steps may take.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimeouts {
    /// How long handlers are waited for.
    pub drain: Span,
    /// How long they may run after they were told to end.
    pub kill_after: Span,
}

/// How long accepting the last clients may take, which doesn't depend on any of them.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long the kernel may take to end what was killed. One that hangs in a dead file
/// server, or is held by a debugger, takes for ever.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// How often handlers are looked at whose ends can't be told.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a daemon that drains has got to.
#[derive(Debug)]
pub(in crate::serve) struct Drain {
    step: Step,
    /// When the step is over, if nothing ends it before.
    due: Instant,
    /// When handlers are told to end.
    tell_at: Instant,
    drain_timeouts: DrainTimeouts,
    /// Whether the ends of all handlers are told.
    watched: bool,
    /// Whether nothing stands ready any more.
    retired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Acceptors serve those who have come, and end.
    Closing,
    Waiting,
    Told,
    Killed,
}

impl Step {
    /// What skd exits with once all have ended.
    fn status(self) -> u8 {
        match self {
            Self::Closing | Self::Waiting => 0,
            Self::Told => 3,
            Self::Killed => 4,
        }
    }
}

impl Drain {
    /// Begins. Whoever comes from now on is refused.
    pub(in crate::serve) fn begin(shared: &Shared, drain_timeouts: DrainTimeouts) -> Self {
        let now = Instant::now();
        for listener in shared.listeners() {
            // It would tell the main thread that it has been shut down.
            let _ = shared.handlers.main_poller().remove(listener);
            listener.refuse();
        }
        shared.drains.store(true, Ordering::SeqCst);
        shared.enter_phase(Phase::Closing);
        Self {
            step: Step::Closing,
            due: now + LAST_CALL,
            tell_at: now + drain_timeouts.drain.into(),
            drain_timeouts,
            watched: false,
            retired: false,
        }
    }

    /// Goes over to the next step without waiting any longer.
    pub(in crate::serve) fn skip(&mut self, shared: &Shared) {
        let now = Instant::now();
        match self.step {
            // Who holds a connection still makes its handler, which is then told like others.
            Step::Closing => {
                self.tell_at = now;
                shared.enter_phase(Phase::Stopping);
            }
            _ => self.due = now,
        }
    }

    /// When to call [`Self::advance`], should nothing happen before.
    pub(in crate::serve) fn due(&self, shared: &Shared) -> Option<Instant> {
        let unwatched = !self.watched && self.step != Step::Closing;
        let look = unwatched.then(|| Instant::now() + PAUSE);
        let late = parts(shared).filter_map(|part| shared.handlers.table.next_due(part));
        late.chain(look).chain([self.due]).min()
    }

    /// Goes on if it is time to; gives the exit status when it is over.
    pub(in crate::serve) fn advance(&mut self, shared: &Shared) -> Option<u8> {
        // The acceptors have left, or are about to.
        parts(shared).for_each(|part| shared.handlers.act_on_timeouts(part));
        let now = Instant::now();
        if self.step == Step::Closing {
            if now < self.due && !shared.workers_have_ended() {
                return None;
            }
            close(shared);
            self.step = Step::Waiting;
            self.due = self.tell_at;
            let alive = alive(shared);
            if alive > 0 && now < self.due {
                report::event(Event::Draining(alive, self.drain_timeouts.drain));
            }
        }
        if !self.watched {
            self.watched = watch(shared);
        }
        // One who is late wakes the main thread when he leaves.
        self.retired = self.retired || shared.retire_pools();
        let alive = alive(shared);
        // The clients of those that have ended are heard out, but hold nobody up longer than that.
        // So is the last that handlers have to say to theirs, where skd passes it on.
        let waits =
            shared.handlers.lingering.len() > 0 || shared.exchanges.load(Ordering::SeqCst) > 0;
        if alive == 0 && (now >= self.due || !waits) {
            return Some(self.step.status());
        }
        if now < self.due {
            return None;
        }
        match self.step {
            Step::Closing | Step::Waiting => {
                report::event(Event::Overdue(alive, Overdue::Terminated));
                shared.handlers.table.signal(Signal::SIGTERM, |_| true);
                self.step = Step::Told;
                self.due = now + self.drain_timeouts.kill_after.into();
            }
            Step::Told => {
                report::event(Event::Overdue(alive, Overdue::Killed));
                shared.handlers.table.signal(Signal::SIGKILL, |_| true);
                self.step = Step::Killed;
                self.due = now + LAST_WAIT;
            }
            Step::Killed => {
                report::event(Event::Overdue(alive, Overdue::Abandoned));
                return Some(self.step.status());
            }
        }
        None
    }
}

/// The parts of the table of handlers that were the acceptors'.
fn parts(shared: &Shared) -> Range<usize> {
    0..shared.handlers.main_index()
}

/// How many handlers live, those who are just being made too: they are counted first, since
/// they are entered before they stop being that.
fn alive(shared: &Shared) -> usize {
    let newborn = shared
        .handlers
        .births
        .iter()
        .filter(|births| births.under_way());
    newborn.count() + shared.handlers.table.counts().0
}

/// Closes the listeners, whoever of the acceptors may still be about.
fn close(shared: &Shared) {
    shared.enter_phase(Phase::Stopping);
    for listener in shared.listeners() {
        // Not by closing alone: others may have the socket, and it would be told of still.
        for acceptor in &shared.handlers.pollers[..shared.handlers.main_index()] {
            let _ = acceptor.remove(listener);
        }
        report::event(Event::ClosedListener(listener.listener_name()));
        listener.close(&shared.handlers.main);
    }
    // They stay open as long as an exchange may need them, though nobody new is served.
    for listener in shared.datagrams() {
        report::event(Event::ClosedListener(listener.listener_name()));
    }
}

/// Watches what the acceptors watched. Says whether that could be done; if not, looks.
fn watch(shared: &Shared) -> bool {
    let main = shared.handlers.main_index();
    (0..main).fold(true, |watched, thread| {
        let key = Token::Worker(thread).into();
        let acceptor = &shared.handlers.pollers[thread];
        match shared
            .handlers
            .main_poller()
            .add(acceptor, Interest::Readable, key)
        {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => watched,
            Err(errno) => {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: None,
                    what: Watched::Handlers,
                    errno,
                }));
                look(shared, thread);
                false
            }
        }
    })
}

/// Acts on what an acceptor would have seen.
pub(in crate::serve) fn look(shared: &Shared, thread: usize) {
    let poller = &shared.handlers.pollers[thread];
    let mut room = no_events();
    let Ok(events) = poller.wait(&mut room, Some(Duration::ZERO)) else {
        return;
    };
    for event in events {
        match Token::from(event) {
            Token::Handler { thread, index } => {
                reap::reap(
                    &shared.handlers,
                    shared.handlers.main_index(),
                    (thread, index),
                    None,
                );
            }
            Token::Lingering(index) => shared.handlers.lingering.drain_input(thread, poller, index),
            Token::Waker => shared.wakers[thread].clear(),
            _ => {}
        }
    }
}
