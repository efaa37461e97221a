//! Acceptor threads: place → accept → identify → admit → spawn → hold.
//!
//! Several of them, since starting a handler stops the thread that does it until the
//! handler has been executed. Each waits for all listeners with an epoll set of its own,
//! and the kernel wakes one of them for a connection. A service without a free place is
//! not waited for at all.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::Socket;

use super::admit::Place;
use super::handlers::{Handler, Work};
use super::reap::Birth;
use super::{Phase, Served, Shared};
use crate::child::{SpawnError, Spawned, Spawner};
use crate::net::{Listener, Peer};
use crate::report::{self, Cause, Event};
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller, no_events, wait_readable};

/// How long a shortage is waited out before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// The key of the thread's waker; those of listeners are a service and an index.
const WAKER: u64 = u64::MAX;

/// Starts an acceptor thread, which waits until all are there.
pub(super) fn start(
    index: usize,
    shared: Arc<Shared>,
    spawner: Spawner,
) -> io::Result<JoinHandle<()>> {
    let poller = Poller::new()?;
    poller.add(&shared.wakers[index], Interest::Readable, WAKER)?;
    thread::Builder::new()
        .name(format!("accept-{index}"))
        .stack_size(128 * 1024)
        .spawn(move || {
            let acceptor = Acceptor {
                index,
                poller,
                lanes: shared.services.iter().map(Lane::new).collect(),
                shared: &shared,
                spawner,
                room: false,
            };
            acceptor.run();
        })
}

struct Acceptor<'a> {
    index: usize,
    shared: &'a Shared,
    poller: Poller,
    /// One for each service.
    lanes: Vec<Lane<'a>>,
    spawner: Spawner,
    /// Whether the table has room for the next handler.
    room: bool,
}

/// A service as one thread sees it.
struct Lane<'a> {
    served: &'a Served,
    /// The place for the next connection, taken before it is accepted.
    place: Option<Place>,
    /// Whether the listeners are in the thread's epoll set.
    watched: bool,
    /// For each listener, whether a connection may wait.
    ready: Vec<bool>,
    environment: Environment,
}

impl<'a> Lane<'a> {
    fn new(served: &'a Served) -> Self {
        Self {
            served,
            place: None,
            watched: false,
            ready: vec![false; served.listeners.len()],
            environment: served.plan.environment(),
        }
    }
}

/// What became of an attempt to serve.
enum Attempt {
    /// A connection was dealt with; there may be more.
    Served,
    /// No connection waits.
    Drained,
    /// Something is short; not before [`PAUSE`] again.
    Short,
}

