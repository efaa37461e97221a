//! The loop of every worker thread: serve, wait, reap, wait out a shortage, park.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::intake::{Attempts, HandlerStarter, Intake, PAUSE, Thread};
use super::shared::{Phase, Shared};
use crate::child::Spawner;
use crate::serve::handlers::reap::{self, After};
use crate::serve::handlers::start::OnShortage;
use crate::serve::handlers::token::Token;
use crate::sys::events::no_events;

/// How many clients are served before a look at what else has happened, while there is always
/// another.
const BATCH: usize = 16;

/// A worker thread.
#[derive(Debug)]
pub(super) struct Worker<'a, S> {
    starter: HandlerStarter<'a>,
    intake: S,
}

impl<'a, S: Intake<'a>> Worker<'a, S> {
    pub(super) fn new(spawner: Spawner, intake: S) -> Self {
        let starter = HandlerStarter::new(intake.thread(), spawner);
        Self { starter, intake }
    }

    pub(super) fn run(mut self) {
        let shared = self.starter.thread.shared;
        while shared.is_in(Phase::Starting) {
            // Not for good: a moment later it costs nothing to look once more.
            look(&mut self.intake, Some(PAUSE));
        }
        self.intake.unpark(&mut self.starter);
        let mut batch = 0;
        while shared.is_in(Phase::Serving) || shared.is_in(Phase::Parked) {
            if shared.is_in(Phase::Parked) {
                self.intake.park();
                self.starter.thread.park();
                // The next binary couldn't go on. What this thread was woken for while it was parked is
                // told once: a turn that another has left to it, or a slot that it waits for.
                self.intake.on_woken();
                self.intake.unpark(&mut self.starter);
                continue;
            }
            match serve_ready(&mut self.intake, &mut self.starter) {
                0 => {
                    batch = 0;
                    self.wait();
                }
                served if batch + served < BATCH => batch += served,
                _ => {
                    batch = 0;
                    look(&mut self.intake, Some(Duration::ZERO));
                }
            }
        }
        self.intake.finish(self.starter);
    }

    /// Waits until something happens.
    fn wait(&mut self) {
        // Until a connection is let go of, its client waits for the end.
        let released = self.starter.release();
        if !self.intake.watch() {
            return pause(&mut self.intake);
        }
        let limit = (!released).then_some(PAUSE);
        let left = self.intake.time_left();
        look(&mut self.intake, limit.into_iter().chain(left).min());
    }
}

/// Serves what is ready, and waits out a shortage. Returns how many clients were served; one, if
/// there was a shortage, so that the thread tries again whatever else there is to wait for.
pub(super) fn serve_ready<'a, S: Intake<'a>>(
    intake: &mut S,
    starter: &mut HandlerStarter<'a>,
) -> usize {
    let Attempts { served, short } = intake.serve_ready(starter);
    if short {
        pause(intake);
        return served.max(1);
    }
    served
}

/// Lets time pass before the next try, unless something happens that may have ended a shortage; the
/// arrival of a client doesn't.
pub(super) fn pause<'a, S: Intake<'a>>(intake: &mut S) {
    let Thread { index, shared } = intake.thread();
    shared.turns.set_pausing(index, true);
    intake.give_way();
    look(intake, Some(PAUSE));
    shared.turns.set_pausing(index, false);
}

/// Acts on what has happened; waits for it, for `limit` at most.
pub(super) fn look<'a, S: Intake<'a>>(intake: &mut S, limit: Option<Duration>) {
    let thread = intake.thread();
    // Without timeouts this is `limit`, and no system call.
    let limit = thread.handlers().until_due(thread.index, limit);
    let mut events = no_events();
    let Ok(tokens) = intake.poller().wait(&mut events, limit) else {
        // No errno that an epoll descriptor in order can give; don't spin on it.
        thread::sleep(PAUSE);
        return;
    };
    for token in tokens.map(Token::from) {
        match token {
            // The pidfds are in a set of their own.
            Token::Worker(_) => look_at_handlers(intake),
            token => act(intake, token),
        }
    }
    let Thread { index, shared } = thread;
    // After the ends: a handler that has ended isn't late.
    shared.handlers.act_on_timeouts(index);
    shared.handlers.close_overdue(index);
    intake.on_time();
}

/// Acts on the events of the set in which the pidfds of handlers are.
fn look_at_handlers<'a, S: Intake<'a>>(intake: &mut S) {
    let mut events = no_events();
    let poller = intake.thread().poller();
    if let Ok(tokens) = poller.wait(&mut events, Some(Duration::ZERO)) {
        tokens.map(Token::from).for_each(|token| act(intake, token));
    }
}

fn act<'a, S: Intake<'a>>(intake: &mut S, token: Token) {
    let thread = intake.thread();
    let Thread { index, shared } = thread;
    match token {
        Token::Handler {
            thread: part,
            index: entry,
        } => {
            let after = reap::reap(&shared.handlers, index, (part, entry), None);
            if let After::Freed(service) = after {
                intake.on_freed(service);
            }
        }
        Token::Lingering(connection) => {
            let lingering = &shared.handlers.lingering;
            lingering.drain_input(index, thread.poller(), connection);
        }
        Token::Waker => {
            shared.wakers[index].clear();
            shared.answer(index);
            intake.on_woken();
        }
        token => intake.on_event(token),
    }
}

/// Notes that a worker has ended.
pub(super) fn note_end(shared: &Shared) {
    shared.ended.fetch_add(1, Ordering::SeqCst);
    shared.handlers.main.wake();
}

/// Waits a shortage out, unless skd is stopping.
#[derive(Debug)]
pub(super) struct WaitOut<'s, 'a, S, F> {
    intake: &'s mut S,
    free_descriptor: F,
    thread: PhantomData<Thread<'a>>,
}

impl<'s, 'a, S: Intake<'a>, F: FnMut(&mut S) -> bool> WaitOut<'s, 'a, S, F> {
    /// `free_descriptor` closes something of little worth, and returns whether it did.
    pub(super) fn new(intake: &'s mut S, free_descriptor: F) -> Self {
        Self {
            intake,
            free_descriptor,
            thread: PhantomData,
        }
    }
}

impl<'a, S: Intake<'a>, F: FnMut(&mut S) -> bool> OnShortage for WaitOut<'_, 'a, S, F> {
    fn free_descriptor(&mut self) -> bool {
        (self.free_descriptor)(self.intake)
    }

    fn pause(&mut self) -> bool {
        let stopping = self.intake.thread().is_stopping();
        if !stopping {
            pause(self.intake);
        }
        !stopping
    }
}
