//! Wait mode, as in inetd: what first arrives at a socket starts a handler on the socket itself,
//! and skd looks at the socket again when the handler has ended. So with every datagram socket that
//! skd doesn't receive from itself, and with stream sockets on request.
//!
//! A handler that leaves unread what it was started for must not cause a storm, so starts for the
//! same are spaced by a delay that doubles. What is the same, and what is done about it in the end,
//! differs between datagrams and connections: see [`Datagrams`] and [`Connections`].

mod connections;
mod datagrams;
mod found;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::child::{Source, SpawnError, Spawner};
use crate::config::{Peer, ServiceId};
use crate::net::Listener;
use crate::report::{self, Client, Event, ReceiveFault, Trouble};
use crate::serve::admission::Slots;
use crate::serve::availability::Availability;
use crate::serve::handlers::Handlers;
use crate::serve::handlers::start::{self, GiveUp, NewHandler, Starter};
use crate::serve::handlers::token::Token;
use crate::serve::service::Service;
use crate::sys::descriptors;
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller};

use connections::Connections;
use datagrams::Datagrams;
use found::Found;

/// The delay before a second start for the same, and the longest one.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// How long a shortage, or a socket that fails, is waited out.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket in wait mode.
#[derive(Debug)]
pub(in crate::serve) struct WaitSocket {
    listener: Listener,
    service: ServiceId,
    source: Arc<Source>,
    /// Those of the service, for the total of its handlers.
    slots: Arc<Slots>,
    environment: Environment,
    /// Its index among the wait-mode sockets of the daemon.
    index: usize,
    arrivals: Arrivals,
    /// Since when no handler has the socket.
    free_since: Instant,
    /// When the socket is to be looked at again, if not when something arrives.
    due: Option<Instant>,
    is_closed: bool,
    /// Whether a handler has the socket.
    has_handler: bool,
    /// Whether what arrives is left there, since an administrator wants that.
    is_paused: bool,
}

/// What arrives at a socket.
#[derive(Debug)]
enum Arrivals {
    Datagrams(Datagrams),
    Connections(Connections),
}

impl WaitSocket {
    pub(in crate::serve) fn new(
        listener: Listener,
        service: &Service,
        index: usize,
    ) -> Result<Self, Errno> {
        let arrivals = match listener.style().has_connections() {
            false => Arrivals::Datagrams(Datagrams::default()),
            true => Arrivals::Connections(Connections::new(&listener)?),
        };
        Ok(Self {
            environment: service.source.plan.environment(),
            listener,
            service: service.id,
            source: Arc::clone(&service.source),
            slots: Arc::clone(&service.slots),
            index,
            arrivals,
            free_since: Instant::now(),
            due: None,
            is_closed: false,
            has_handler: false,
            is_paused: service.availability.get() != Availability::Serving,
        })
    }

    /// Closes the socket, since its service is done. A handler that has it keeps it.
    pub(in crate::serve) fn close(&mut self, handlers: &Handlers) {
        if !std::mem::replace(&mut self.is_closed, true) {
            // Not by closing alone: a handler has the socket, and it would be told of still.
            let _ = handlers.main_poller().remove(&self.listener);
            report::event(Event::ClosedListener(self.listener.listener_name()));
            self.listener.close(&handlers.main);
            self.due = None;
        }
    }

