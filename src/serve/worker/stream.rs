//! Acceptor threads: place → accept → identify → admit → spawn → hold; and reap.
//!
//! Several of them, since starting a handler stops the thread that does it until the
//! handler has been executed. Each waits, with an epoll set of its own, for all listeners,
//! and the kernel wakes one of them for a connection. A service without a free place is
//! not waited for at all. Each also waits for the ends of the handlers that it started: to
//! wake another thread for each end would cost more than the reaping.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::Socket;

use super::super::admission::{
    Policy, Ready, RejectLog, RulesHandle, RulesReader, Slot, SourceSlot, When,
};
use super::super::handlers::linger::KeptConnection;
use super::super::handlers::reap::{self, Birth};
use super::super::handlers::table::{Handler, Work};
use super::super::handlers::token::Token;
use super::super::service::Service;
use super::queue::{self, PendingConnection, PendingQueue};
use super::{Phase, Shared};
use crate::child::{SpawnError, Spawned, Spawner};
use crate::config::ServiceId;
use crate::net::{Listener, Peer};
use crate::report::{self, Event, Outlook, Trouble, Watched};
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller, no_events, wait_readable};
use crate::sys::thread::Thread;

/// How long a shortage is waited out before the next try.
pub(in crate::serve) const PAUSE: Duration = Duration::from_millis(100);

/// How many connections are served before a look at what else has happened, while there is
/// always another.
const ROW: usize = 16;

/// Starts an acceptor thread, which waits until all are there.
pub(in crate::serve) fn start(
    index: usize,
    shared: Arc<Shared>,
    spawner: Spawner,
) -> Result<Thread, Errno> {
    let waker = &shared.wakers[index];
    shared.handlers.pollers[index].add(waker, Interest::Readable, Token::Waker.into())?;
    let name = CString::new(format!("accept-{index}")).unwrap_or_default();
    Thread::start(name, 128 * 1024, move || {
        report::register_thread();
        let acceptor = StreamWorker {
            index,
            poller: &shared.handlers.pollers[index],
            states: shared
                .services
                .iter()
                .map(|served| ServiceState::new(served, shared.wakers.len()))
                .collect(),
            shared: &shared,
            spawner,
            entry: false,
            turns: VecDeque::new(),
            woken: false,
        };
        acceptor.run();
    })
}

pub(in crate::serve) struct StreamWorker<'a> {
    pub(in crate::serve) index: usize,
    pub(in crate::serve) shared: &'a Shared,
    pub(in crate::serve) poller: &'a Poller,
    /// One for each service.
    pub(in crate::serve) states: Vec<ServiceState<'a>>,
    spawner: Spawner,
    /// Whether the table has room for the next handler.
    entry: bool,
    /// Those in a room who have done something, by service and number.
    pub(in crate::serve) turns: VecDeque<(usize, u32)>,
    /// Whether another thread has given back what somebody in a room may wait for.
    pub(in crate::serve) woken: bool,
}

/// A service as one thread sees it.
pub(in crate::serve) struct ServiceState<'a> {
    pub(in crate::serve) served: &'a Service,
    /// The place for the next connection, taken before it is accepted; unless places are taken
    /// when they are needed.
    pub(in crate::serve) slot: Option<Slot>,
    /// Those who are accepted and not let through yet.
    pub(in crate::serve) room: PendingQueue,
    /// The rules as they were when this thread last looked.
    pub(in crate::serve) rules: Option<RulesReader>,
    /// Which lines there are about those who are refused, where somebody may be.
    pub(in crate::serve) reject_log: Option<RejectLog>,
    /// Whether it is the rate that keeps connections in the backlog.
    pub(in crate::serve) closed_by_rate: bool,
    /// Whether the listeners are in the thread's epoll set.
    watched: bool,
    /// For each listener, whether a connection may wait.
    ready: Vec<bool>,
    pub(in crate::serve) environment: Environment,
}

