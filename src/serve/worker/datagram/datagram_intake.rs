//! The datagram listeners of one service, from which a datagram worker takes its clients.
//!
//! The worker waits in an epoll set of the intake's own. The set in which the pidfds of handlers
//! are is inside that, since the main thread looks at it too when skd drains.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::drops::Drops;
use super::own_senders::OwnSenders;
use super::parked_exchange::ParkedExchange;
use crate::child::Spawner;
use crate::config::{Peer, ServiceId};
use crate::net::Listener;
use crate::report::{self, DropReason, Event, ReceiveFault, Trouble, Watched};
use crate::serve::admission::{Acceptance, Admitted, Kind, Pipeline, Step};
use crate::serve::availability::Availability;
use crate::serve::handlers::token::Token;
use crate::serve::service::Service;
use crate::serve::worker::intake::{Attempt, Attempts, HandlerStarter, Intake, Thread};
use crate::serve::worker::rejections::Rejections;
use crate::serve::worker::shared::{Phase, Shared};
use crate::serve::worker::worker_loop::{self, Worker, look, note_end};
use crate::sys::datagrams::{self, Received, Route};
use crate::sys::events::{Interest, Poller, is_readable, wait_writable};
use crate::sys::sockets::{discard_elsewhere, is_shut_down};
use crate::sys::thread;

/// How long a network card may take until it takes another datagram.
const FULL: Duration = Duration::from_millis(10);

/// Locked to receive from a unix socket that descriptors may be passed to.
static RECEIVING: Mutex<()> = Mutex::new(());

/// What handlers of datagrams are for, and all that depends on that.
pub(super) trait Mode: Sized {
    /// How many datagrams are received at once.
    const BATCH: usize;

    /// Whether datagrams stay in the socket while their senders may have no handler.
    const GATED: bool;

    fn new(service: &Service) -> Self;

    /// The number of open exchanges.
    fn len(&self) -> usize;

    /// Returns when something is due.
    fn due(&self) -> Option<Instant>;

    /// Serves a listener once.
    fn serve<'a>(
        intake: &mut Datagram<'a, Self>,
        listener: usize,
        starter: &mut HandlerStarter<'a>,
    ) -> Attempt;

    /// A handler has written to an exchange, or closed it.
    fn on_exchange(intake: &mut Datagram<'_, Self>, index: usize);

    /// Acts on what is due.
    fn on_time(intake: &mut Datagram<'_, Self>);

    /// Removes all exchanges.
    fn park(&mut self, service: ServiceId) -> Vec<ParkedExchange>;

    /// Takes over a parked exchange; for want of memory, it ends.
    fn unpark(intake: &mut Datagram<'_, Self>, exchange: ParkedExchange);
}

/// Starts a datagram worker in this mode.
pub(super) fn start<M: Mode + Send + 'static>(
    index: usize,
    service: ServiceId,
    shared: Arc<Shared>,
    spawner: Spawner,
) -> Result<thread::Thread, Errno> {
    let ends = &shared.handlers.pollers[index];
    let waker = &shared.wakers[index];
    ends.add(waker, Interest::Readable, Token::Waker.into())?;
    let poller = Poller::new()?;
    poller.add(ends, Interest::Readable, Token::Worker(index).into())?;
    let name = CString::new(format!("datagram-{index}")).unwrap_or_default();
    // Here, where it can fail.
    let received = Received::new(M::BATCH);
    let mode = M::new(&shared.services[service.index()]);
    thread::Thread::start(name, 128 * 1024, move || {
        report::register_thread();
        let shared = &*shared;
        let service = &shared.services[service.index()];
        let thread = Thread { index, shared };
        let intake = Datagram {
            thread,
            poller,
            service,
            pipeline: Pipeline::new(
                service.policy.as_deref(),
                &service.slots,
                service.rules.as_ref(),
                Kind::Datagram,
                service.min_source_port,
                (shared.clock, index),
                (service.id, &shared.denials),
            ),
            rejections: Rejections::new(service, Kind::Datagram, (shared.clock, index)),
            drops: Drops::new(service.id),
            own_senders: OwnSenders::new(&shared.own_udp),
            watched: false,
            closed_by_rate: false,
            full: false,
            // As for streams.
            ready: service
                .datagrams
                .iter()
                .map(Listener::is_retiring)
                .collect(),
            retires: service.datagrams.iter().any(Listener::is_retiring),
            availability: Availability::Serving,
            told_idle: false,
            told_done: false,
            useless: vec![false; service.datagrams.len()],
            received,
            mode,
        };
        Worker::new(spawner, intake).run();
    })
}

/// The datagram listeners of one service.
#[derive(Debug)]
pub(super) struct Datagram<'a, M> {
    thread: Thread<'a>,
    pub(super) poller: Poller,
    pub(super) service: &'a Service,
    pub(super) pipeline: Pipeline<'a>,
    rejections: Rejections<'a>,
    pub(super) drops: Drops,
    pub(super) own_senders: OwnSenders,
    /// Whether the listeners are in the epoll set.
    watched: bool,
    /// Whether it is the rate that keeps datagrams in the sockets.
    closed_by_rate: bool,
    /// Whether the network took no answer, though it was waited for, and has taken none since. Then
    /// it isn't waited for again, or a thousand answers would take as many waits.
    pub(super) full: bool,
    /// Whether the service isn't configured any more.
    retires: bool,
    /// Whether the service takes new senders, as it was at the beginning of this pass.
    availability: Availability,
    /// Whether the main thread knows that this worker serves no new sender of the draining service.
    told_idle: bool,
    /// Whether the main thread knows that this worker is done.
    told_done: bool,
    /// For each listener, whether a datagram may wait; and whether none ever will again.
    ready: Vec<bool>,
    useless: Vec<bool>,
    pub(super) received: Received,
    pub(super) mode: M,
}

