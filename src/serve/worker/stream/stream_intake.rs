//! The stream listeners of all services: accepting from them, what an error of accept(2) means, and
//! which of them are watched.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::service_state::{AdmittedConnection, ServiceState};
use crate::child::Spawner;
use crate::config::{Peer, ServiceId};
use crate::net::Listener;
use crate::report::{self, Event, Outlook, Trouble};
use crate::serve::admission::{Admitted, PendingConnection};
use crate::serve::handlers::start::NewHandler;
use crate::serve::handlers::token::Token;
use crate::serve::worker::intake::{Attempt, Attempts, HandlerStarter, Intake, Thread};
use crate::serve::worker::shared::{Phase, Shared};
use crate::serve::worker::worker_loop::{self, WaitOut, Worker, look, note_end};
use crate::sys::events::{Interest, Poller};
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
#[derive(Debug)]
struct Stream<'a> {
    thread: Thread<'a>,
    /// One for each service.
    services: Vec<ServiceState<'a>>,
    /// Pending connections whose clients have sent something, or closed them.
    signalled: VecDeque<(ServiceId, u32)>,
    /// Whether another thread has given back what a pending connection may wait for.
    woken: bool,
}

impl<'a> Stream<'a> {
    fn new(thread: Thread<'a>) -> Self {
        let services = thread.shared.services.iter();
        let with_queues = services.clone().filter(|it| it.policy.is_some()).count();
        let queues = thread.shared.wakers.len() * with_queues;
        Self {
            thread,
            services: services
                .map(|service| ServiceState::new(thread, service, queues))
                .collect(),
            signalled: VecDeque::new(),
            woken: false,
        }
    }

    fn take_slots(&mut self) {
        self.services.iter_mut().for_each(ServiceState::take_slot);
    }