impl<'a> ServiceState<'a> {
    fn new(served: &'a Service, threads: usize) -> Self {
        // Where nothing is asked of anybody, nobody waits.
        let capacity = served.policy.as_ref().map(|_| queue::capacity(threads));
        Self {
            served,
            slot: None,
            room: PendingQueue::new(capacity.unwrap_or_default()),
            rules: served.rules.as_ref().map(RulesHandle::reader),
            reject_log: served.policy.as_ref().map(|_| RejectLog::new()),
            closed_by_rate: false,
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
    /// None is to be accepted now.
    Closed,
    /// Something is short; not before [`PAUSE`] again.
    Short,
}

impl<'a> StreamWorker<'a> {
    fn run(mut self) {
        while self.shared.is_in(Phase::Starting) {
            // Not for good: a moment later it costs nothing to look once more.
            self.look(Some(PAUSE));
        }
        self.enter_rooms();
        let mut row = 0;
        while self.shared.is_in(Phase::Serving) || self.shared.is_in(Phase::Parked) {
            if self.shared.is_in(Phase::Parked) {
                self.rest();
                continue;
            }
            self.take_places();
            self.see_to_rooms();
            match self.serve_ready() {
                0 => {
                    row = 0;
                    self.wait();
                }
                served if row + served < ROW => row += served,
                _ => {
                    row = 0;
                    self.look(Some(Duration::ZERO));
                }
            }
        }
        self.serve_last();
        self.let_go();
        self.say_what_is_left();
        let shared = self.shared;
        drop(self);
        shared.ended.fetch_add(1, Ordering::SeqCst);
        shared.handlers.main.wake();
    }

    /// Serves those who have come already, as far as there are places for them now.
    fn serve_last(&mut self) {
        for state in &mut self.states {
            state.ready.fill(true);
            state.closed_by_rate = false;
        }
        while self.shared.is_in(Phase::Closing) {
            self.take_places();
            self.see_to_rooms();
            if self.serve_ready() == 0 {
                if self.states.iter().all(|state| state.room.is_empty()) {
                    return;
                }
                for service in 0..self.states.len() {
                    // Who can't be served now would be told of again and again.
                    self.unwatch(service);
                }
                self.look(self.time_left());
            }
        }
    }

    /// Does nothing, not even reap, with nothing in hand, until the phase changes.
    fn rest(&mut self) {
        self.leave_rooms();
        self.say_what_is_left();
        self.shared.parked.fetch_add(1, Ordering::SeqCst);
        let waker = &self.shared.wakers[self.index];
        while self.shared.is_in(Phase::Parked) {
            wait_readable([waker.as_fd()], None);
            waker.clear();
            self.shared.answer(self.index);
        }
        self.shared.parked.fetch_sub(1, Ordering::SeqCst);
        self.enter_rooms();
    }

    fn stopping(&self) -> bool {
        self.shared.is_in(Phase::Stopping)
    }

    /// Takes a place in each service where it has none, and is to have one.
    fn take_places(&mut self) {
        for service in 0..self.states.len() {
            let state = &mut self.states[service];
            let wanted = state.slot.is_none()
                && !state.served.listeners.is_empty()
                && state.served.slots.when() == When::Before;
            if wanted {
                state.slot = state.served.slots.take(self.index);
                if state.slot.is_none() {
                    self.note_full(service);
                }
            }
        }
    }

    /// Has it said that clients wait for a place, if they do.
    fn note_full(&self, service: usize) {
        if report::full_is_due(self.states[service].served.id) {
            self.ask_who_waits(service);
        }
    }

    /// Whether clients wait is for the main thread to see: to look at the listener from here
    /// would take the wake-up from another acceptor.
    fn ask_who_waits(&self, service: usize) {
        let served = self.states[service].served;
        served.asks_backlog.store(true, Ordering::SeqCst);
        self.shared.handlers.main.wake();
    }

    /// Whether connections of a service are to be accepted now. If not, this thread is woken, or
    /// has something due, when it is worth asking again.
    fn is_open(&mut self, service: usize) -> bool {
        let state = &mut self.states[service];
        // Without a place the next token isn't waited for: it would be due for as long as nobody may
        // take it.
        state.closed_by_rate = false;
        let slots = &state.served.slots;
        let Some(policy) = &state.served.policy else {
            return state.slot.is_some();
        };
        let free = match slots.when() {
            When::Before => state.slot.is_some(),
            // Who has been accepted comes first.
            When::Needed => {
                !policy.leaves_at_max()
                    || state.room.for_place.is_empty() && slots.may_take(self.index)
            }
        };
        if !free {
            self.note_full(service);
            return false;
        }
        state.closed_by_rate = policy.gate().is_some_and(|bucket| {
            let now = self.shared.clock.read(Instant::now());
            !state.room.for_rate.is_empty() || bucket.next(now) > now
        });
        let open = !state.closed_by_rate;
        if !open && report::fast_is_due(state.served.id) {
            self.ask_who_waits(service);
        }
        open
    }

    /// Serves one connection of each listener that may have one, in turn, so that none
    /// waits for another to be drained; says how many there were.
    fn serve_ready(&mut self) -> usize {
        let mut served = 0;
        let mut short = false;
        for service in 0..self.states.len() {
            for listener in 0..self.states[service].ready.len() {
                if !self.states[service].ready[listener] {
                    continue;
                }
                if !self.is_open(service) {
                    break;
                }
                match self.serve(service, listener) {
                    Attempt::Served => served += 1,
                    Attempt::Drained => self.states[service].ready[listener] = false,
                    Attempt::Closed => break,
                    // Which another listener needn't be.
                    Attempt::Short => short = true,
                }
                self.take_places();
            }
        }
        if short {
            self.pause();
            // To be tried again, whatever else there is to wait for.
            served = served.max(1);
        }
        served
    }

    fn serve(&mut self, service: usize, index: usize) -> Attempt {
        let served = self.states[service].served;
        let listener = &served.listeners[index];
        if !self.make_room(service) {
            return Attempt::Short;
        }
        let token = match self.take_token(service) {
            Ok(token) => token,
            Err(closed) => return closed,
        };
        let (connection, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.give_back(service, token);
                let short = reason.raw_os_error() == Some(Errno::EMFILE as i32);
                if short && self.make_way(service) {
                    return Attempt::Served;
                }
                return not_accepted(served.id, listener, &reason);
            }
        };
        let slot = self.states[service].slot.take();
        match (&served.policy, slot) {
            // Without a policy, is_open has seen one.
            (None, None) => {}
            (None, Some(slot)) => {
                self.start(service, listener, connection, peer, (slot, None), None);
            }
            (Some(policy), slot) => {
                let mut visitor =
                    PendingConnection::new(connection, peer, policy, (service, index));
                (visitor.token, visitor.slot) = (token, slot);
                self.advance(policy, None, visitor);
            }
        }
        Attempt::Served
    }

    /// The service's token for the next connection, where connections wait for it in the backlog
    /// and are let through, if at all, as soon as they are accepted.
    fn take_token(&self, service: usize) -> Result<Option<u64>, Attempt> {
        let served = self.states[service].served;
        let Some(bucket) = served.policy.as_ref().and_then(Policy::gate) else {
            return Ok(None);
        };
        if served.slots.when() == When::Needed {
            return Ok(None);
        }
        let now = self.shared.clock.read(Instant::now());
        match bucket.take(now) {
            Ok(()) => Ok(Some(now)),
            Err(_) => Err(Attempt::Closed),
        }
    }

    fn give_back(&self, service: usize, token: Option<u64>) {
        let policy = self.states[service].served.policy.as_ref();
        if let (Some(taken), Some(bucket)) = (token, policy.and_then(Policy::gate)) {
            bucket.give_back(taken, self.shared.clock.read(Instant::now()));
        }
    }

    /// Starts the handler of a connection that is let through.
    pub(in crate::serve) fn start(
        &mut self,
        service: usize,
        listener: &Listener,
        connection: Socket,
        peer: Peer,
        (slot, source_slot): (Slot, Option<SourceSlot>),
        rule: Option<&Ready>,
    ) {
        let served = self.states[service].served;
        report::event(Event::Accepted(served.id, &peer));
        // The last that is seen of it.
        let timeouts = self.shared.handlers.timeouts[service].as_ref();
        let socket = timeouts.and_then(|timeouts| timeouts.identify(listener, &connection));
        if !self.hold(served.id, &connection) {
            return;
        }
        // Closed here, where it isn't kept.
        let kept = served
            .linger
            .map(|time| KeptConnection::new(connection, time));
        self.introduce(service, listener, &peer, rule);
        let spawned = self.spawn(service);
        // First of all: until then the client can't see the end, should the handler be quick.
        self.spawner.release();
        if let Some((Spawned { pid, pidfd }, birth)) = spawned {
            report::event(Event::HandlerStarted(served.id, pid.as_raw()));
            let started = Instant::now();
            let handler = Handler {
                service: served.id,
                pid,
                pidfd,
                work: Work::Connection(slot.in_use()),
                source_slot,
                peer,
                started,
                kept,
            };
            let watch = timeouts.map(|timeouts| timeouts.watch(started, socket));
            // A lock, but one that hardly any other thread ever takes.
            self.entry = self.shared.handlers.enter(self.index, handler, watch);
            drop(birth);
            served.report_slots();
        }
    }

    /// Has room for the next handler in the table, before its client is accepted: one that
    /// runs must be entered. Allocates only when more handlers live than ever before.
    pub(in crate::serve) fn make_room(&mut self, service: usize) -> bool {
        if !self.entry {
            match self.shared.handlers.table.reserve(self.index, 1) {
                Ok(()) => self.entry = true,
                Err(error) => {
                    let id = self.states[service].served.id;
                    report::event(Event::Trouble(Trouble::NoMemory(id, &error)));
                }
            }
        }
        self.entry
    }

    /// Puts the connection into the thread's slot, however long that takes; not if skd is
    /// stopping.
    fn hold(&mut self, service: ServiceId, connection: &Socket) -> bool {
        while let Err(errno) = self.spawner.hold(connection) {
            report::event(Event::Trouble(Trouble::ConnectionNotHeld(service, errno)));
            if self.stopping() {
                return false;
            }
            self.pause();
        }
        true
    }

    /// Writes into the environment who has called where.
    fn introduce(
        &mut self,
        service: usize,
        listener: &Listener,
        peer: &Peer,
        rule: Option<&Ready>,
    ) {
        let ServiceState {
            served,
            environment,
            ..
        } = &mut self.states[service];
        environment.clear();
        let changed = rule.and_then(|rule| rule.variables.as_ref());
        environment.rebase(changed.unwrap_or(served.plan.variables()));
        if served.pool.is_some() {
            // As those have it who were started before they could know any more.
            let variables = served.pool_variables.iter();
            return variables.for_each(|variable| environment.line(variable));
        }
        for variable in listener.variables(peer) {
            environment.line(variable);
        }
        peer.variables(|name, value| environment.set(name, value));
    }

    /// Starts the handler of what the slot holds; waits until a shortage is over, for the
    /// client has been accepted. `None` if the program can't be run, or skd is stopping.
    fn spawn(&mut self, service: usize) -> Option<(Spawned, Birth<'a>)> {
        let served = self.states[service].served;
        let (plan, pool) = (&served.plan, served.pool.as_deref());
        loop {
            // So that the new child isn't taken for a stranger's. Two atomic additions.
            let birth = self.shared.handlers.births[self.index].begin();
            let environment = &mut self.states[service].environment;
            let why = match self.spawner.spawn(plan, pool, environment) {
                Ok(spawned) => return Some((spawned, birth)),
                Err(why) => why,
            };
            drop(birth);
            let short = matches!(why, SpawnError::Shortage(Errno::EMFILE));
            if short && self.make_way(service) {
                continue;
            }
            let trouble = Trouble::Spawn(served.id, why.explain(plan));
            report::event(Event::Trouble(trouble));
            if matches!(why, SpawnError::Failed(..)) || self.stopping() {
                return None;
            }
            self.pause();
        }
    }

    /// Waits until something happens; for connections, where there is a place for one.
    fn wait(&mut self) {
        // No system call, unless a connection couldn't be let go of when its handler started:
        // then its client waits for the end.
        let released = self.spawner.release();
        for index in 0..self.states.len() {
            if !self.is_open(index) {
                self.unwatch(index);
            } else if !self.watch(index) {
                return self.pause();
            }
        }
        let limit = (!released).then_some(PAUSE);
        self.look(limit.into_iter().chain(self.time_left()).min());
    }

    /// How long to wait at most, for the sake of what is due.
    fn time_left(&self) -> Option<Duration> {
        if !self.turns.is_empty() || self.woken {
            return Some(Duration::ZERO);
        }
        let due = self.due()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Lets time pass before the next try, unless something happens that may have ended a
    /// shortage; that no connection does.
    ///
    /// Where one daemon has several services, a thread held here by one of them would keep its
    /// place in another, or the wake-up for one, from the other threads for as long. There is
    /// one service; with a second, places and turns to wait are to be given up before this.
    fn pause(&mut self) {
        for index in 0..self.states.len() {
            self.unwatch(index);
        }
        self.look(Some(PAUSE));
    }

    /// Acts on what has happened; waits for it, at most so long.
    fn look(&mut self, limit: Option<Duration>) {
        let leaving = &self.shared.handlers.lingering;
        let due = leaving.due(self.index);
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let limit = limit.into_iter().chain(left).min();
        let mut room = no_events();
        // Without time limits this is `limit`, and no system call.
        let limit = self.shared.handlers.until_due(self.index, limit);
        let Ok(events) = self.poller.wait(&mut room, limit) else {
            // Nothing that an epoll descriptor in order can say; don't spin on it.
            thread::sleep(PAUSE);
            return;
        };
        for event in events {
            match Token::from(event) {
                Token::Listener { service, listener } => {
                    self.states[service].ready[listener] = true
                }
                Token::Handler { thread, index } => {
                    reap::reap(&self.shared.handlers, self.index, (thread, index), None);
                }
                Token::Lingering(index) => leaving.hear(self.index, self.poller, index),
                Token::Waker => {
                    self.shared.wakers[self.index].clear();
                    self.shared.answer(self.index);
                    for state in &mut self.states {
                        if let (Some(rules), Some(book)) = (&mut state.rules, &state.served.rules) {
                            rules.refresh(book);
                        }
                    }
                    self.woken = self
                        .states
                        .iter()
                        .any(|state| state.served.policy.is_some());
                }
                // Not at once: this may be a pause in the midst of a start.
                Token::PendingConnection { service, id } => self.turns.push_back((service, id)),
                _ => {}
            }
        }
        // After the ends: who has ended isn't late.
        self.shared.handlers.look_at_timeouts(self.index);
        leaving.on_time(self.index, self.poller);
    }

    /// Has the listeners of a service in the epoll set; says whether that could be done.
    fn watch(&mut self, index: usize) -> bool {
        let state = &mut self.states[index];
        if state.watched {
            return true;
        }
        state.watched = true;
        for (number, listener) in state.served.listeners.iter().enumerate() {
            let key = Token::Listener {
                service: index,
                listener: number,
            };
            let watched = self.poller.add(listener, Interest::ReadableOne, key.into());
            if let Err(errno) = watched {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: Some(state.served.id),
                    what: Watched::Listener,
                    errno,
                }));
                // What isn't watched has to be tried.
                state.ready.fill(true);
                self.unwatch(index);
                return false;
            }
        }
        true
    }

    /// Takes them out again: a thread that waits, is woken and doesn't accept keeps others from
    /// being woken. (One that doesn't wait in its epoll set is passed over by the kernel.)
    fn unwatch(&mut self, index: usize) {
        let state = &mut self.states[index];
        if !state.watched {
            return;
        }
        state.watched = false;
        for listener in &state.served.listeners {
            // Fails only for one that isn't there.
            let _ = self.poller.remove(listener);
        }
    }
}

/// What an error of accept(2) means (accept(2), ERRORS).
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