impl<'a, M: Mode> Datagram<'a, M> {
    /// Returns whether handlers may start for new senders at this listener.
    pub(super) fn takes_new(&self, listener: usize) -> bool {
        let drained = self.service.datagrams[listener].is_drained();
        let drains = self.thread.shared.drains.load(Ordering::SeqCst);
        let serves = self.availability == Availability::Serving;
        !drained && !drains && serves && !self.service.slots.are_spent()
    }

    /// Returns why a sender has no handler and gets none.
    pub(super) fn why_none(&self) -> DropReason {
        match self.availability {
            Availability::Serving => DropReason::Closed,
            _ => DropReason::Disabled,
        }
    }

    /// Returns whether datagrams are left in the sockets, since an administrator wants that. Not
    /// while senders have handlers: what these are sent comes through the same socket. Then those
    /// of other senders are dropped.
    fn leaves_waiting(&self) -> bool {
        let serves = !M::GATED && self.mode.len() > 0;
        self.availability.leaves_waiting() && !serves
    }

    /// Receives and drops what waits at a listener.
    fn refuse(&mut self, listener: usize) -> Attempt {
        match self.receive(listener) {
            Ok(count) => {
                (0..count).for_each(|_| self.drop_datagram(listener, DropReason::Disabled));
                Attempt::Served
            }
            Err(attempt) => attempt,
        }
    }

    /// Serves a listener once.
    fn serve(&mut self, listener: usize, starter: &mut HandlerStarter<'a>) -> Attempt {
        match self.availability {
            Availability::Refusing if M::GATED => self.refuse(listener),
            _ if self.leaves_waiting() => Attempt::Closed,
            _ => M::serve(self, listener, starter),
        }
    }

    /// Returns whether there is nothing to receive: there were all handlers that there may be, and
    /// none of them has an open exchange.
    fn is_done(&self) -> bool {
        self.service.slots.are_spent() && self.mode.len() == 0
    }

    /// Tells the main thread, which closes the listeners when all workers are done. A handler in wait
    /// mode that can't be started leaves its turn to others: then they aren't.
    fn tell_done(&mut self, done: bool) {
        let workers = &self.service.done_workers;
        match (std::mem::replace(&mut self.told_done, done), done) {
            (false, true) => {
                workers.fetch_add(1, Ordering::SeqCst);
                self.thread.shared.handlers.main.wake();
            }
            (true, false) => drop(workers.fetch_sub(1, Ordering::SeqCst)),
            (true, true) | (false, false) => {}
        }
    }

