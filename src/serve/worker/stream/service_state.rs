//! A service with stream listeners as one worker sees it: its admission pipeline, its pending
//! connections, and its listeners in the worker's epoll set.

use std::collections::TryReserveError;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::tls_pause::TlsPause;
use crate::config::ListenerId;
use crate::net::Listener;
use crate::report::{self, Event, Reason, Trouble, Watched};
use crate::serve::admission::{
    Acceptance, Admitted, Capacity, Kind, PendingConnection, Pipeline, Policy, RejectAction,
    Rejection, Stage, Step, When,
};
use crate::serve::availability::Availability;
use crate::serve::handlers::linger::Connection;
use crate::serve::handlers::token::Token;
use crate::serve::service::Service;
use crate::serve::worker::intake::{HandlerStarter, PAUSE, Thread};
use crate::serve::worker::rejections::Rejections;
use crate::serve::worker::watched_queue::{WatchedQueue, look_for};
use crate::sys::aside::Aside;
use crate::sys::events::Interest;

/// How long the lingering close of a client that got a message takes at most.
const LINGER: Duration = Duration::from_secs(5);

/// A service as one worker sees it.
#[derive(Debug)]
pub(super) struct ServiceState<'a> {
    pub(super) service: &'a Service,
    pub(super) thread: Thread<'a>,
    pub(super) pipeline: Pipeline<'a>,
    pub(super) queue: WatchedQueue<'a>,
    pub(super) tls_pause: TlsPause,
    /// Since the first client that was rejected.
    rejections: Option<Box<Rejections<'a>>>,
    /// Whether the service takes new clients, as it was at the beginning of this pass.
    availability: Availability,
    /// Whether the main thread knows that this worker has no client of the draining service.
    told_idle: bool,
    /// Whether it is the rate that keeps connections in the backlog.
    closed_by_rate: bool,
    /// Whether connections were accepted when that was asked last.
    open: bool,
    /// Whether the listeners are in the thread's epoll set.
    watched: bool,
    /// Whether a listener is closed when its last clients have been served.
    retires: bool,
    /// Whether the worker looks at the service before it waits.
    pub(super) active: bool,
    /// For each listener, whether a connection may wait.
    pub(super) ready: Vec<bool>,
}

/// A connection whose handler is to start.
pub(super) struct AdmittedConnection {
    pub(super) pending: PendingConnection,
    pub(super) admitted: Admitted,
}

/// Whether a worker has to know of a service before it has a client. A worker without a slot doesn't
/// watch the listeners, so that a client wakes a worker with one; a listener that is about to be
/// closed is tried; and an administrator may want that no client is served.
pub(super) fn is_needed_first(service: &Service) -> bool {
    let slots_first = service.slots.is_limited() && service.slots.when() == When::Before;
    let retires = || service.listeners.iter().any(Listener::is_retiring);
    let serves = service.availability.get() == Availability::Serving;
    (slots_first || !serves) && !service.listeners.is_empty() || retires()
}

impl<'a> ServiceState<'a> {
    /// A service whose listeners are in the thread's epoll set if they are `watched`, with so many
    /// pending connections at most. Fails for want of memory.
    pub(super) fn new(
        thread: Thread<'a>,
        service: &'a Service,
        capacity: usize,
        watched: bool,
    ) -> Result<Self, TryReserveError> {
        let clock = thread.shared.clock;
        let policy = service.policy.as_deref();
        let mut ready = Vec::new();
        ready.try_reserve_exact(service.listeners.len())?;
        // No event tells that no client waits at a listener that is about to be closed.
        ready.extend(service.listeners.iter().map(Listener::is_retiring));
        // Without a policy no client waits.
        let capacity = policy.map_or(0, |_| capacity);
        Ok(Self {
            service,
            thread,
            pipeline: Pipeline::new(
                policy,
                &service.slots,
                service.rules.as_ref(),
                Kind::Connection,
                0,
                (clock, thread.index),
                (service.id, &thread.shared.denials),
            ),
            queue: WatchedQueue::new(capacity, thread.poller(), &service.pending),
            tls_pause: TlsPause::default(),
            rejections: None,
            availability: Availability::Serving,
            told_idle: false,
            closed_by_rate: false,
            open: true,
            watched,
            retires: service.listeners.iter().any(Listener::is_retiring),
            active: false,
            ready,
        })
    }

