//! The stream listeners of all services: accepting from them, what an error of accept(2) means, and
//! which of them are watched.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::service_state::{self, AdmittedConnection, ServiceState, is_needed_first};
use crate::child::Spawner;
use crate::config::ServiceId;
use crate::net::Listener;
use crate::report::{self, Event, Outlook, Reason, Trouble};
use crate::serve::admission::{Admitted, PendingConnection, capacity};
use crate::serve::availability::Availability;
use crate::serve::handlers::start::{Arrived, NewHandler};
use crate::serve::handlers::token::Token;
use crate::serve::service::Service;
use crate::serve::worker::intake::{Attempt, Attempts, HandlerStarter, Intake, Thread};
use crate::serve::worker::shared::{Phase, Shared};
use crate::serve::worker::worker_loop::{self, WaitOut, Worker, look, note_end};
use crate::sys::events::{Interest, Poller, is_readable};
use crate::sys::thread;

/// Starts a stream worker. It serves nothing before the daemon does.
pub(in crate::serve) fn start(
    index: usize,
    shared: Arc<Shared>,
    spawner: Spawner,
) -> Result<thread::Thread, Errno> {
    let waker = &shared.wakers[index];
    shared.handlers.pollers[index].add(waker, Interest::Readable, Token::Waker.into())?;
    let name = CString::new(format!("accept-{index}")).unwrap_or_default();
    thread::Thread::start(name, 128 * 1024, move || {
        report::register_thread();
        let shared = &*shared;
        Worker::new(spawner, Stream::new(Thread { index, shared })).run();
    })
}

/// The stream listeners of all services.
///
/// A worker has a state of a service once that is needed: for its first client here, or from the start
/// if a slot is taken first or a listener is about to be closed. The listeners of the others are watched all the same. So an idle service
/// costs a worker four bytes, and a connection costs the same whatever the number of services: a pass
/// looks at the active ones alone.
#[derive(Debug)]
struct Stream<'a> {
    thread: Thread<'a>,
    states: Vec<ServiceState<'a>>,
    /// For each service, the index of its state, or [`NONE`].
    indexes: Box<[u32]>,
    /// The indexes of the states to look at before the next wait, each once: their services have
    /// something to do, or may have.
    active: Vec<u32>,
    /// Of so many services, the first, the listeners are watched if they have no state.
    watched: usize,
    /// How many pending connections of a service there may be.
    capacity: usize,
    /// Pending connections whose clients have sent something, or closed them.
    signalled: VecDeque<(ServiceId, u32)>,
    /// Whether another thread has given back what a pending connection may wait for.
    woken: bool,
    /// Whether there was no memory for the state of a service that has a client.
    short: bool,
}

/// The index of no state.
const NONE: u32 = u32::MAX;

impl<'a> Stream<'a> {
    fn new(thread: Thread<'a>) -> Self {
        let services = &thread.shared.services;
        let with_queues = services.iter().filter(|it| it.policy.is_some()).count();
        let mut stream = Self {
            thread,
            states: Vec::new(),
            indexes: vec![NONE; services.len()].into(),
            // For all of them. The kernel gives memory for those that there are.
            active: Vec::with_capacity(services.len()),
            watched: 0,
            capacity: capacity(thread.shared.wakers.len() * with_queues),
            signalled: VecDeque::new(),
            woken: false,
            short: false,
        };
        let first = services.iter().filter(|it| is_needed_first(it));
        // Without memory for all, some get theirs later.
        let _ = stream.states.try_reserve_exact(first.clone().count());
        for service in first {
            if let Some(at) = stream.state(service.id) {
                stream.activate(at);
            }
        }
        stream
    }

    /// Returns the index of the state of a service, if there is one.
    fn known(&self, service: ServiceId) -> Option<usize> {
        let index = self.indexes.get(service.index());
        index.filter(|it| **it != NONE).map(|it| *it as usize)
    }