    /// Receives what waits at a listener, as much as fits. Returns the number of datagrams.
    pub(super) fn receive(&mut self, listener: usize) -> Result<usize, Attempt> {
        let socket = &self.service.datagrams[listener];
        let received = if socket.holds_descriptors() {
            // Of several threads, none may take what another has looked at.
            let _one = RECEIVING.lock().unwrap_or_else(PoisonError::into_inner);
            match self.received.receive_bytes(socket) {
                // No handler could get the descriptors.
                Err(Errno::EPROTO) => {
                    let discarded = discard_elsewhere(socket);
                    report::event(Event::DatagramsReceived(socket.id(), 1));
                    self.drop_datagram(listener, DropReason::Descriptors);
                    return Err(discarded.map_or(Attempt::Short, |()| Attempt::Served));
                }
                received => received,
            }
        } else {
            self.received.receive(socket, !socket.is_unix())
        };
        match received {
            Ok(0) => {
                if is_shut_down(socket) {
                    self.useless[listener] = true;
                    let _ = self.poller.remove(socket);
                    self.not_received(listener, ReceiveFault::ShutDown);
                }
                Err(Attempt::Drained)
            }
            Ok(count) => {
                report::event(Event::DatagramsReceived(socket.id(), count as u64));
                Ok(count)
            }
            Err(errno) => {
                self.not_received(listener, ReceiveFault::Errno(errno));
                Err(Attempt::Short)
            }
        }
    }

    fn not_received(&self, listener: usize, fault: ReceiveFault) {
        report::event(Event::Trouble(Trouble::NotReceived {
            service: self.service.id,
            listener: self.service.datagrams[listener].listener_name(),
            fault,
        }));
    }

    /// Asks whether a handler may start for this sender, and takes what it needs. A token that was
    /// taken already is passed.
    pub(super) fn admit(
        &mut self,
        listener: usize,
        peer: Peer,
        token: Option<u64>,
    ) -> Option<Admitted> {
        let mut sender = self.pipeline.begin(peer, token);
        let now = Instant::now();
        match self.pipeline.advance(&mut sender, now) {
            Step::Admit => sender.admitted(),
            Step::Reject(rejection) => {
                let at = self.service.datagrams[listener].id();
                self.rejections.report(&sender, at, rejection.reason(), now);
                None
            }
            // A datagram neither waits nor has a beginning to look at.
            Step::Wait | Step::Look(_) | Step::Tls | Step::Gate => {
                self.pipeline.give_back(&mut sender, now);
                None
            }
        }
    }

    /// Notes that a datagram is dropped.
    pub(super) fn drop_datagram(&mut self, listener: usize, reason: DropReason) {
        self.drops
            .note(self.service.datagrams[listener].id(), reason);
    }

    /// Sends an answer along the route of a datagram. An answer that the socket doesn't take is
    /// lost, as on the network: no other client waits for it.
    pub(super) fn answer(&mut self, listener: usize, route: &Route, payload: &[u8]) {
        if !route.leads_back() {
            return self.drop_datagram(listener, DropReason::NoAddress);
        }
        let socket = &self.service.datagrams[listener];
        let mut sent = datagrams::send(socket, payload, route);
        // A UDP socket is emptied by the network card, which waits for nothing; but when a unix
        // socket takes more depends on its owner.
        let waits = route.sender().is_some();
        if sent == Err(Errno::EAGAIN) && waits && self.becomes_writable(listener) {
            sent = datagrams::send(socket, payload, route);
        }
        match sent {
            Ok(()) => {
                self.full = false;
                report::event(Event::DatagramsSent(socket.id(), 1));
            }
            Err(errno) => self.not_sent(listener, route, errno),
        }
    }