    /// Takes the slot of the next connection, where slots are taken first.
    pub(super) fn take_slot(&mut self) {
        let serves = self.availability == Availability::Serving;
        if serves && !self.ready.is_empty() && !self.pipeline.take_slot() {
            self.note_full();
        }
    }

    /// Reports that clients wait for a slot, if they do.
    fn note_full(&self) {
        if report::full_is_due(self.service.id) {
            self.ask_backlog();
        }
    }

    /// Has the main thread find out whether clients wait: to look at the listener from here would
    /// take the wake-up from another worker.
    fn ask_backlog(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        self.service.asks_backlog.store(true, SeqCst);
        self.thread.handlers().main.wake();
    }

    /// Takes note of what an administrator wants; called when this worker has no client of the
    /// service in hand but those in the queue. One load, unless it has changed.
    pub(super) fn refresh(&mut self) {
        let availability = self.service.availability.get();
        if std::mem::replace(&mut self.availability, availability) != availability {
            // No handler needs it, and it would count as used.
            self.pipeline.release_slot();
        }
        let idle = availability == Availability::Draining && self.queue.is_empty();
        if idle != self.told_idle {
            let shared = self.thread.shared;
            shared.note_idle(self.service, &mut self.told_idle, idle);
        }
    }

    /// Returns whether new connections are accepted and rejected.
    pub(super) fn refuses(&self) -> bool {
        self.availability == Availability::Refusing
    }

    /// Returns whether connections are accepted now. If not, this thread is woken, or has something
    /// due, when it is worth asking again.
    pub(super) fn is_open(&mut self) -> bool {
        if self.availability != Availability::Serving {
            self.closed_by_rate = false;
            self.open = self.refuses();
            return self.open;
        }
        if self.queue.first_for_tls().is_some() {
            // skd-tls is behind. In the backlog others wait as well, and fill no queue from which a client that
            // waits for skd, not skd for it, would have to be sent away.
            self.closed_by_rate = false;
            self.open = false;
            return false;
        }
        let slot_waited_for = self.queue.first_for_slot().is_some();
        let rate_waited_for = self.queue.first_for_rate().is_some();
        let acceptance = self.pipeline.acceptance(slot_waited_for, rate_waited_for);
        // Without a slot the next token isn't waited for: it would be due for as long as it may
        // not be taken.
        self.closed_by_rate = acceptance == Acceptance::Rate;
        match acceptance {
            Acceptance::Open => {}
            Acceptance::Full => self.note_full(),
            Acceptance::Rate => {
                if report::fast_is_due(self.service.id) {
                    self.ask_backlog();
                }
            }
        }
        self.open = acceptance == Acceptance::Open;
        self.open
    }

    /// Returns whether something else may be done than when the worker looked last: no connection was
    /// accepted then, or an administrator wants something else.
    pub(super) fn may_differ(&self) -> bool {
        !self.open || self.availability != self.service.availability.get()
    }

    /// Returns whether the worker has something to do for the service, now or later, though nothing
    /// happens.
    pub(super) fn is_busy(&self) -> bool {
        let rejections = self.rejections.as_ref();
        self.open && self.ready.contains(&true)
            || !self.queue.is_empty()
            || self.closed_by_rate
            || rejections.is_some_and(|it| it.due().is_some())
    }

    /// Takes a pending connection as far as possible. Returns it if its handler is to start;
    /// otherwise it is queued, under its `id` if it had one, or rejected.
    pub(super) fn advance(
        &mut self,
        id: Option<u32>,
        mut pending: PendingConnection,
        starter: &mut HandlerStarter<'a>,
    ) -> Option<AdmittedConnection> {
        loop {
            let now = Instant::now();
            if pending.session.is_some() {
                self.report_session(&mut pending);
            }
            match self.pipeline.advance(&mut pending.client, now) {
                Step::Look(what) => look_for(what, &mut pending),
                Step::Tls => self.look_at_tls(&mut pending, now),
                Step::Gate => self.look_at_gate(&mut pending, starter, now),
                Step::Wait => {
                    self.report_wait(pending.client.stage());
                    self.enqueue(id, pending);
                    return None;
                }
                Step::Admit if starter.reserve(self.service.id) => {
                    let admitted = pending.client.admitted()?;
                    return Some(AdmittedConnection { pending, admitted });
                }
                Step::Admit => {
                    pending.client.postpone(now + PAUSE);
                    self.enqueue(id, pending);
                    return None;
                }
                Step::Reject(rejection) => {
                    self.reject(pending, &rejection);
                    return None;
                }
            }
        }
    }