    /// Returns the index of the state of a service, which is made if there is none. Returns `None` if
    /// there is no memory for it.
    fn state(&mut self, service: ServiceId) -> Option<usize> {
        if let Some(at) = self.known(service) {
            return Some(at);
        }
        self.states.try_reserve(1).ok()?;
        let served = self.thread.shared.services.get(service.index())?;
        let watched = service.index() < self.watched;
        let state = ServiceState::new(self.thread, served, self.capacity, watched).ok()?;
        let at = self.states.len();
        self.indexes[service.index()] = u32::try_from(at).ok()?;
        self.states.push(state);
        Some(at)
    }

    fn activate(&mut self, at: usize) {
        let state = &mut self.states[at];
        if !std::mem::replace(&mut state.active, true) {
            self.active.push(at as u32);
        }
    }

    fn activate_all(&mut self) {
        (0..self.states.len()).for_each(|at| self.activate(at));
    }

    /// The services without a state.
    fn others(&self) -> impl Iterator<Item = &'a Service> {
        let services = self.thread.shared.services.iter();
        let indexes = services.zip(&self.indexes);
        indexes.filter(|(_, at)| **at == NONE).map(|(it, _)| it)
    }

    /// Watches the listeners of the services without a state. Returns whether that could be done.
    fn watch_others(&mut self) -> bool {
        let services = &self.thread.shared.services;
        while let Some(service) = services.get(self.watched) {
            let is_watched =
                self.known(service.id).is_some() || service_state::watch(self.thread, service);
            if !is_watched {
                // What isn't watched has to be tried.
                self.note_ready(service);
                return false;
            }
            self.watched += 1;
        }
        true
    }

    /// Notes that clients may wait at all listeners of a service.
    fn note_ready(&mut self, service: &Service) {
        match self.state(service.id) {
            Some(at) => {
                self.states[at].ready.fill(true);
                self.activate(at);
            }
            None => self.short = true,
        }
    }

    /// Has the services looked at of which an administrator wants that they serve no client, those
    /// too that this worker had no client of: their listeners aren't watched any more.
    fn note_unavailable(&mut self) {
        let services = self.thread.shared.services.iter();
        let serves = |it: &Service| it.availability.get() == Availability::Serving;
        for service in services.filter(|it| !it.listeners.is_empty() && !serves(it)) {
            match self.state(service.id) {
                Some(at) => self.activate(at),
                None => self.short = true,
            }
        }
    }

    /// Notes that clients may wait at any listener.
    fn note_all_ready(&mut self) {
        for at in 0..self.states.len() {
            self.states[at].ready.fill(true);
            self.activate(at);
        }
        let waits = |it: &&Service| it.listeners.iter().any(is_readable);
        let others: Vec<_> = self.others().filter(waits).collect();
        for service in others {
            self.note_ready(service);
        }
    }

    /// Watches no listener. They are watched again before the next wait.
    fn unwatch_all(&mut self) {
        let watched = std::mem::take(&mut self.watched);
        let others = self.others().take_while(|it| it.id.index() < watched);
        others.for_each(|service| service_state::unwatch(self.thread, service));
        self.states.iter_mut().for_each(ServiceState::unwatch);
        self.activate_all();
    }

    fn serve(&mut self, at: usize, listener: usize, starter: &mut HandlerStarter<'a>) -> Attempt {
        let state = &mut self.states[at];
        let socket = &state.service.listeners[listener];
        if !starter.reserve(state.service.id) {
            return Attempt::Short;
        }
        let refuses = state.refuses();
        let token = match refuses {
            true => Ok(None),
            false => state.pipeline.take_token(),
        };
        let Ok(token) = token else {
            return Attempt::Closed;
        };
        let (connection, peer) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(reason) => {
                state.pipeline.release_token(token);
                if socket.is_drained() {
                    // Another thread has seen the last client, and it may be closed.
                    return Attempt::Drained;
                }
                let short = reason.raw_os_error() == Some(Errno::EMFILE as i32);
                if short && state.free_descriptor() {
                    return Attempt::Served;
                }
                return not_accepted(state.service.id, socket, &reason);
            }
        };
        // One look at the clock for a connection, which is no system call: how long it waits for its
        // handler is counted.
        let arrived = Instant::now();
        // Where no client waits, none passes the pipeline, which would find out.
        let has_policy = state.pipeline.has_policy();
        let denied = !has_policy && state.pipeline.is_denied(&peer);
        if has_policy || denied || refuses {
            let pending = PendingConnection {
                client: state.pipeline.begin(peer, token),
                connection,
                arrived,
                service: state.service.id,
                listener,
                session: None,
                gate: None,
                _last: socket.last_client(),
            };
            match (refuses, denied) {
                (true, _) => state.refuse(pending),
                (false, true) => state.drop_pending(pending, Reason::Denied),
                (false, false) => self.advance(None, pending, starter),
            }
        } else if let Some(slot) = state.pipeline.taken_slot() {
            let admitted = Admitted::with(slot);
            self.start(
                at,
                listener,
                Arrived {
                    connection: connection.into(),
                    peer,
                    at: arrived,
                    session: None,
                },
                admitted,
                starter,
            );
        }
        Attempt::Served
    }

    /// Takes a pending connection as far as possible: to a handler, into the queue, or away.
    fn advance(
        &mut self,
        id: Option<u32>,
        pending: PendingConnection,
        starter: &mut HandlerStarter<'a>,
    ) {
        // Without memory for a state it is closed.
        let Some(at) = self.state(pending.service) else {
            return;
        };
        // It may be queued.
        self.activate(at);
        let admitted = self.states[at].advance(id, pending, starter);
        if let Some(AdmittedConnection { pending, admitted }) = admitted {
            let client = Arrived {
                connection: pending.connection.into(),
                peer: pending.client.peer,
                at: pending.arrived,
                session: pending.session,
            };
            self.start(at, pending.listener, client, admitted, starter);
        }
    }

    fn start(
        &mut self,
        at: usize,
        listener: usize,
        client: Arrived,
        admitted: Admitted,
        starter: &mut HandlerStarter<'a>,
    ) {
        let service = self.states[at].service;
        let listener = &service.listeners[listener];
        let new = NewHandler::for_connection(service, listener, client, admitted);
        // The client was accepted, so a shortage is waited out.
        let free_descriptor = |intake: &mut Self| intake.states[at].free_descriptor();
        starter.start(new, &mut WaitOut::new(self, free_descriptor));
    }

    /// Goes on with the pending connections for which something may have changed.
    fn advance_pending(&mut self, starter: &mut HandlerStarter<'a>) {
        // What wakes this thread during a start below is for the next time.
        let woken = std::mem::take(&mut self.woken);
        while let Some((service, id)) = self.signalled.pop_front() {
            if let Some(at) = self.known(service) {
                self.go_on(at, id, starter);
            }
        }
        if woken {
            (0..self.states.len()).for_each(|at| self.advance_freed(at, starter));
        }
        // More become active while a shortage is waited out.
        let mut next = 0;
        while let Some(at) = self.active.get(next).map(|at| *at as usize) {
            next += 1;
            self.states[at].refresh();
            self.states[at].flush_rejections();
            if !self.states[at].queue.is_empty() {
                self.advance_due(at, starter);
            }
        }
    }

    /// Goes on with pending connections of sources that have lost a handler.
    fn advance_freed(&mut self, at: usize, starter: &mut HandlerStarter<'a>) {
        for source in self.states[at].pipeline.freed_sources() {
            if let Some(first) = self.states[at].queue.first_of(source) {
                self.go_on(at, first, starter);
            }
        }
    }

    /// Goes on with pending connections that are due, and those for which there is a token or a
    /// slot.
    fn advance_due(&mut self, at: usize, starter: &mut HandlerStarter<'a>) {
        let now = Instant::now();
        // A connection that is queued again is due later.
        while let Some(id) = self.states[at].queue.due(now) {
            self.go_on(at, id, starter);
        }
        while let Some(id) = self.states[at].queue.first_for_rate() {
            let token = self.states[at].pipeline.next_token(now);
            if token.is_some_and(|token| token > now) {
                break;
            }
            self.go_on(at, id, starter);
            if self.states[at].queue.first_for_rate() == Some(id) {
                break;
            }
        }
        while let Some(id) = self.states[at].queue.first_for_tls() {
            if !self.states[at].tls_pause.is_open(now) {
                break;
            }
            self.go_on(at, id, starter);
            if self.states[at].queue.first_for_tls() == Some(id) {
                break;
            }
        }
        while let Some(id) = self.states[at].queue.first_for_slot() {
            let state = &mut self.states[at];
            let Some(slot) = state.service.slots.take(self.thread.index) else {
                break;
            };
            let Some(mut pending) = state.queue.remove(id) else {
                break;
            };
            pending.client.give(slot);
            self.advance(Some(id), pending, starter);
        }
    }

    /// Goes on with a pending connection.
    fn go_on(&mut self, at: usize, id: u32, starter: &mut HandlerStarter<'a>) {
        let queue = &mut self.states[at].queue;
        if queue.lacks_input(id, Instant::now()) {
            return;
        }
        let source = queue.source_waited_for(id);
        let mut next = Some(id);
        while let Some(id) = next {
            if let Some(pending) = self.states[at].queue.remove(id) {
                self.advance(Some(id), pending, starter);
            }
            // When the first of a line has gone the next one is asked about, until one stays.
            let first = source.and_then(|source| self.states[at].queue.first_of(source));
            next = first.filter(|first| *first != id);
        }
    }

    /// Tells all gates to end.
    fn stop_gates(&mut self, starter: &mut HandlerStarter<'a>) {
        let now = Instant::now();
        for at in 0..self.states.len() {
            // They are due at another time now.
            for id in self.states[at].queue.stop_gates(now) {
                self.go_on(at, id, starter);
            }
        }
    }

    /// Serves the clients that have already arrived, as far as there are slots for them now. Gates that
    /// aren't waited for are killed without being told.
    fn serve_last(&mut self, starter: &mut HandlerStarter<'a>) {
        self.note_all_ready();
        self.states.iter_mut().for_each(ServiceState::begin_last);
        if self.thread.shared.is_in(Phase::Closing) {
            self.stop_gates(starter);
        }
        while self.thread.shared.is_in(Phase::Closing) {
            if worker_loop::serve_ready(self, starter) == 0 {
                if self.states.iter().all(|state| state.queue.is_empty()) {
                    return;
                }
                // There would be events for clients that can't be served now, again and again.
                self.unwatch_all();
                look(self, self.time_left());
            }
        }
    }
}

