//! The running daemon: connections and datagrams become handlers, handlers end, signals
//! arrive. The only place where mechanisms meet.
//!
//! Acceptor threads wait for connections and for the ends of the handlers that they started
//! ([`stream`], [`reap`]); the main thread waits for signals, for what comes to sockets that
//! are lent, and for whatever else ends ([`control`], [`lend`]). A program that is supervised,
//! with sockets ([`handover`]) or without, has [`supervise`] alone.

mod admit;
mod control;
mod datagrams;
mod drain;
mod handlers;
pub mod handover;
mod key;
mod leave;
mod lend;
mod reap;
mod reread;
mod room;
mod status;
mod stream;
pub mod supervise;
mod timers;
mod times;
mod trial;
pub mod upgrade;
mod visit;

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::child::{Method, Plan, Stock};
use crate::config::{Admission, Ahead, DatagramMode, MOST_THREADS, Span};
use crate::net::Listener;
use crate::report::{self, Cause, Event};
use crate::setup::{Log, Manager, RuleFiles};
use crate::sys::descriptors::Reserved;
use crate::sys::events::{Poller, Waker};

pub use admit::{Client, Decision, HandedRules, Ready, Rules};
use admit::{Clock, Places, Policy, RuleBook};
pub use control::Daemon;
use datagrams::Left;
pub use drain::Patience;
use handlers::{Handler, Handlers};
use leave::Leaving;
pub use leave::most as most_leaving;
use reap::Births;
use room::Visitor;
use status::Signs;
pub use times::Limits;
use times::{Times, Watch};
use upgrade::{Handed, Origin};

/// How many threads accept connections, where there are any.
pub fn acceptors(wanted: Option<NonZeroUsize>) -> usize {
    // While one waits for its child to exec, another can use the core; many more would only
    // have children wait for each other.
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let usual = || (cores() * 3).div_ceil(2).min(MOST_THREADS);
    wanted.map_or_else(usual, |threads| threads.get())
}

/// How many threads receive datagrams, beside so many acceptors. All have a low descriptor.
pub fn passers(mode: DatagramMode, wanted: Option<NonZeroUsize>, acceptors: usize) -> usize {
    let room = (MOST_THREADS - acceptors.min(MOST_THREADS)).max(1);
    datagrams::threads(mode, self::acceptors(wanted)).min(room)
}

/// A service that is ready to be served.
#[derive(Debug)]
pub struct Service {
    /// How its handlers are made.
    pub plan: Plan,
    /// Its sockets, which listen.
    pub listeners: Vec<Listener>,
    /// Whether its stream listeners are lent to their handlers, as datagram ones always are.
    pub wait: bool,
    /// What handlers of its datagram listeners are for.
    pub datagrams: DatagramMode,
    /// From which port on UDP datagrams are listened to, where skd receives them.
    pub min_source_port: u16,
    /// How many handlers its stream listeners may have at once.
    pub max_clients: Option<NonZeroUsize>,
    /// What else is asked of their clients.
    pub admission: Admission,
    /// Whether its handlers are started before their clients come, and how.
    pub ahead: Option<Ahead>,
    /// What handlers of its connections are held to, if anything.
    pub limits: Option<Limits>,
    /// How long a client is heard out after its handler's end, if it is.
    pub linger: Option<Span>,
    /// Who may come in, and where that is read again.
    pub rules: Option<(Rules, RuleFiles)>,
}

/// What else the running daemon needs.
#[derive(Debug)]
pub struct Resources {
    /// How children are made here.
    pub method: Method,
    /// How many threads accept connections.
    pub threads: usize,
    /// How many receive datagrams.
    pub passers: usize,
    /// The reserved descriptors, of which each thread that starts handlers needs one.
    pub reserved: Reserved,
    /// The log, to be opened again and to be kept going.
    pub log: Log,
    /// The service manager, to be told how things are.
    pub manager: Option<Manager>,
    /// What else is known from the start.
    pub origin: Origin,
    /// What an earlier image has left.
    pub handed: Handed,
    /// How long handlers are waited for at the end, if they are.
    pub patience: Option<Patience>,
}

/// What all threads of the running daemon share.
#[derive(Debug)]
struct Shared {
    services: Vec<Served>,
    handlers: Handlers,
    leaving: Leaving,
    /// One for each acceptor, and the main thread's.
    pollers: Box<[Poller]>,
    main: Waker,
    /// One for each acceptor.
    wakers: Arc<[Waker]>,
    /// One for each acceptor.
    births: Box<[Births]>,
    signs: Signs,
    phase: AtomicU8,
    /// What limits by time are reckoned in.
    clock: Clock,
    /// For each acceptor, those who wait to be let through while it doesn't have them: its room
    /// may be too small for another's too. Locked only to leave or take over.
    visitors: Box<[Mutex<Vec<Visitor>>]>,
    /// How many acceptors are parked.
    parked: AtomicUsize,
    /// Whether skd drains.
    drains: AtomicBool,
    /// Those that no thread has, during an upgrade. Locked only to leave or take over.
    left_exchanges: Mutex<Vec<Left>>,
    /// How many exchanges of datagrams are open: their handlers, or their clients, may have
    /// something to say.
    exchanges: AtomicUsize,
    /// How many acceptors have ended, after all else that they do.
    left: AtomicUsize,
}