impl<'a> Acceptor<'a> {
    fn run(mut self) {
        while self.shared.is_in(Phase::Starting) {
            self.sleep(None);
        }
        while !self.stopping() {
            if !self.take_places() {
                self.sleep(None);
            } else if !self.serve_ready() {
                self.wait();
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.is_in(Phase::Stopping)
    }

    /// Takes a place in each service where it has none, and says whether it has any at all.
    fn take_places(&mut self) -> bool {
        let mut any = false;
        for lane in &mut self.lanes {
            if lane.place.is_none() && !lane.served.listeners.is_empty() {
                lane.place = lane.served.places.take(self.index);
                if lane.place.is_none() && report::full_is_due() {
                    // Whether clients wait is for the main thread to see: to look at the
                    // listener from here would take the wake-up from another acceptor.
                    lane.served.full.store(true, Ordering::SeqCst);
                    self.shared.main.wake();
                }
            }
            any |= lane.place.is_some();
        }
        any
    }

    /// Serves one connection of each listener that may have one, in turn, so that none
    /// waits for another to be drained; says whether there was one.
    fn serve_ready(&mut self) -> bool {
        let mut any = false;
        for service in 0..self.lanes.len() {
            for listener in 0..self.lanes[service].ready.len() {
                if !self.lanes[service].ready[listener] {
                    continue;
                }
                let Some(place) = self.lanes[service].place.take() else {
                    break;
                };
                match self.serve(service, listener, place) {
                    Attempt::Served => any = true,
                    Attempt::Drained => self.lanes[service].ready[listener] = false,
                    Attempt::Short => {
                        self.sleep(Some(PAUSE));
                        return true;
                    }
                }
                self.take_places();
            }
        }
        any
    }

    fn serve(&mut self, service: usize, index: usize, place: Place) -> Attempt {
        let served = self.lanes[service].served;
        let listener = &served.listeners[index];
        if !self.make_room() {
            self.lanes[service].place = Some(place);
            return Attempt::Short;
        }
        let (connection, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.lanes[service].place = Some(place);
                return not_accepted(listener, &reason);
            }
        };
        report::event(Event::Accepted(&peer));
        if !self.hold(connection) {
            return Attempt::Served;
        }
        self.introduce(service, listener, &peer);
        if let Some((Spawned { pid, pidfd }, birth)) = self.spawn(service) {
            let handler = Handler {
                pid,
                pidfd,
                work: Work::Connection(place.in_use()),
                peer,
                started: Instant::now(),
            };
            // A lock, but one that only the reaper ever holds besides this thread.
            self.room = self.shared.enter(self.index, handler);
            drop(birth);
            served.report_places();
        }
        self.spawner.release();
        Attempt::Served
    }

    /// Has room for the next handler in the table, before its client is accepted: one that
    /// runs must be entered. Allocates only when more handlers live than ever before.
    fn make_room(&mut self) -> bool {
        if !self.room {
            match self.shared.handlers.reserve(self.index) {
                Ok(()) => self.room = true,
                Err(why) => report::event(Event::Trouble(Cause::Spawn, &why)),
            }
        }
        self.room
    }

    /// Puts the connection into the thread's slot, however long that takes; not if skd is
    /// stopping.
    fn hold(&mut self, connection: Socket) -> bool {
        while let Err(errno) = self.spawner.hold(&connection) {
            let why = errno.desc();
            let text = format_args!("a connection can't be handed over: {why}; trying again");
            report::event(Event::Trouble(Cause::Spawn, &text));
            if self.stopping() {
                return false;
            }
            self.sleep(Some(PAUSE));
        }
        true
    }

    /// Writes into the environment who has called where.
    fn introduce(&mut self, service: usize, listener: &Listener, peer: &Peer) {
        let environment = &mut self.lanes[service].environment;
        environment.clear();
        for variable in listener.variables() {
            environment.line(variable);
        }
        peer.variables(|name, value| environment.set(name, value));
    }

    /// Starts the handler of what the slot holds; waits until a shortage is over, for the
    /// client has been accepted. `None` if the program can't be run, or skd is stopping.
    fn spawn(&mut self, service: usize) -> Option<(Spawned, Birth<'a>)> {
        let plan = &self.lanes[service].served.plan;
        loop {
            // So that the new child isn't taken for a stranger's. Two atomic additions.
            let birth = self.shared.births[self.index].begin();
            let environment = &mut self.lanes[service].environment;
            let why = match self.spawner.spawn(plan, environment) {
                Ok(spawned) => return Some((spawned, birth)),
                Err(why) => why,
            };
            drop(birth);
            let cause = match why {
                SpawnError::Shortage(_) => Cause::Spawn,
                SpawnError::Failed(..) => Cause::Exec,
            };
            report::event(Event::Trouble(cause, &why.explain(plan)));
            if cause == Cause::Exec || self.stopping() {
                return None;
            }
            self.sleep(Some(PAUSE));
        }
    }

    /// Waits until a connection may be there.
    fn wait(&mut self) {
        for index in 0..self.lanes.len() {
            if !self.watch(index) {
                return self.sleep(Some(PAUSE));
            }
        }
        let mut room = no_events();
        let Ok(events) = self.poller.wait(&mut room, None) else {
            self.sleep(Some(PAUSE));
            return;
        };
        for key in events {
            if key == WAKER {
                self.shared.wakers[self.index].clear();
            } else {
                let (service, listener) = ((key >> 32) as usize, key as u32 as usize);
                self.lanes[service].ready[listener] = true;
            }
        }
    }

    /// Has the listeners of a service in the epoll set just if there is a place for a
    /// connection: a thread that waits, is woken and doesn't accept keeps others from being
    /// woken. (One that doesn't wait in its epoll set is passed over by the kernel.) Says
    /// whether that could be done.
    fn watch(&mut self, index: usize) -> bool {
        let lane = &mut self.lanes[index];
        let wanted = lane.place.is_some();
        if lane.watched == wanted {
            return true;
        }
        let mut done = Ok(());
        for (number, listener) in lane.served.listeners.iter().enumerate() {
            let key = ((index as u64) << 32) | number as u64;
            let result = if wanted {
                self.poller.add(listener, Interest::ReadableOne, key)
            } else {
                self.poller.remove(listener)
            };
            match result {
                // It was there, or wasn't, after an attempt that failed half-way.
                Ok(()) | Err(Errno::EEXIST | Errno::ENOENT) => {}
                Err(errno) => done = Err(errno),
            }
        }
        match done {
            Ok(()) => {
                lane.watched = wanted;
                true
            }
            Err(errno) => {
                let text = format_args!("a listener can't be watched: {}", errno.desc());
                report::event(Event::Trouble(Cause::Watch, &text));
                // What isn't watched has to be tried.
                lane.ready.fill(true);
                false
            }
        }
    }

    /// Waits until somebody wakes the thread, or for so long.
    fn sleep(&self, limit: Option<Duration>) {
        let waker = &self.shared.wakers[self.index];
        wait_readable([waker.as_fd()], limit);
        waker.clear();
    }
}

/// What an error of accept(2) means (accept(2), ERRORS).
fn not_accepted(listener: &Listener, reason: &io::Error) -> Attempt {
    let errno = reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let (attempt, then) = match errno {
        Errno::EAGAIN => return Attempt::Drained,
        Errno::EINTR => return Attempt::Served,
        // The client has gone, or the network has.
        Errno::ECONNABORTED
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::ENETDOWN
        | Errno::ENETUNREACH
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENONET
        | Errno::ETIMEDOUT => (Attempt::Served, "the client is gone"),
        // A shortage; or a firewall or filter says EPERM, for this client or for all: then
        // nothing was taken from the backlog.
        _ => (Attempt::Short, "trying again"),
    };
    let text = format_args!(
        "a connection on {listener} wasn't accepted: {}; {then}",
        errno.desc()
    );
    report::event(Event::Trouble(Cause::Accept, &text));
    attempt
}
