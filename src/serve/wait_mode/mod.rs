//! Sockets lent to a handler, in the manner of inetd's "wait": what first arrives starts a
//! handler on the listening socket itself, and nothing more is looked at until it ends. So
//! with every datagram socket, and with stream sockets if that is asked for.
//!
//! A handler that leaves what it was started for where it is must not make a storm: starts
//! for the same are spaced by a delay that doubles. What is the same, and what becomes of it
//! in the end, is another matter for datagrams than for connections: see [`Datagrams`] and
//! [`Connections`].

mod connections;
mod datagrams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::handlers::Handlers;
use super::handlers::table::{Handler, Work};
use super::handlers::token::Token;
use crate::child::{Plan, SpawnError, Spawned, Spawner};
use crate::config::ServiceId;
use crate::net::{Listener, Peer};
use crate::report::{self, Event, ReceiveFault, Trouble};
use crate::sys::descriptors;
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller};

use connections::Connections;
use datagrams::Datagrams;

/// The delay before a second start for the same, and the longest one.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// After how many starts for the same something is done, or said, about it.
const STARTS: u32 = 8;

/// How long a shortage, or a socket that fails, is waited out.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener that is lent, and what it was last lent for.
#[derive(Debug)]
pub(in crate::serve) struct WaitSocket {
    listener: Listener,
    service: ServiceId,
    plan: Arc<Plan>,
    environment: Environment,
    /// Its place among those that are lent.
    index: usize,
    arrivals: Arrivals,
    /// Since when no handler has the socket.
    free_since: Instant,
    /// When the socket is to be looked at again, if not when something arrives.
    due: Option<Instant>,
}

/// What arrives there.
#[derive(Debug)]
enum Arrivals {
    Datagrams(Datagrams),
    Connections(Connections),
}

/// What was found to have arrived.
enum Found {
    Nothing,
    /// Somebody, for whom a handler was started so often already.
    Somebody {
        peer: Peer,
        new: bool,
        starts: u32,
    },
    /// The socket is of no use any more.
    ShutDown,
    Trouble(Errno),
}

impl WaitSocket {
    pub(in crate::serve) fn new(
        listener: Listener,
        service: ServiceId,
        plan: Arc<Plan>,
        index: usize,
    ) -> Result<Self, Errno> {
        let arrivals = match listener.style().has_connections() {
            false => Arrivals::Datagrams(Datagrams::default()),
            true => Arrivals::Connections(Connections::new(&listener)?),
        };
        Ok(Self {
            environment: plan.environment(),
            listener,
            service,
            plan,
            index,
            arrivals,
            free_since: Instant::now(),
            due: None,
        })
    }

    pub(in crate::serve) fn service(&self) -> ServiceId {
        self.service
    }

    /// Its index among the wait-mode listeners of all services.
    pub(in crate::serve) fn index(&self) -> usize {
        self.index
    }

    pub(in crate::serve) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Waits for the first arrival; not if a handler has the socket already.
    pub(in crate::serve) fn watch(&self, poller: &Poller, taken: bool) -> Result<(), Errno> {
        let interest = if taken {
            Interest::Paused
        } else {
            Interest::ReadableOnce
        };
        poller.add(&self.listener, interest, self.key())
    }

    /// Prepares the socket; after an upgrade it is so already.
    pub(in crate::serve) fn prepare(&self) -> Result<(), Errno> {
        match self.arrivals {
            Arrivals::Datagrams(_) => Datagrams::note_times(&self.listener, true),
            Arrivals::Connections(_) => Ok(()),
        }
    }

    fn key(&self) -> u64 {
        Token::WaitMode(self.index).into()
    }

    /// When to call [`Self::look`] without anything having arrived.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The handler has ended: the socket is skd's again.
    pub(in crate::serve) fn returned(&mut self, handlers: &Handlers) {
        self.free_since = Instant::now();
        match &mut self.arrivals {
            Arrivals::Datagrams(_) => self.note_times(true),
            Arrivals::Connections(connections) => {
                connections.returned(self.service, &self.listener, &self.plan);
            }
        }
        self.rearm(handlers);
    }