/// What acceptors do: wait until all of them are there, serve, wait for an upgrade, serve those
/// who have come already, end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Starting,
    Serving,
    Parked,
    Closing,
    Stopping,
}

/// The part of a service that acceptors need.
#[derive(Debug)]
struct Served {
    plan: Arc<Plan>,
    /// Handlers of connections that are started before their clients come, if they are.
    stock: Option<Arc<Stock>>,
    /// What these have in their environment besides, and so have those that are started in their
    /// place: nothing about a client.
    stock_variables: Vec<CString>,
    listeners: Vec<Listener>,
    /// Those on which skd receives datagrams, and what for.
    datagrams: Vec<Listener>,
    mode: DatagramMode,
    min_source_port: u16,
    /// How long a sender may be silent until its handler is told that there is no more.
    peer_idle: Duration,
    places: Arc<Places>,
    /// What else is asked of clients, if anything.
    policy: Option<Policy>,
    /// How long a client is heard out after its handler's end, if it is.
    linger: Option<Duration>,
    /// Who may come in, where not everybody may.
    rules: Option<RuleBook>,
    /// Whether the main thread is asked to find out if clients wait in the backlog.
    full: AtomicBool,
    /// What handlers are held to.
    times: Option<Times>,
}

impl Served {
    fn report_places(&self) {
        report::event(Event::Places(self.places.used(), self.places.limit()));
    }
}

impl Shared {
    /// Has all acceptors go over to this phase, those who wait too.
    ///
    /// A wake-up can't fail: the only errno of a write to such a descriptor is EAGAIN, of a
    /// counter that is full, and that one wakes. Should a filter forbid it, acceptors look for
    /// [`Phase::Serving`] by themselves, and nobody waits long for them to stop.
    fn enter_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        for waker in &*self.wakers {
            waker.wake();
        }
    }

    /// How many handlers the stream listeners may have at once, if there are such and that is
    /// limited.
    fn limit(&self) -> Option<usize> {
        let services = self.services.iter();
        let mut streams = services
            .filter(|served| !served.listeners.is_empty() || !served.datagrams.is_empty())
            .peekable();
        streams.peek()?;
        streams.map(|served| served.places.limit()).sum()
    }

    /// The main thread's part of the table of handlers, after those of the acceptors.
    fn main_index(&self) -> usize {
        self.wakers.len()
    }

    /// What the main thread waits with.
    fn main_poller(&self) -> &Poller {
        &self.pollers[self.main_index()]
    }

    fn acceptors_have_left(&self) -> bool {
        self.left.load(Ordering::SeqCst) == self.wakers.len()
    }

    /// All stream listeners.
    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.services.iter().flat_map(|served| &served.listeners)
    }

    /// All on which skd receives datagrams.
    fn datagrams(&self) -> impl Iterator<Item = &Listener> {
        self.services.iter().flat_map(|served| &served.datagrams)
    }

    /// What stands ready for the clients of each service.
    fn stocks(&self) -> impl Iterator<Item = &Stock> {
        let services = self.services.iter();
        services.filter_map(|served| served.stock.as_deref())
    }

    /// Ends what stands ready, if no acceptor is about any more who may just be giving a connection
    /// to it: killed in the midst of that, a handler would end as soon as it has begun. Says
    /// whether that could be done.
    fn retire_stocks(&self) -> bool {
        let left = self.acceptors_have_left();
        if left {
            self.stocks().for_each(Stock::retire);
        }
        left
    }

    fn left_exchanges(&self) -> MutexGuard<'_, Vec<Left>> {
        let left = self.left_exchanges.lock();
        left.unwrap_or_else(PoisonError::into_inner)
    }

    fn visitors(&self, thread: usize) -> MutexGuard<'_, Vec<Visitor>> {
        let visitors = self.visitors[thread].lock();
        visitors.unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) == phase as u8
    }

    /// Enters a handler that this thread has started; one that can't be watched is found by
    /// looking at all children. Says whether there is room for another.
    fn enter(&self, thread: usize, handler: Handler, watch: Option<Watch>) -> bool {
        let has_pidfd = handler.pidfd.is_some();
        let poller = &self.pollers[thread];
        let (watched, room) = self.handlers.insert(thread, poller, handler, watch);
        if let Err(errno) = watched {
            let text = format_args!("a handler can't be watched: {}", errno.desc());
            report::event(Event::Trouble(Cause::Watch, &text));
        }
        if !has_pidfd || watched.is_err() {
            self.main.wake();
        }
        self.note_change();
        room
    }
}