    /// Waits a moment until a listener takes an answer. Returns whether it does.
    pub(super) fn becomes_writable(&mut self, listener: usize) -> bool {
        let socket = &self.service.datagrams[listener];
        self.full = self.full || !wait_writable(socket.as_fd(), FULL);
        !self.full
    }

    pub(super) fn not_sent(&mut self, listener: usize, route: &Route, errno: Errno) {
        self.drop_datagram(listener, DropReason::NotSent);
        if errno != Errno::EAGAIN {
            let listener = &self.service.datagrams[listener];
            let peer = Peer::datagram(route.sender(), None);
            report::event(Event::Trouble(Trouble::AnswerNotSent {
                service: self.service.id,
                peer: &peer,
                listener: listener.listener_name(),
                errno,
            }));
        }
    }

    /// The token of an exchange.
    pub(super) fn token(&self, index: usize) -> u64 {
        let service = self.service.id;
        Token::Exchange { service, index }.into()
    }

    /// Counts an exchange that was opened.
    pub(super) fn count_opened(&self) {
        self.thread.shared.exchanges.fetch_add(1, Ordering::SeqCst);
        if self.retires {
            self.service.last_exchanges.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Counts an exchange that was closed.
    pub(super) fn count_closed(&self) {
        let shared = self.thread.shared;
        if self.retires && self.service.last_exchanges.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.wake_to_close();
        }
        let last = shared.exchanges.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && shared.drains.load(Ordering::SeqCst) {
            shared.handlers.main.wake();
        }
    }

    /// Returns whether datagrams are received now. If not, this thread is woken, or has something
    /// due, when it is worth asking again.
    fn is_open(&mut self) -> bool {
        if self.leaves_waiting() {
            self.closed_by_rate = false;
            return false;
        }
        if !M::GATED || self.availability == Availability::Refusing {
            return true;
        }
        let acceptance = self.pipeline.acceptance(false, false);
        if acceptance == Acceptance::Full
            && report::full_is_due(self.service.id)
            && self.service.datagrams.iter().any(is_readable)
        {
            let limit = self.service.slots.limit().unwrap_or_default();
            report::event(Event::Full(self.service.id, limit));
        }
        self.closed_by_rate = acceptance == Acceptance::Rate;
        acceptance == Acceptance::Open
    }

    /// Returns whether no datagram is received from a listener any more: it isn't configured, and those
    /// that had arrived are served. Senders that have a handler still go on.
    fn is_over(&self, listener: usize) -> bool {
        let socket = &self.service.datagrams[listener];
        socket.is_closed() || M::GATED && socket.is_drained()
    }

    fn watch_listeners(&mut self) -> bool {
        if self.watched {
            return true;
        }
        self.watched = true;
        for (listener, socket) in self.service.datagrams.iter().enumerate() {
            if self.useless[listener] || self.is_over(listener) {
                continue;
            }
            let service = self.service.id;
            let token = Token::Listener { service, listener }.into();
            // Of several threads one is woken.
            if let Err(errno) = self.poller.add(socket, Interest::ReadableOne, token) {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: Some(service),
                    what: Watched::Listener,
                    errno,
                }));
                // What isn't watched has to be tried.
                self.ready.fill(true);
                self.unwatch_listeners();
                return false;
            }
        }
        true
    }

    fn unwatch_listeners(&mut self) {
        if std::mem::replace(&mut self.watched, false) {
            for socket in &self.service.datagrams {
                // Fails only for a listener that isn't there.
                let _ = self.poller.remove(socket);
            }
        }
    }

    /// Reports all that was counted, since there will be no later.
    fn report_counted(&mut self) {
        self.drops.flush(true);
        self.rejections.flush_all();
    }
}