    /// Looks at the socket: something has arrived, or it is time to try again.
    pub(in crate::serve) fn look(&mut self, handlers: &Handlers, spawner: &mut Spawner) {
        self.due = None;
        let found = match &mut self.arrivals {
            Arrivals::Datagrams(datagrams) => {
                datagrams.find(self.service, &self.listener, &self.plan)
            }
            Arrivals::Connections(connections) => connections.find(&self.listener),
        };
        let (peer, new, starts) = match found {
            Found::Somebody { peer, new, starts } => (peer, new, starts),
            Found::Nothing => return self.rearm(handlers),
            Found::ShutDown => {
                self.not_received(ReceiveFault::ShutDownByHandler);
                return self.pause(LONGEST_DELAY);
            }
            Found::Trouble(errno) => {
                self.not_received(ReceiveFault::Errno(errno));
                return self.pause(PAUSE);
            }
        };
        if starts > 0 {
            let due = self.free_since + delay(starts);
            if Instant::now() < due {
                self.due = Some(due);
                return;
            }
        }
        if new {
            report::event(Event::Received(self.service, &peer));
        }
        match self.start(handlers, spawner, peer) {
            Ok(()) => self.tried(),
            Err(why @ SpawnError::Shortage(_)) => {
                let why = why.explain(&self.plan);
                report::event(Event::Trouble(Trouble::Spawn(self.service, why)));
                if let Arrivals::Datagrams(_) = self.arrivals {
                    self.note_times(true);
                }
                self.pause(PAUSE);
            }
            Err(why @ SpawnError::Failed(..)) => {
                let why = why.explain(&self.plan);
                report::event(Event::Trouble(Trouble::Spawn(self.service, why)));
                self.tried();
                self.returned(handlers);
            }
        }
    }

    fn tried(&mut self) {
        match &mut self.arrivals {
            Arrivals::Datagrams(datagrams) => datagrams.tried(),
            Arrivals::Connections(connections) => connections.tried(),
        }
    }

    /// Starts a handler on the listening socket itself.
    fn start(
        &mut self,
        handlers: &Handlers,
        spawner: &mut Spawner,
        peer: Peer,
    ) -> Result<(), SpawnError> {
        let thread = handlers.main_index();
        let room = handlers.table.reserve(thread, 1);
        room.map_err(|_| SpawnError::Shortage(Errno::ENOMEM))?;
        // An earlier handler may have left it non-blocking.
        descriptors::set_blocking(&self.listener, true).map_err(SpawnError::Shortage)?;
        spawner.hold(&self.listener).map_err(SpawnError::Shortage)?;
        match &mut self.arrivals {
            Arrivals::Datagrams(_) => self.note_times(false),
            Arrivals::Connections(connections) => connections.lend(&self.listener),
        }
        self.environment.clear();
        for variable in self.listener.variables(&peer) {
            self.environment.line(variable);
        }
        peer.variables(|name, value| self.environment.set(name, value));
        let spawned = spawner.spawn(&self.plan, None, &mut self.environment);
        // What may be left there is the listener, whose end nobody waits for.
        spawner.release();
        let Spawned { pid, pidfd } = spawned?;
        report::event(Event::HandlerStarted(self.service, pid.as_raw()));
        let handler = Handler {
            service: self.service,
            pid,
            pidfd,
            work: Work::WaitMode(self.index),
            source_slot: None,
            peer,
            started: Instant::now(),
            kept: None,
        };
        handlers.enter(thread, handler, None);
        Ok(())
    }

    /// Waits for the next arrival, or for the same one again.
    fn rearm(&mut self, handlers: &Handlers) {
        let listener = &self.listener;
        let key = self.key();
        let poller = handlers.main_poller();
        if let Err(errno) = poller.change(listener, Interest::ReadableOnce, key) {
            report::event(Event::Trouble(Trouble::ListenerNotWatched {
                service: self.service,
                listener: listener.listener_name(),
                errno,
            }));
            self.pause(PAUSE);
        }
    }

    fn pause(&mut self, pause: Duration) {
        self.due = Some(Instant::now() + pause);
    }

    fn note_times(&self, on: bool) {
        if let Err(errno) = Datagrams::note_times(&self.listener, on) {
            self.not_received(ReceiveFault::Errno(errno));
        }
    }

    fn not_received(&self, fault: ReceiveFault) {
        report::event(Event::Trouble(Trouble::NotReceived {
            service: self.service,
            listener: self.listener.listener_name(),
            fault,
        }));
    }
}

/// The delay before the next start for the same, after so many.
fn delay(starts: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(1 << (starts - 1).min(16))
        .min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_second() {
        let delays: Vec<u128> = [1, 2, 3, 7, 8, 9, 40]
            .map(|starts| delay(starts).as_millis())
            .to_vec();
        assert_eq!(delays, [10, 20, 40, 640, 1000, 1000, 1000]);
    }
}