impl<'a> Intake<'a> for Stream<'a> {
    fn thread(&self) -> Thread<'a> {
        self.thread
    }

    fn poller(&self) -> &Poller {
        self.thread.poller()
    }

    fn serve_ready(&mut self, starter: &mut HandlerStarter<'a>) -> Attempts {
        self.advance_pending(starter);
        let mut attempts = Attempts {
            served: 0,
            short: std::mem::take(&mut self.short),
        };
        let mut next = 0;
        while let Some(at) = self.active.get(next).map(|at| *at as usize) {
            next += 1;
            self.states[at].take_slot();
            // So that no listener waits for another to be drained.
            for listener in 0..self.states[at].ready.len() {
                if !self.states[at].ready[listener] {
                    continue;
                }
                let socket = &self.states[at].service.listeners[listener];
                if socket.is_closed() {
                    self.states[at].ready[listener] = false;
                    continue;
                }
                if !self.states[at].is_open() {
                    break;
                }
                match self.serve(at, listener, starter) {
                    Attempt::Served => attempts.served += 1,
                    Attempt::Drained => {
                        self.states[at].ready[listener] = false;
                        self.thread.shared.note_no_client(socket);
                    }
                    Attempt::Closed => break,
                    // Which another listener needn't be.
                    Attempt::Short => attempts.short = true,
                }
                self.states[at].take_slot();
            }
        }
        attempts
    }

    fn watch(&mut self) -> bool {
        let mut watched = self.watch_others();
        let shared = self.thread.shared;
        let states = &mut self.states;
        self.active.retain(|at| {
            let state = &mut states[*at as usize];
            state.refresh();
            if state.has_served_last() {
                shared.wake_to_close();
            }
            if watched {
                if state.is_open() {
                    watched = state.watch();
                } else {
                    state.unwatch();
                }
                state.active = !watched || state.is_busy();
            }
            state.active
        });
        watched
    }

    fn give_way(&mut self) {
        self.unwatch_all();
        for state in &mut self.states {
            state.pipeline.give_way();
        }
        // Where there is one service, its shortage is that of the other threads, too.
        let ready = self.states.iter().any(|state| state.ready.contains(&true));
        let Thread { index, shared } = self.thread;
        // Draining, the other threads try all listeners anyway, and end.
        if !ready || shared.services.len() == 1 || !shared.is_in(Phase::Serving) {
            return;
        }
        if let Some(other) = shared.turns.pass(index) {
            shared.wakers[other].wake();
            for state in &mut self.states {
                state.ready.fill(false);
            }
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if !self.signalled.is_empty() || self.woken || self.short {
            return Some(Duration::ZERO);
        }
        let active = self.active.iter().map(|at| &self.states[*at as usize]);
        let due = active.filter_map(ServiceState::due).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn on_event(&mut self, token: Token) {
        match token {
            Token::Listener { service, listener } => match self.state(service) {
                Some(at) => {
                    self.states[at].ready[listener] = true;
                    self.activate(at);
                }
                None => self.short = true,
            },
            Token::PendingConnection { service, id } => self.signalled.push_back((service, id)),
            _ => {}
        }
    }

    fn on_freed(&mut self, service: ServiceId) {
        if let Some(at) = self.known(service) {
            self.activate(at);
        }
    }

    fn on_woken(&mut self) {
        let Thread { index, shared } = self.thread;
        for at in 0..self.states.len() {
            let state = &mut self.states[at];
            state.pipeline.refresh_rules();
            state.drop_if_spent();
            state.drop_denied();
            self.woken = self.woken || state.pipeline.has_policy();
            // What it waits for may be there.
            if state.may_differ() {
                self.activate(at);
            }
        }
        if shared.unavailable.load(Ordering::SeqCst) > 0 {
            self.note_unavailable();
        }
        if shared.turns.take_passed(index) {
            self.note_all_ready();
        }
    }

    fn on_time(&mut self) {}

    fn park(&mut self) {
        for state in &mut self.states {
            let pending = state.queue.remove_all();
            if !pending.is_empty() {
                self.thread
                    .shared
                    .pending(self.thread.index)
                    .extend(pending);
            }
            state.flush_all_rejections();
        }
    }

    fn unpark(&mut self, starter: &mut HandlerStarter<'a>) {
        let parked = std::mem::take(&mut *self.thread.shared.pending(self.thread.index));
        for pending in parked {
            let served = self.thread.shared.services.get(pending.service.index());
            if served.is_some_and(|it| it.policy.is_some()) {
                self.advance(None, pending, starter);
            }
        }
    }

    fn finish(mut self, mut starter: HandlerStarter<'a>) {
        self.serve_last(&mut starter);
        for state in &mut self.states {
            state.drop_all();
            state.flush_all_rejections();
        }
        let shared = self.thread.shared;
        drop((self, starter));
        note_end(shared);
    }
}

/// Returns what an error of accept(2) means (accept(2), ERRORS).
fn not_accepted(service: ServiceId, listener: &Listener, reason: &io::Error) -> Attempt {
    let errno = reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let (attempt, outlook) = match errno {
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
        | Errno::ETIMEDOUT => (Attempt::Served, Outlook::Gone),
        Errno::EINVAL => (Attempt::Short, Outlook::ShutDown),
        // A shortage; or a firewall or filter says EPERM, for this client or for all: then
        // nothing was taken from the backlog.
        _ => (Attempt::Short, Outlook::Again),
    };
    report::event(Event::Trouble(Trouble::NotAccepted {
        service,
        listener: listener.listener_name(),
        errno,
        outlook,
    }));
    attempt
}