impl<'a, M: Mode> Intake<'a> for Datagram<'a, M> {
    fn thread(&self) -> Thread<'a> {
        self.thread
    }

    fn poller(&self) -> &Poller {
        &self.poller
    }

    fn serve_ready(&mut self, starter: &mut HandlerStarter<'a>) -> Attempts {
        let mut attempts = Attempts::default();
        self.availability = self.service.availability.get();
        let drains = self.availability == Availability::Draining;
        let shared = self.thread.shared;
        shared.note_idle(self.service, &mut self.told_idle, drains);
        let done = self.is_done();
        self.tell_done(done);
        if done {
            self.ready.fill(false);
        }
        for listener in 0..self.ready.len() {
            if !self.ready[listener] {
                continue;
            }
            if self.is_over(listener) {
                self.ready[listener] = false;
                continue;
            }
            match self.serve(listener, starter) {
                Attempt::Served => attempts.served += 1,
                Attempt::Drained => {
                    self.ready[listener] = false;
                    let socket = &self.service.datagrams[listener];
                    shared.note_no_client(socket);
                    if self.is_over(listener) {
                        let _ = self.poller.remove(socket);
                    }
                }
                Attempt::Closed => break,
                Attempt::Short => attempts.short = true,
            }
        }
        attempts
    }

    fn watch(&mut self) -> bool {
        // Another thread may need it.
        self.pipeline.release_slot();
        if !self.is_done() && self.is_open() {
            return self.watch_listeners();
        }
        self.unwatch_listeners();
        true
    }

    fn give_way(&mut self) {
        self.unwatch_listeners();
        self.pipeline.release_slot();
    }

    fn time_left(&self) -> Option<Duration> {
        let token = || self.pipeline.next_token(Instant::now());
        let token = self.closed_by_rate.then(token).flatten();
        let due = [
            token,
            self.rejections.due(),
            self.drops.due(),
            self.mode.due(),
        ];
        let due = due.into_iter().flatten().min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn on_event(&mut self, token: Token) {
        match token {
            Token::Listener { listener, .. } => self.ready[listener] = true,
            Token::Exchange { index, .. } => M::on_exchange(self, index),
            _ => {}
        }
    }

    // Each wait asks for a slot.
    fn on_freed(&mut self, _: ServiceId) {}

    fn on_woken(&mut self) {
        self.pipeline.refresh_rules();
    }

    fn on_time(&mut self) {
        M::on_time(self);
        self.drops.flush(false);
        self.rejections.flush();
    }

    fn park(&mut self) {
        self.pipeline.release_slot();
        let parked = self.mode.park(self.service.id);
        for exchange in &parked {
            let _ = self.poller.remove(&exchange.socket);
            self.count_closed();
        }
        if !parked.is_empty() {
            self.thread.shared.parked_exchanges().extend(parked);
        }
        self.report_counted();
    }

    fn unpark(&mut self, _: &mut HandlerStarter<'a>) {
        let service = self.service.id;
        let listeners = self.service.datagrams.len();
        let own: Vec<ParkedExchange> = {
            let mut parked = self.thread.shared.parked_exchanges();
            let all = std::mem::take(&mut *parked).into_iter();
            let (own, others) = all.partition(|exchange| exchange.service == service);
            *parked = others;
            own
        };
        for exchange in own {
            if exchange.listener < listeners {
                M::unpark(self, exchange);
            }
        }
    }

    /// In a drain, the datagrams that have arrived are served. Then exchanges go on until the last
    /// of them has ended, and so do datagrams of senders that have a handler.
    fn finish(mut self, mut starter: HandlerStarter<'a>) {
        let Thread { shared, .. } = self.thread;
        if M::GATED {
            self.ready.fill(true);
            while shared.is_in(Phase::Closing)
                && worker_loop::serve_ready(&mut self, &mut starter) > 0
            {
                look(&mut self, Some(Duration::ZERO));
            }
            self.unwatch_listeners();
            // No token is waited for any more.
            self.closed_by_rate = false;
        }
        self.pipeline.release_slot();
        note_end(shared);
        while shared.drains.load(Ordering::SeqCst) && self.mode.len() > 0 {
            if !M::GATED {
                if worker_loop::serve_ready(&mut self, &mut starter) > 0 {
                    look(&mut self, Some(Duration::ZERO));
                    continue;
                }
                self.watch_listeners();
            }
            let left = self.time_left();
            look(&mut self, left);
        }
        self.report_counted();
        shared.handlers.main.wake();
    }
}
