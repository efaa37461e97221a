//! The loop of every worker thread: serve, wait, reap, wait out a shortage, park.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::shared::{Phase, Shared};
use super::source::{Attempts, HandlerStarter, PAUSE, Source, Thread};
use crate::child::Spawner;
use crate::serve::handlers::reap;
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
    source: S,
}

impl<'a, S: Source<'a>> Worker<'a, S> {
    pub(super) fn new(spawner: Spawner, source: S) -> Self {
        let starter = HandlerStarter::new(source.thread(), spawner);
        Self { starter, source }
    }

    pub(super) fn run(mut self) {
        let shared = self.starter.thread.shared;
        while shared.is_in(Phase::Starting) {
            // Not for good: a moment later it costs nothing to look once more.
            look(&mut self.source, Some(PAUSE));
        }
        self.source.unpark(&mut self.starter);
        let mut batch = 0;
        while shared.is_in(Phase::Serving) || shared.is_in(Phase::Parked) {
            if shared.is_in(Phase::Parked) {
                self.source.park();
                self.starter.thread.park();
                self.source.unpark(&mut self.starter);
                continue;
            }
            match serve_ready(&mut self.source, &mut self.starter) {
                0 => {
                    batch = 0;
                    self.wait();
                }
                served if batch + served < BATCH => batch += served,
                _ => {
                    batch = 0;
                    look(&mut self.source, Some(Duration::ZERO));
                }
            }
        }
        self.source.finish(self.starter);
    }

    /// Waits until something happens.
    fn wait(&mut self) {
        // Until a connection is let go of, its client waits for the end.
        let released = self.starter.release();
        if !self.source.watch() {
            return pause(&mut self.source);
        }
        let limit = (!released).then_some(PAUSE);
        let left = self.source.time_left();
        look(&mut self.source, limit.into_iter().chain(left).min());
    }
}

/// Serves what is ready, and waits out a shortage. Returns how many clients were served; one, if
/// there was a shortage, so that the thread tries again whatever else there is to wait for.
pub(super) fn serve_ready<'a, S: Source<'a>>(
    source: &mut S,
    starter: &mut HandlerStarter<'a>,
) -> usize {
    let Attempts { served, short } = source.serve_ready(starter);
    if short {
        pause(source);
        return served.max(1);
    }
    served
}

/// Lets time pass before the next try, unless something happens that may have ended a shortage; the
/// arrival of a client doesn't.
pub(super) fn pause<'a, S: Source<'a>>(source: &mut S) {
    let Thread { index, shared } = source.thread();
    shared.turns.set_pausing(index, true);
    source.give_way();
    look(source, Some(PAUSE));
    shared.turns.set_pausing(index, false);
}

/// Acts on what has happened; waits for it, for `limit` at most.
pub(super) fn look<'a, S: Source<'a>>(source: &mut S, limit: Option<Duration>) {
    let thread = source.thread();
    // Without timeouts this is `limit`, and no system call.
    let limit = thread.handlers().until_due(thread.index, limit);
    let mut events = no_events();
    let Ok(tokens) = source.poller().wait(&mut events, limit) else {
        // No errno that an epoll descriptor in order can give; don't spin on it.
        thread::sleep(PAUSE);
        return;
    };
    for token in tokens.map(Token::from) {
        match token {
            // The pidfds are in a set of their own.
            Token::Worker(_) => look_at_handlers(source),
            token => act(source, token),
        }
    }
    let Thread { index, shared } = thread;
    // After the ends: a handler that has ended isn't late.
    shared.handlers.act_on_timeouts(index);
    shared
        .handlers
        .lingering
        .close_overdue(index, thread.poller());
    source.on_time();
}

/// Acts on the events of the set in which the pidfds of handlers are.
fn look_at_handlers<'a, S: Source<'a>>(source: &mut S) {
    let mut events = no_events();
    let poller = source.thread().poller();
    if let Ok(tokens) = poller.wait(&mut events, Some(Duration::ZERO)) {
        tokens.map(Token::from).for_each(|token| act(source, token));
    }
}

fn act<'a, S: Source<'a>>(source: &mut S, token: Token) {
    let thread = source.thread();
    let Thread { index, shared } = thread;
    match token {
        Token::Handler {
            thread: part,
            index: entry,
        } => {
            reap::reap(&shared.handlers, index, (part, entry), None);
        }
        Token::Lingering(connection) => {
            let lingering = &shared.handlers.lingering;
            lingering.drain_input(index, thread.poller(), connection);
        }
        Token::Waker => {
            shared.wakers[index].clear();
            shared.answer(index);
            source.on_woken();
        }
        token => source.on_event(token),
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
    source: &'s mut S,
    free_descriptor: F,
    thread: PhantomData<Thread<'a>>,
}

impl<'s, 'a, S: Source<'a>, F: FnMut(&mut S) -> bool> WaitOut<'s, 'a, S, F> {
    /// `free_descriptor` closes something of little worth, and returns whether it did.
    pub(super) fn new(source: &'s mut S, free_descriptor: F) -> Self {
        Self {
            source,
            free_descriptor,
            thread: PhantomData,
        }
    }
}

impl<'a, S: Source<'a>, F: FnMut(&mut S) -> bool> OnShortage for WaitOut<'_, 'a, S, F> {
    fn free_descriptor(&mut self) -> bool {
        (self.free_descriptor)(self.source)
    }

    fn pause(&mut self) -> bool {
        let stopping = self.source.thread().is_stopping();
        if !stopping {
            pause(self.source);
        }
        !stopping
    }
}
