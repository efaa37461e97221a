//! Acceptor threads: place → accept → identify → admit → spawn → hold.
//!
//! Several of them, since starting a handler stops the thread that does it until the
//! handler has been executed. Each waits for all listeners with an epoll set of its own,
//! and the kernel wakes one of them for a connection. A service without a free place is
//! not waited for at all.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::Socket;

use super::admit::Place;
use super::handlers::{Handler, Work};
use super::{Served, Shared};
use crate::child::{SpawnError, Spawned, Spawner};
use crate::net::{Listener, Peer};
use crate::report::{self, Cause, Event};
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller, no_events, wait_readable};

/// How long a shortage is waited out before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// The key of the thread's waker; listeners have their index in [`Acceptor::listeners`].
const WAKER: u64 = u64::MAX;

/// Starts an acceptor thread.
pub(super) fn start(index: usize, shared: Arc<Shared>, spawner: Spawner) -> io::Result<()> {
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
            };
            acceptor.run();
            let (parked, change) = &shared.parked;
            *parked.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            change.notify_all();
        })?;
    Ok(())
}

struct Acceptor<'a> {
    index: usize,
    shared: &'a Shared,
    poller: Poller,
    /// One for each service.
    lanes: Vec<Lane<'a>>,
    spawner: Spawner,
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

impl Acceptor<'_> {
    fn run(mut self) {
        while !self.stopping() {
            if !self.take_places() {
                self.sleep(None);
            } else if !self.serve_ready() {
                self.wait();
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
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
        let (connection, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.lanes[service].place = Some(place);
                return not_accepted(listener, &reason);
            }
        };
        report::event(Event::Accepted(&peer));
        if !self.hold(connection) {
            return Attempt::Short;
        }
        self.introduce(service, listener, &peer);
        // So that a child that looks like a stranger's is known to be in the making. Two
        // atomic additions.
        let starting = &self.shared.starting[self.index];
        starting.begin();
        if let Some(Spawned { pid, pidfd }) = self.spawn(service) {
            let handler = Handler {
                pid,
                pidfd,
                work: Work::Connection(place),
                peer,
                started: Instant::now(),
            };
            // A lock, but one that only the reaper ever holds besides this thread, and
            // an allocation only when more handlers live than ever before.
            self.shared.enter(self.index, handler);
        }
        starting.end();
        self.spawner.release();
        Attempt::Served
    }

    /// Puts the connection into the thread's slot, however long that takes; not if skd is
    /// stopping.
    fn hold(&mut self, connection: Socket) -> bool {
        while let Err(reason) = self.spawner.hold(&connection) {
            let text = format_args!("a connection can't be handed over: {reason}; trying again");
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
    fn spawn(&mut self, service: usize) -> Option<Spawned> {
        let plan = &self.lanes[service].served.plan;
        loop {
            let environment = &mut self.lanes[service].environment;
            let why = match self.spawner.spawn(plan, environment) {
                Ok(spawned) => return Some(spawned),
                Err(why) => why,
            };
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
            self.watch(index);
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
    /// connection: one who is woken and doesn't accept keeps others from being woken.
    fn watch(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let wanted = lane.place.is_some();
        if lane.watched == wanted {
            return;
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
            Ok(()) => lane.watched = wanted,
            Err(errno) => {
                let text = format_args!("a listener can't be watched: {}", errno.desc());
                report::event(Event::Trouble(Cause::Watch, &text));
                // Not watched is not waited for; so try it at once, and then again.
                lane.ready.fill(true);
                self.sleep(Some(PAUSE));
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
        // The client has gone, or the network has, or a firewall didn't let it in.
        Errno::ECONNABORTED
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EPERM
        | Errno::ENETDOWN
        | Errno::ENETUNREACH
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENONET
        | Errno::ETIMEDOUT
        | Errno::EOPNOTSUPP => (Attempt::Served, "the client is gone"),
        _ => (Attempt::Short, "trying again"),
    };
    let text = format_args!(
        "a connection on {listener} wasn't accepted: {}; {then}",
        errno.desc()
    );
    report::event(Event::Trouble(Cause::Accept, &text));
    attempt
}
