//! The running daemon: connections and datagrams become handlers, handlers end, signals
//! arrive. The only place where mechanisms meet.
//!
//! The main thread waits for signals, for the end of handlers and for datagrams
//! ([`control`], [`reap`], [`datagram`]); acceptor threads wait for connections
//! ([`stream`]). Without a listener there is only [`supervise`].

mod admit;
mod control;
mod datagram;
mod handlers;
mod reap;
mod stream;
pub mod supervise;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::child::{Method, Plan};
use crate::net::Listener;
use crate::report::{self, Cause, Event};
use crate::setup::Log;
use crate::sys::descriptors::Reserved;
use crate::sys::events::{Poller, Waker};

use admit::Places;
pub use control::Daemon;
use handlers::{Handler, Handlers};

/// A service that is ready to be served.
#[derive(Debug)]
pub struct Service {
    /// How its handlers are made.
    pub plan: Plan,
    /// Its sockets, which listen.
    pub listeners: Vec<Listener>,
    /// How many handlers its stream listeners may have at once.
    pub max_clients: Option<NonZeroUsize>,
}

/// What else the running daemon needs.
#[derive(Debug)]
pub struct Resources {
    /// How children are made here.
    pub method: Method,
    /// How many threads accept connections.
    pub threads: usize,
    /// The reserved descriptors, of which each thread that starts handlers needs one.
    pub reserved: Reserved,
    /// The log, to be opened again and to be kept going.
    pub log: Log,
    /// Whether HUP ends a daemon that has nothing to open again.
    pub hangup_ends: bool,
    /// Whether this process inherits orphans: it is process 1, or a subreaper.
    pub adopts: bool,
}

/// What all threads of the running daemon share.
#[derive(Debug)]
struct Shared {
    services: Vec<Served>,
    handlers: Handlers,
    /// The main thread's.
    poller: Poller,
    main: Waker,
    stopping: AtomicBool,
    /// Whether a handler had to be entered without a pidfd.
    blind: AtomicBool,
    starting: Vec<Starting>,
    wakers: Arc<[Waker]>,
    parked: (Mutex<usize>, Condvar),
}

/// The part of a service that acceptors need.
#[derive(Debug)]
struct Served {
    plan: Arc<Plan>,
    listeners: Vec<Listener>,
    places: Arc<Places>,
    /// Whether the main thread is asked to find out if clients wait for a place.
    full: AtomicBool,
}

/// Whether a thread is between making a handler and entering it: odd if so.
#[derive(Debug, Default)]
struct Starting(AtomicU32);

impl Starting {
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether what was going on at `count` still is.
    fn busy(&self, count: u32) -> bool {
        count % 2 == 1 && self.count() == count
    }
}

impl Shared {
    fn report_places(&self) {
        if report::wants(2) {
            let limit = match &self.services[..] {
                [only] => only.places.limit(),
                _ => None,
            };
            report::event(Event::Places(self.handlers.count(), limit));
        }
    }

    fn starters(&self) -> impl Iterator<Item = &Starting> {
        self.starting.iter()
    }

    /// The main thread's index among those that start handlers: after the acceptors.
    fn main_index(&self) -> usize {
        self.wakers.len()
    }

    fn main_starting(&self) -> &Starting {
        &self.starting[self.main_index()]
    }

    /// Enters a handler; one that can't be watched is found by looking at all children.
    fn enter(&self, thread: usize, handler: Handler) {
        let had_pidfd = handler.pidfd.is_some();
        if let Err(errno) = self.handlers.insert(thread, &self.poller, handler) {
            if had_pidfd {
                let text = format_args!("a handler can't be watched: {}", errno.desc());
                report::event(Event::Trouble(Cause::Watch, &text));
            }
            self.blind.store(true, Ordering::SeqCst);
            self.main.wake();
        }
        self.report_places();
    }
}