    fn report_wait(&self, stage: Stage) {
        match stage {
            Stage::Rate => report::event(Event::Fast(self.service.id)),
            // Of clients in the backlog, the main thread finds out.
            Stage::Slot => {
                if let Some(limit) = self.service.slots.full() {
                    report::event(Event::Full(self.service.id, limit));
                }
            }
            Stage::Header
            | Stage::Rules
            | Stage::Tls
            | Stage::FirstByte
            | Stage::Source
            | Stage::Gate => {}
        }
    }

    /// Drops what waits, if there were all handlers that there may be.
    pub(super) fn drop_if_spent(&mut self) {
        if self.service.slots.are_spent() && !self.queue.is_empty() {
            self.drop_all();
        }
    }

    fn enqueue(&mut self, id: Option<u32>, pending: PendingConnection) {
        // The main thread wakes this one after that, so none is left in the queue.
        if self.service.slots.are_spent() {
            return self.drop_pending(pending, Reason::End);
        }
        let way = match self.queue.capacity_for(pending.client.source) {
            Capacity::Free => None,
            Capacity::Full => return self.drop_pending(pending, Reason::Crowd),
            Capacity::After(other) => self.queue.remove(other),
        };
        if let Some(other) = way {
            self.drop_pending(other, Reason::Crowd);
        }
        if let Err(failed) = self.queue.add(id, pending) {
            let (pending, errno) = *failed;
            self.drop_pending(pending, Reason::NotWatched(errno));
        }
    }

    /// Closes the connection that has been silent for longest, since no descriptor is left. Returns
    /// whether there was one. Otherwise silent clients would hold up the others wherever the limit
    /// of open files is lower than what the queue takes.
    pub(super) fn free_descriptor(&mut self) -> bool {
        let silent = self.queue.most_silent();
        let silent = silent.and_then(|id| self.queue.remove(id));
        let found = silent.is_some();
        if let Some(pending) = silent {
            self.drop_pending(pending, Reason::NoDescriptor);
        }
        found
    }

    /// Closes all pending connections, at the end of skd or of the service.
    pub(super) fn drop_all(&mut self) {
        for pending in self.queue.remove_all() {
            self.drop_pending(pending, Reason::End);
        }
    }

    /// Rejects the pending connections of clients that are denied meanwhile.
    pub(super) fn drop_denied(&mut self) {
        if self.thread.shared.denials.are_none() || self.queue.is_empty() {
            return;
        }
        let denied = self.queue.find(|peer| self.pipeline.is_denied(peer));
        for id in denied {
            if let Some(pending) = self.queue.remove(id) {
                self.drop_pending(pending, Reason::Denied);
            }
        }
    }

    /// Rejects a connection that was just accepted, since the service refuses all.
    pub(super) fn refuse(&mut self, mut pending: PendingConnection) {
        self.pipeline.give_back(&mut pending.client, Instant::now());
        self.reject(pending, &self.pipeline.refusal());
    }

    /// Closes a pending connection, and gives back what its client had taken.
    pub(super) fn drop_pending(&mut self, mut pending: PendingConnection, reason: Reason<'static>) {
        self.pipeline.give_back(&mut pending.client, Instant::now());
        self.reject(pending, &Rejection::close(reason));
    }