    pub(in crate::serve) fn is_closed(&self) -> bool {
        self.is_closed
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

    /// Leaves what arrives where it is, or no more. A handler that has the socket keeps it.
    pub(in crate::serve) fn set_paused(&mut self, is_paused: bool, handlers: &Handlers) {
        let changed = std::mem::replace(&mut self.is_paused, is_paused) != is_paused;
        if self.is_closed || self.has_handler || !changed {
            return;
        }
        self.due = None;
        match is_paused {
            false => self.rearm(handlers),
            true => self.change_interest(handlers, Interest::Paused),
        }
    }

    /// Waits for the first arrival; not if a handler has the socket already.
    pub(in crate::serve) fn watch(&mut self, poller: &Poller, taken: bool) -> Result<(), Errno> {
        self.has_handler = taken;
        let interest = if taken || self.is_paused {
            Interest::Paused
        } else {
            Interest::ReadableOnce
        };
        poller.add(&self.listener, interest, self.token())
    }

    /// Prepares the socket. After an upgrade it is prepared already.
    pub(in crate::serve) fn prepare(&self) -> Result<(), Errno> {
        match self.arrivals {
            Arrivals::Datagrams(_) => Datagrams::note_times(&self.listener, true),
            Arrivals::Connections(_) => Ok(()),
        }
    }

    fn token(&self) -> u64 {
        let (service, index) = (self.service, self.index);
        Token::WaitMode { service, index }.into()
    }

    /// Returns when to call [`Self::look`] though nothing has arrived.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The handler has ended: the socket is skd's again.
    pub(in crate::serve) fn returned(&mut self, handlers: &Handlers) {
        self.has_handler = false;
        if self.is_closed {
            return;
        }
        self.free_since = Instant::now();
        match &mut self.arrivals {
            Arrivals::Datagrams(_) => self.note_times(true),
            Arrivals::Connections(connections) => {
                connections.returned(self.service, &self.listener, &self.source.plan);
            }
        }
        self.rearm(handlers);
    }

    /// Looks at the socket: something has arrived, or it is time to try again.
    pub(in crate::serve) fn look(&mut self, handlers: &Handlers, spawner: &mut Spawner) {
        self.due = None;
        // An event may have come just before it was paused.
        if self.is_closed || self.is_paused {
            return;
        }
        let found = match &mut self.arrivals {
            Arrivals::Datagrams(datagrams) => {
                datagrams.find(self.service, &self.listener, &self.source.plan)
            }
            Arrivals::Connections(connections) => connections.find(&self.listener),
        };
        let (peer, new, starts) = match found {
            Found::Arrival { peer, new, starts } => (peer, new, starts),
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
        if !self.slots.begin_in_wait_mode() {
            // The service is done, or a start of another thread is about to fail.
            return self.pause(PAUSE);
        }
        if new {
            report::event(Event::Received(Client {
                service: self.service,
                listener: self.listener.id(),
                peer: &peer,
            }));
        }
        let started = self.start(handlers, spawner, peer);
        if started.is_err() {
            self.slots.undo_in_wait_mode();
        }
        match started {
            Ok(()) => {
                self.has_handler = true;
                self.tried();
            }
            Err(SpawnError::Shortage(_)) => {
                if let Arrivals::Datagrams(_) = self.arrivals {
                    self.note_times(true);
                }
                self.pause(PAUSE);
            }
            Err(SpawnError::Failed(..) | SpawnError::Killed | SpawnError::NoJailer) => {
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
        if !start::reserve(handlers, thread, self.service) {
            return Err(SpawnError::Shortage(Errno::ENOMEM));
        }
        // An earlier handler may have left it non-blocking.
        if let Err(errno) = descriptors::set_blocking(&self.listener, true) {
            let why = SpawnError::Shortage(errno);
            let trouble = Trouble::Spawn(self.service, why.explain(&self.source.plan));
            report::event(Event::Trouble(trouble));
            return Err(why);
        }
        match &mut self.arrivals {
            Arrivals::Datagrams(_) => self.note_times(false),
            Arrivals::Connections(connections) => connections.begin(&self.listener),
        }
        let by = Starter {
            handlers,
            thread,
            spawner,
            environment: &mut self.environment,
        };
        let (source, listener) = (&self.source, &self.listener);
        let work = (self.index, self.slots.live_in_wait_mode());
        let new = NewHandler::for_wait_mode(self.service, source, listener, peer, work);
        start::start(by, new, &mut GiveUp).map(drop)
    }

    /// Waits for the next arrival, or for the same one again.
    fn rearm(&mut self, handlers: &Handlers) {
        if !self.is_paused {
            self.change_interest(handlers, Interest::ReadableOnce);
        }
    }

    fn change_interest(&mut self, handlers: &Handlers, interest: Interest) {
        let listener = &self.listener;
        let token = self.token();
        let poller = handlers.main_poller();
        if let Err(errno) = poller.change(listener, interest, token) {
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
