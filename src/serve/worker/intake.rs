//! Intakes: where the clients of a worker come from, and all that depends on that.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::shared::{Phase, Shared};
use crate::child::{SpawnError, Spawner};
use crate::config::ServiceId;
use crate::serve::admission::PendingConnection;
use crate::serve::gate::{Gate, GateSlot, LiveGate};
use crate::serve::handlers::Handlers;
use crate::serve::handlers::gate::start_gate;
use crate::serve::handlers::start::{self, NewHandler, OnShortage, Starter};
use crate::serve::handlers::token::Token;
use crate::serve::service::Service;
use crate::sys::environment::Environment;
use crate::sys::events::{Poller, wait_readable};

/// How long a shortage is waited out before the next try.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// A worker thread as its intake sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread<'a> {
    pub(super) index: usize,
    pub(super) shared: &'a Shared,
}

impl<'a> Thread<'a> {
    pub(super) fn handlers(self) -> &'a Handlers {
        &self.shared.handlers
    }

    /// The epoll set in which the thread's waker is, and the pidfds of its handlers.
    pub(super) fn poller(self) -> &'a Poller {
        &self.shared.handlers.pollers[self.index]
    }

    pub(super) fn is_stopping(self) -> bool {
        self.shared.is_in(Phase::Stopping)
    }

    /// Does nothing, not even reap, until the phase is another one.
    pub(super) fn park(self) {
        self.shared.parked.fetch_add(1, Ordering::SeqCst);
        let waker = &self.shared.wakers[self.index];
        while self.shared.is_in(Phase::Parked) {
            wait_readable([waker.as_fd()], None);
            waker.clear();
            self.shared.answer(self.index);
        }
        self.shared.parked.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a worker thread needs to start handlers.
#[derive(Debug)]
pub(super) struct HandlerStarter<'a> {
    pub(super) thread: Thread<'a>,
    spawner: Spawner,
    environment: Environment,
    /// Whether there is an entry in the table for the next handler.
    has_entry: bool,
}

impl<'a> HandlerStarter<'a> {
    pub(super) fn new(thread: Thread<'a>, spawner: Spawner) -> Self {
        let services = &thread.shared.services;
        let mut environment = Environment::new([].into(), None);
        for service in services {
            // So that no client is the first for which memory is taken.
            environment.rebase(service.source.plan.variables());
        }
        Self {
            thread,
            spawner,
            environment,
            has_entry: false,
        }
    }

    /// Reserves an entry in the table, before a client of this service is accepted or received.
    /// Returns whether there is one.
    pub(super) fn reserve(&mut self, service: ServiceId) -> bool {
        let Thread { index, shared } = self.thread;
        self.has_entry = self.has_entry || start::reserve(&shared.handlers, index, service);
        self.has_entry
    }

    /// Starts a handler. Returns whether it runs.
    pub(super) fn start(&mut self, new: NewHandler<'_>, shortage: &mut impl OnShortage) -> bool {
        let by = Starter {
            handlers: self.thread.handlers(),
            thread: self.thread.index,
            spawner: &mut self.spawner,
            environment: &mut self.environment,
        };
        let started = start::start(by, new, shortage);
        if let Ok(has_entry) = started {
            self.has_entry = has_entry;
        }
        started.is_ok()
    }

    /// Starts the gate of a pending connection, in a slot that was taken for it.
    pub(super) fn start_gate(
        &mut self,
        service: &Service,
        gate: &Gate,
        slot: GateSlot,
        pending: &PendingConnection,
    ) -> Result<LiveGate, SpawnError> {
        let by = Starter {
            handlers: self.thread.handlers(),
            thread: self.thread.index,
            spawner: &mut self.spawner,
            environment: &mut self.environment,
        };
        start_gate(by, service, gate, slot, pending)
    }

    /// Lets go of a connection that couldn't be let go of when its handler started. Returns whether
    /// none is left. Usually no system call.
    pub(super) fn release(&mut self) -> bool {
        self.spawner.release()
    }
}

/// The result of an attempt to serve a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// A client was served; there may be more.
    Served,
    /// No client waits.
    Drained,
    /// None is to be served now.
    Closed,
    /// Something is short: not before [`PAUSE`] again.
    Short,
}

/// The results of an attempt to serve all listeners.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempts {
    pub(super) served: usize,
    pub(super) short: bool,
}

/// Where the clients of a worker come from, and all that depends on that.
pub(super) trait Intake<'a>: Sized {
    fn thread(&self) -> Thread<'a>;

    /// The epoll set that the thread waits with. The one with the pidfds may be in it.
    fn poller(&self) -> &Poller;

    /// Serves each listener that may have a client once, in turn.
    fn serve_ready(&mut self, starter: &mut HandlerStarter<'a>) -> Attempts;

    /// Watches the listeners from which clients are served now, and no others. Returns whether that
    /// could be done.
    fn watch(&mut self) -> bool;

    /// Watches no listener, and keeps neither a slot nor a turn that another thread could use.
    fn give_way(&mut self);

    /// How long to wait at most.
    fn time_left(&self) -> Option<Duration>;

    /// Acts on an event of the intake's own. This may be a pause in the middle of a start, so no
    /// handler is started here.
    fn on_event(&mut self, token: Token);

    /// A handler of this service that the thread started has ended: a slot may be free, for which the
    /// thread isn't woken.
    fn on_freed(&mut self, service: ServiceId);

    /// Another thread has woken this one.
    fn on_woken(&mut self);

    /// Acts on what is due; called after all events.
    fn on_time(&mut self);

    /// Keeps nothing in this thread.
    fn park(&mut self);

    /// Takes over what was parked, by this thread or an earlier process.
    fn unpark(&mut self, starter: &mut HandlerStarter<'a>);

    /// Serves the clients that have already arrived, and ends.
    fn finish(self, starter: HandlerStarter<'a>);
}