    fn reject(&mut self, mut pending: PendingConnection, rejection: &Rejection<'_>) {
        if pending.gate.take().is_some() {
            // It is killed, and the main thread reaps it.
            self.thread.handlers().main.wake();
        }
        let now = Instant::now();
        let listener = self.service.listeners.get(pending.listener);
        let thread = (self.thread.shared.clock, self.thread.index);
        let new = || Box::new(Rejections::new(self.service, Kind::Connection, thread));
        let rejections = self.rejections.get_or_insert_with(new);
        let at = listener.map_or(ListenerId::NONE, Listener::id);
        match (rejection.reason(), &pending.session) {
            (Reason::TlsFailed(kind, _), Some(session)) => session.failure(|why| {
                let reason = Reason::TlsFailed(kind, why);
                rejections.report(&pending.client, at, reason, now);
            }),
            (reason, _) => rejections.report(&pending.client, at, reason, now),
        }
        let is_plain_side = pending.session.is_some();
        // Before its handshake is done, a client can't read what skd says.
        let has_tls = self.service.policy.as_deref().is_some_and(Policy::has_tls);
        let is_told = pending.client.is_secure() || !(has_tls || is_plain_side);
        if let RejectAction::Reset = rejection.action {
            // Only TCP knows this; where it fails, closing has to do.
            let _ = pending.connection.set_linger(Some(Duration::ZERO));
        }
        let is_lingering = matches!(rejection.action, RejectAction::Linger);
        let message = rejection.action.message().filter(|_| is_told);
        if message.is_some() || is_lingering {
            let lingering = &self.thread.handlers().lingering;
            let (index, poller) = (self.thread.index, self.thread.poller());
            let unix = is_plain_side || listener.is_some_and(Listener::is_unix);
            let connection = Connection::new(OwnedFd::from(pending.connection), unix);
            let until = now + LINGER;
            match message {
                Some(message) => {
                    lingering.add_with_message(index, poller, connection, message, until);
                }
                None => lingering.add(index, poller, connection, until),
            }
        } else if !is_plain_side && listener.is_some_and(Listener::holds_descriptors) {
            drop(Aside::from(OwnedFd::from(pending.connection)));
        }
    }

    pub(super) fn flush_rejections(&mut self) {
        if let Some(rejections) = &mut self.rejections {
            rejections.flush();
        }
    }

    pub(super) fn flush_all_rejections(&mut self) {
        if let Some(rejections) = &mut self.rejections {
            rejections.flush_all();
        }
    }

    /// Returns when something is due, should nothing happen before.
    pub(super) fn due(&self) -> Option<Instant> {
        let rejections = self.rejections.as_ref();
        let waits = self.closed_by_rate || self.queue.first_for_rate().is_some();
        let token = waits.then(|| self.pipeline.next_token(Instant::now()));
        let rejections = rejections.and_then(|it| it.due());
        let tls = self.queue.first_for_tls();
        let tls = tls.and_then(|_| self.tls_pause.closed_until());
        let due = [rejections, token.flatten(), tls, self.queue.next_due()];
        due.into_iter().flatten().min()
    }

    /// Prepares for the clients that have arrived before a drain.
    pub(super) fn begin_last(&mut self) {
        self.ready.fill(true);
        self.closed_by_rate = false;
    }

    /// Watches the listeners. Returns whether that could be done.
    pub(super) fn watch(&mut self) -> bool {
        if self.watched {
            return true;
        }
        self.watched = watch(self.thread, self.service);
        if !self.watched {
            // What isn't watched has to be tried.
            self.ready.fill(true);
        }
        self.watched
    }

    /// Returns whether a listener may be closed, since its last client isn't pending any more.
    pub(super) fn has_served_last(&self) -> bool {
        self.retires && self.service.listeners.iter().any(Listener::may_be_closed)
    }

    /// Stops watching the listeners: a thread that is woken and doesn't accept keeps others from
    /// being woken. (A thread that doesn't wait in its epoll set is passed over by the kernel.)
    pub(super) fn unwatch(&mut self) {
        if std::mem::replace(&mut self.watched, false) {
            unwatch(self.thread, self.service);
        }
    }
}

/// Watches the listeners of a service. Returns whether that could be done: all are watched, or none.
pub(super) fn watch(thread: Thread<'_>, served: &Service) -> bool {
    let service = served.id;
    for (listener, socket) in served.listeners.iter().enumerate() {
        if socket.is_closed() {
            continue;
        }
        let token = Token::Listener { service, listener }.into();
        if let Err(errno) = thread.poller().add(socket, Interest::ReadableOne, token) {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: Some(service),
                what: Watched::Listener,
                errno,
            }));
            unwatch(thread, served);
            return false;
        }
        if socket.is_closed() {
            // By the main thread, a moment ago: what was added may be what it has put in its place.
            let _ = thread.poller().remove(socket);
        }
    }
    true
}

/// Stops watching the listeners of a service.
pub(super) fn unwatch(thread: Thread<'_>, served: &Service) {
    for listener in &served.listeners {
        // Fails only for a listener that isn't there.
        let _ = thread.poller().remove(listener);
    }
}