    fn serve(
        &mut self,
        index: usize,
        listener: usize,
        starter: &mut HandlerStarter<'a>,
    ) -> Attempt {
        let state = &mut self.services[index];
        let socket = &state.service.listeners[listener];
        if !starter.reserve(state.service.id) {
            return Attempt::Short;
        }
        let Ok(token) = state.pipeline.take_token() else {
            return Attempt::Closed;
        };
        let (connection, peer) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(reason) => {
                state.pipeline.release_token(token);
                let short = reason.raw_os_error() == Some(Errno::EMFILE as i32);
                if short && state.free_descriptor() {
                    return Attempt::Served;
                }
                return not_accepted(state.service.id, socket, &reason);
            }
        };
        if state.pipeline.has_policy() {
            let pending = PendingConnection {
                client: state.pipeline.begin(peer, token),
                connection,
                service: state.service.id,
                listener,
            };
            self.advance(None, pending, starter);
        } else if let Some(slot) = state.pipeline.taken_slot() {
            let admitted = Admitted::with(slot);
            self.start(
                index,
                listener,
                (connection.into(), peer),
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
        let index = pending.service.index();
        let admitted = self.services[index].advance(id, pending, starter);
        if let Some(AdmittedConnection { pending, admitted }) = admitted {
            let client = (pending.connection.into(), pending.client.peer);
            self.start(index, pending.listener, client, admitted, starter);
        }
    }

    fn start(
        &mut self,
        index: usize,
        listener: usize,
        (connection, peer): (OwnedFd, Peer),
        admitted: Admitted,
        starter: &mut HandlerStarter<'a>,
    ) {
        let service = self.services[index].service;
        let listener = &service.listeners[listener];
        let new = NewHandler::for_connection(service, listener, connection, peer, admitted);
        // The client was accepted, so a shortage is waited out.
        let free_descriptor = |intake: &mut Self| intake.services[index].free_descriptor();
        starter.start(new, &mut WaitOut::new(self, free_descriptor));
    }

    /// Goes on with the pending connections for which something may have changed.
    fn advance_pending(&mut self, starter: &mut HandlerStarter<'a>) {
        if self.services.iter().all(|state| state.queue.is_empty()) {
            // The connections are gone that these were about.
            self.signalled.clear();
        }
        // What wakes this thread during a start below is for the next time.
        let woken = std::mem::take(&mut self.woken);
        while let Some((service, id)) = self.signalled.pop_front() {
            self.go_on(service.index(), id, starter);
        }
        for index in 0..self.services.len() {
            let state = &mut self.services[index];
            if !state.pipeline.has_policy() {
                continue;
            }
            state.flush_rejections();
            if woken {
                self.advance_freed(index, starter);
            }
            if !self.services[index].queue.is_empty() {
                self.advance_due(index, starter);
            }
        }
    }

    /// Goes on with pending connections of sources that have lost a handler.
    fn advance_freed(&mut self, index: usize, starter: &mut HandlerStarter<'a>) {
        for source in self.services[index].pipeline.freed_sources() {
            if let Some(first) = self.services[index].queue.first_of(source) {
                self.go_on(index, first, starter);
            }
        }
    }

    /// Goes on with pending connections that are due, and those for which there is a token or a
    /// slot.
    fn advance_due(&mut self, index: usize, starter: &mut HandlerStarter<'a>) {
        let now = Instant::now();
        // A connection that is queued again is due later.
        while let Some(id) = self.services[index].queue.due(now) {
            self.go_on(index, id, starter);
        }
        while let Some(id) = self.services[index].queue.first_for_rate() {
            let token = self.services[index].pipeline.next_token(now);
            if token.is_some_and(|token| token > now) {
                break;
            }
            self.go_on(index, id, starter);
            if self.services[index].queue.first_for_rate() == Some(id) {
                break;
            }
        }
        while let Some(id) = self.services[index].queue.first_for_slot() {
            let state = &mut self.services[index];
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
    fn go_on(&mut self, index: usize, id: u32, starter: &mut HandlerStarter<'a>) {
        let queue = &mut self.services[index].queue;
        if queue.lacks_input(id, Instant::now()) {
            return;
        }
        let source = queue.source_waited_for(id);
        let mut next = Some(id);
        while let Some(id) = next {
            if let Some(pending) = self.services[index].queue.remove(id) {
                self.advance(Some(id), pending, starter);
            }
            // When the first of a line has gone the next one is asked about, until one stays.
            let first = source.and_then(|source| self.services[index].queue.first_of(source));
            next = first.filter(|first| *first != id);
        }
    }

    /// Serves the clients that have already arrived, as far as there are slots for them now.
    fn serve_last(&mut self, starter: &mut HandlerStarter<'a>) {
        self.services.iter_mut().for_each(ServiceState::begin_last);
        while self.thread.shared.is_in(Phase::Closing) {
            if worker_loop::serve_ready(self, starter) == 0 {
                if self.services.iter().all(|state| state.queue.is_empty()) {
                    return;
                }
                // There would be events for clients that can't be served now, again and again.
                self.services.iter_mut().for_each(ServiceState::unwatch);
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
        self.take_slots();
        self.advance_pending(starter);
        let mut attempts = Attempts::default();
        for index in 0..self.services.len() {
            // So that no listener waits for another to be drained.
            for listener in 0..self.services[index].ready.len() {
                if !self.services[index].ready[listener] {
                    continue;
                }
                if !self.services[index].is_open() {
                    break;
                }
                match self.serve(index, listener, starter) {
                    Attempt::Served => attempts.served += 1,
                    Attempt::Drained => self.services[index].ready[listener] = false,
                    Attempt::Closed => break,
                    // Which another listener needn't be.
                    Attempt::Short => attempts.short = true,
                }
                self.take_slots();
            }
        }
        attempts
    }

    fn watch(&mut self) -> bool {
        for state in &mut self.services {
            if !state.is_open() {
                state.unwatch();
            } else if !state.watch() {
                return false;
            }
        }
        true
    }

    fn give_way(&mut self) {
        for state in &mut self.services {
            state.unwatch();
            state.pipeline.give_way();
        }
        // Where there is one service, its shortage is that of the other threads, too.
        let ready = self
            .services
            .iter()
            .any(|state| state.ready.contains(&true));
        let Thread { index, shared } = self.thread;
        // Draining, the other threads try all listeners anyway, and end.
        if !ready || self.services.len() == 1 || !shared.is_in(Phase::Serving) {
            return;
        }
        if let Some(other) = shared.turns.pass(index) {
            shared.wakers[other].wake();
            for state in &mut self.services {
                state.ready.fill(false);
            }
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if !self.signalled.is_empty() || self.woken {
            return Some(Duration::ZERO);
        }
        let due = self.services.iter().filter_map(ServiceState::due).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn on_event(&mut self, token: Token) {
        match token {
            Token::Listener { service, listener } => {
                self.services[service.index()].ready[listener] = true;
            }
            Token::PendingConnection { service, id } => self.signalled.push_back((service, id)),
            _ => {}
        }
    }

    fn on_woken(&mut self) {
        let Thread { index, shared } = self.thread;
        for state in &mut self.services {
            state.pipeline.refresh_rules();
            self.woken = self.woken || state.pipeline.has_policy();
        }
        if shared.turns.take_passed(index) {
            for state in &mut self.services {
                state.ready.fill(true);
            }
        }
    }

    fn on_time(&mut self) {}

    fn park(&mut self) {
        for state in &mut self.services {
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
            if self.services[pending.service.index()].pipeline.has_policy() {
                self.advance(None, pending, starter);
            }
        }
    }

    fn finish(mut self, mut starter: HandlerStarter<'a>) {
        self.serve_last(&mut starter);
        for state in &mut self.services {
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
