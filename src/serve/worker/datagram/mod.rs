//! Datagrams that skd receives itself, for handlers that are made for one of them
//! ([`per_packet`]) or for all of one sender ([`per_peer`]); what handlers answer goes back from
//! the same socket and address.
//!
//! A handler's 0 and 1 are one end of a pair of unix sockets, and skd has the other: an exchange.
//! Passing threads wait for the listeners and for their exchanges, never for a client or a
//! handler: what can't be taken at once is dropped, and counted. Otherwise they are like acceptors
//! (see [`super::stream`]): a passing thread starts handlers, reaps them, and has a part of the
//! table. The set that it waits in holds, besides its own sockets, the one in which it watches
//! for the ends of handlers, since the main thread looks at that too when skd drains.

mod drops;
mod parked;
mod per_packet;
mod per_peer;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::stream::PAUSE;
use super::{Phase, Shared};
use crate::child::{SpawnError, Spawned, Spawner};
use crate::config::{AtLimit, DatagramMode};
use crate::net::{self, Peer};
use crate::report::{self, Event, Reason, ReceiveFault, Trouble, Watched};
use crate::serve::admission::{
    Over, Policy, Ready, RejectLog, RulesHandle, RulesReader, Say, Slot, SourceLimits,
};
use crate::serve::admission::{Source, SourceSlot};
use crate::serve::handlers::reap::{self, Birth};
use crate::serve::handlers::table::{Handler, Work};
use crate::serve::handlers::token::Token;
use crate::serve::service::Service;
use crate::sys::datagrams::{self, BATCH, Received, Route};
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller, is_readable, no_events, wait_readable, wait_writable};
use crate::sys::sockets::is_shut_down;
use crate::sys::thread::Thread;

use drops::{Drops, Why};
pub(in crate::serve) use parked::ParkedExchange;
pub(in crate::serve) use parked::SavedExchange;
use per_packet::Packets;
use per_peer::Peers;

/// How long a network card may take to have room for another datagram.
const FULL: Duration = Duration::from_millis(10);

/// How many datagrams are served before a look at what else has happened, while there is always
/// another.
const ROW: usize = 16;

/// How many threads pass datagrams: whoever makes a process for each stops while it is made, but
/// the senders of a service are in one table.
pub(in crate::serve) fn threads(mode: DatagramMode, usual: usize) -> usize {
    match mode {
        DatagramMode::PerPacket => usual,
        DatagramMode::PerPeer => 1,
        DatagramMode::Wait => 0,
    }
}

/// Starts a passing thread for the service with this index.
pub(in crate::serve) fn start(
    index: usize,
    service: usize,
    shared: Arc<Shared>,
    spawner: Spawner,
) -> Result<Thread, Errno> {
    let ends = &shared.handlers.pollers[index];
    ends.add(
        &shared.wakers[index],
        Interest::Readable,
        Token::Waker.into(),
    )?;
    let poller = Poller::new()?;
    poller.add(ends, Interest::Readable, Token::StreamWorker(index).into())?;
    let name = CString::new(format!("pass-{index}")).unwrap_or_default();
    let batch = match shared.services[service].datagram_mode {
        DatagramMode::PerPeer => BATCH,
        _ => 1,
    };
    // Here, where it can be refused: the thread's own.
    let received = Received::new(batch);
    Thread::start(name, 128 * 1024, move || {
        report::register_thread();
        let served = &shared.services[service];
        let Some(policy) = &served.policy else {
            return;
        };
        let passer = DatagramWorker {
            index,
            poller,
            service,
            served,
            policy,
            rules: served.rules.as_ref().map(RulesHandle::reader),
            reject_log: RejectLog::new(),
            drops: Drops::new(served.id),
            environment: served.plan.environment(),
            spawner,
            slot: None,
            entry: false,
            watched: false,
            closed_by_rate: false,
            full: false,
            ready: vec![false; served.datagrams.len()],
            useless: vec![false; served.datagrams.len()],
            received,
            exchanges: match served.datagram_mode {
                DatagramMode::PerPeer => Exchanges::Peers(Peers::new(served.peer_idle)),
                _ => Exchanges::Packets(Packets::new()),
            },
            shared: &shared,
        };
        passer.run();
    })
}

struct DatagramWorker<'a> {
    index: usize,
    shared: &'a Shared,
    poller: Poller,
    service: usize,
    served: &'a Service,
    policy: &'a Policy,
    rules: Option<RulesReader>,
    reject_log: RejectLog,
    drops: Drops,
    environment: Environment,
    spawner: Spawner,
    /// The place for the next datagram, where none is received without. Not kept while waiting.
    slot: Option<Slot>,
    /// Whether the table has room for the next handler.
    entry: bool,
    /// Whether the listeners are in the thread's set.
    watched: bool,
    /// Whether it is the rate that keeps datagrams in the sockets.
    closed_by_rate: bool,
    /// Whether the network had no room for an answer, though it was waited for, and has taken none
    /// since: then it isn't waited for again, or a thousand answers would take as many waits.
    full: bool,
    /// For each listener, whether a datagram may wait; and whether none ever will again.
    ready: Vec<bool>,
    useless: Vec<bool>,
    received: Received,
    exchanges: Exchanges,
}

/// What is kept for the handlers that have, or may have, an end of a pair.
enum Exchanges {
    Packets(Packets),
    Peers(Peers),
}

impl Exchanges {
    fn len(&self) -> usize {
        match self {
            Self::Packets(packets) => packets.len(),
            Self::Peers(peers) => peers.len(),
        }
    }
}

/// All that a handler's sender was given.
struct Admitted {
    slot: Slot,
    source_slot: Option<SourceSlot>,
    rule: Option<Arc<Ready>>,
}

/// What became of an attempt to serve a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Something was received; there may be more.
    Served,
    /// Nothing waits.
    Drained,
    /// Nothing is to be received now.
    Closed,
    /// Something is short; not before [`PAUSE`] again.
    Short,
}

impl<'a> DatagramWorker<'a> {
    fn run(mut self) {
        while self.shared.is_in(Phase::Starting) {
            self.look(Some(PAUSE));
        }
        self.enter_exchanges();
        let mut row = 0;
        while self.shared.is_in(Phase::Serving) || self.shared.is_in(Phase::Parked) {
            if self.shared.is_in(Phase::Parked) {
                self.rest();
                continue;
            }
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
        self.say_what_was_counted(true);
        self.shared.handlers.main.wake();
    }

    /// What a drain leaves to do: to serve those who have come, and to pass what handlers and
    /// their senders have to say, until the last of them has ended.
    fn serve_last(&mut self) {
        if let Exchanges::Packets(_) = self.exchanges {
            self.ready.fill(true);
            while self.shared.is_in(Phase::Closing) && self.serve_ready() > 0 {
                self.look(Some(Duration::ZERO));
            }
            self.unwatch();
            // No token is waited for any more.
            self.closed_by_rate = false;
        }
        self.slot = None;
        self.shared.ended.fetch_add(1, Ordering::SeqCst);
        self.shared.handlers.main.wake();
        while self.shared.drains.load(Ordering::SeqCst) && self.exchanges.len() > 0 {
            if let Exchanges::Peers(_) = self.exchanges {
                if self.serve_ready() > 0 {
                    self.look(Some(Duration::ZERO));
                    continue;
                }
                self.watch();
            }
            self.look(self.time_left());
        }
    }

    /// Does nothing, not even reap, until the phase changes.
    fn rest(&mut self) {
        self.slot = None;
        self.leave_exchanges();
        self.say_what_was_counted(true);
        self.shared.parked.fetch_add(1, Ordering::SeqCst);
        let waker = &self.shared.wakers[self.index];
        while self.shared.is_in(Phase::Parked) {
            wait_readable([waker.as_fd()], None);
            waker.clear();
            self.shared.answer(self.index);
        }
        self.shared.parked.fetch_sub(1, Ordering::SeqCst);
        self.enter_exchanges();
    }

    fn stopping(&self) -> bool {
        self.shared.is_in(Phase::Stopping)
    }

    /// Whether handlers may be made for new senders.
    fn takes_new(&self) -> bool {
        !self.shared.drains.load(Ordering::SeqCst)
    }

    /// Serves each listener that may have something once, in turn; says how often there was.
    fn serve_ready(&mut self) -> usize {
        let mut served = 0;
        let mut short = false;
        for listener in 0..self.ready.len() {
            if !self.ready[listener] {
                continue;
            }
            let attempt = match self.exchanges {
                Exchanges::Packets(_) => self.serve_packet(listener),
                Exchanges::Peers(_) => self.serve_peers(listener),
            };
            match attempt {
                Attempt::Served => served += 1,
                Attempt::Drained => self.ready[listener] = false,
                Attempt::Closed => break,
                Attempt::Short => short = true,
            }
        }
        if short {
            self.pause();
            served = served.max(1);
        }
        served
    }

    /// Receives what waits at a listener, as much as there is room for.
    fn receive(&mut self, listener: usize) -> Result<usize, Attempt> {
        let socket = &self.served.datagrams[listener];
        let internet = matches!(socket.bound_address(), net::BoundAddress::Inet(_));
        match self.received.receive(socket, internet) {
            Ok(0) => {
                if is_shut_down(socket) {
                    self.useless[listener] = true;
                    let _ = self.poller.remove(socket);
                    self.not_received(listener, ReceiveFault::ShutDown);
                }
                Err(Attempt::Drained)
            }
            Ok(count) => Ok(count),
            Err(errno) => {
                self.not_received(listener, ReceiveFault::Errno(errno));
                Err(Attempt::Short)
            }
        }
    }

    fn not_received(&self, listener: usize, fault: ReceiveFault) {
        report::event(Event::Trouble(Trouble::NotReceived {
            service: self.served.id,
            listener: self.served.datagrams[listener].listener_name(),
            fault,
        }));
    }

    /// Asks whether a handler may be made for this sender, and gets all that one takes.
    /// `taken` says when a token was, if one was already.
    fn admit(&mut self, peer: &Peer, taken: Option<u64>) -> Option<Admitted> {
        let policy = self.policy;
        let clock = self.shared.clock;
        let now = clock.read(Instant::now());
        let source = policy.source(peer);
        let give_back = |taken: Option<u64>| {
            if let (Some(taken), Some(bucket)) = (taken, &policy.bucket) {
                bucket.give_back(taken, now);
            }
        };
        let port = peer.address().map(|address| address.port());
        if let Some(port) = port.filter(|port| *port < self.served.min_source_port) {
            give_back(taken);
            return self.refuse(peer, source, now, Reason::SourcePort(port));
        }
        let mut rule = None;
        if let (Some(rules), Some(book)) = (&mut self.rules, &self.served.rules) {
            let decision = rules.current(book).decide(peer.into());
            let found = decision.rule.cloned();
            if !decision.allow {
                give_back(taken);
                let reason = match found.as_deref() {
                    Some(ready) => Reason::Rule(&ready.rule.location),
                    None => Reason::NoRule,
                };
                return self.refuse(peer, source, now, reason);
            }
            rule = found.filter(|rule| rule.has_terms());
        }
        let limits = match rule.as_deref() {
            Some(Ready { rule, .. }) => SourceLimits {
                max: rule.max.or(policy.limits.max),
                rate: rule.rate.or(policy.limits.rate),
            },
            None => policy.limits,
        };
        let mut source_slot = None;
        if let Some(sources) = &policy.sources
            && limits != SourceLimits::default()
        {
            match sources.admit(source, limits, now) {
                Ok(found) => source_slot = Some(found),
                Err(over) => {
                    give_back(taken);
                    let reason = match over {
                        Over::Max => {
                            let max = limits.max.map_or(0, |max| max.get());
                            Reason::SourceMax(source, max)
                        }
                        Over::Rate(_) => Reason::SourceRate(source),
                    };
                    return self.refuse(peer, source, now, reason);
                }
            }
        }
        let reason = match (taken, &policy.bucket) {
            (None, Some(bucket)) if bucket.take(now).is_err() => Some(Reason::Rate),
            _ => {
                let slots = &self.served.slots;
                self.slot = self.slot.take().or_else(|| slots.take_now());
                let limit = slots.limit().unwrap_or_default();
                let none = self.slot.is_none();
                if none {
                    give_back(taken.or(policy.bucket.as_ref().map(|_| now)));
                }
                none.then_some(Reason::Max(limit))
            }
        };
        if let Some(reason) = reason {
            if let Some(source_slot) = source_slot {
                source_slot.undo(limits, now, now);
            }
            return self.refuse(peer, source, now, reason);
        }
        let slot = self.slot.take()?;
        Some(Admitted {
            slot,
            source_slot,
            rule,
        })
    }

    fn refuse<T>(
        &mut self,
        peer: &Peer,
        source: Source,
        now: u64,
        reason: Reason<'_>,
    ) -> Option<T> {
        let event = Event::Rejected(self.served.id, peer, reason);
        report::event_if(event, || self.reject_log.note(source, now) == Say::Line);
        None
    }

    /// Has room for the next handler in the table, before anything is received for it.
    fn make_room(&mut self) -> bool {
        if !self.entry {
            match self.shared.handlers.table.reserve(self.index, 1) {
                Ok(()) => self.entry = true,
                Err(error) => {
                    let trouble = Trouble::NoMemory(self.served.id, &error);
                    report::event(Event::Trouble(trouble));
                }
            }
        }
        self.entry
    }

    /// Starts a handler on this end of a pair. `patient` says whether a shortage is waited out,
    /// while other exchanges go on; says whether there is a handler.
    fn start(
        &mut self,
        listener: usize,
        theirs: OwnedFd,
        peer: Peer,
        admitted: Admitted,
        patient: bool,
    ) -> bool {
        let Admitted {
            slot,
            source_slot,
            rule,
        } = admitted;
        report::event(Event::Accepted(self.served.id, &peer));
        while let Err(errno) = self.spawner.hold(&theirs) {
            let trouble = Trouble::DatagramNotHeld(self.served.id, errno);
            report::event(Event::Trouble(trouble));
            if !patient || self.stopping() {
                return false;
            }
            self.pause();
        }
        drop(theirs);
        self.environment.clear();
        let changed = rule.as_ref().and_then(|rule| rule.variables.as_ref());
        let common = changed.unwrap_or(self.served.plan.variables());
        self.environment.rebase(common);
        for variable in self.served.datagrams[listener].variables(&peer) {
            self.environment.line(variable);
        }
        let environment = &mut self.environment;
        peer.variables(|name, value| environment.set(name, value));
        let spawned = self.spawn(patient);
        self.spawner.release();
        let Some((Spawned { pid, pidfd }, birth)) = spawned else {
            return false;
        };
        report::event(Event::HandlerStarted(self.served.id, pid.as_raw()));
        let started = Instant::now();
        let handler = Handler {
            service: self.served.id,
            pid,
            pidfd,
            work: Work::Datagrams(slot.in_use()),
            source_slot,
            peer,
            started,
            kept: None,
        };
        let timeouts = self.shared.handlers.timeouts[self.service].as_ref();
        let watch = timeouts.map(|timeouts| timeouts.watch(started, None));
        self.entry = self.shared.handlers.enter(self.index, handler, watch);
        drop(birth);
        self.served.report_slots();
        true
    }

    fn spawn(&mut self, patient: bool) -> Option<(Spawned, Birth<'a>)> {
        let plan = &self.served.plan;
        let shared: &'a Shared = self.shared;
        loop {
            let birth = shared.handlers.births[self.index].begin();
            let why = match self.spawner.spawn(plan, None, &mut self.environment) {
                Ok(spawned) => return Some((spawned, birth)),
                Err(why) => why,
            };
            drop(birth);
            let trouble = Trouble::Spawn(self.served.id, why.explain(plan));
            report::event(Event::Trouble(trouble));
            if matches!(why, SpawnError::Failed(..)) || !patient || self.stopping() {
                return None;
            }
            self.pause();
        }
    }

    /// Whether datagrams are to be received now. If not, this thread is woken, or has something
    /// due, when it is worth asking again.
    fn is_open(&mut self) -> bool {
        if let Exchanges::Peers(_) = self.exchanges {
            // Those of senders who have a handler mustn't wait for anybody.
            return true;
        }
        let slots = &self.served.slots;
        let waits = matches!(self.policy.asked.at_max(), AtLimit::Queue(_));
        if waits && !slots.may_take(self.index) {
            if report::full_is_due(self.served.id) && self.served.datagrams.iter().any(is_readable)
            {
                let limit = slots.limit().unwrap_or_default();
                report::event(Event::Full(self.served.id, limit));
            }
            return false;
        }
        self.closed_by_rate = self.policy.gate().is_some_and(|bucket| {
            let now = self.shared.clock.read(Instant::now());
            bucket.next(now) > now
        });
        !self.closed_by_rate
    }

    fn wait(&mut self) {
        let released = self.spawner.release();
        self.slot = None;
        if !self.is_open() {
            self.unwatch();
        } else if !self.watch() {
            return self.pause();
        }
        let limit = (!released).then_some(PAUSE);
        self.look(limit.into_iter().chain(self.time_left()).min());
    }

    /// How long to wait at most, for the sake of what is due.
    fn time_left(&self) -> Option<Duration> {
        let clock = self.shared.clock;
        let gate = self.policy.gate().filter(|_| self.closed_by_rate);
        let token = gate.map(|bucket| clock.instant(bucket.next(clock.read(Instant::now()))));
        let reject_log = self.reject_log.due().map(|due| clock.instant(due));
        let idle = match &self.exchanges {
            Exchanges::Peers(peers) => peers.due(),
            Exchanges::Packets(_) => None,
        };
        let due = [token, reject_log, self.drops.due(), idle];
        let due = due.into_iter().flatten().min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Lets time pass before the next try. Exchanges go on meanwhile.
    fn pause(&mut self) {
        self.unwatch();
        self.look(Some(PAUSE));
    }

    /// Acts on what has happened; waits for it, at most so long.
    fn look(&mut self, limit: Option<Duration>) {
        let shared: &'a Shared = self.shared;
        let leaving = &shared.handlers.lingering;
        let left = leaving.due(self.index);
        let left = left.map(|due| due.saturating_duration_since(Instant::now()));
        let limit = limit.into_iter().chain(left).min();
        let limit = shared.handlers.until_due(self.index, limit);
        let mut room = no_events();
        let Ok(events) = self.poller.wait(&mut room, limit) else {
            thread::sleep(PAUSE);
            return;
        };
        for event in events {
            match Token::from(event) {
                Token::Listener { listener, .. } => self.ready[listener] = true,
                Token::StreamWorker(_) => self.see_ends(),
                Token::Exchange(index) => match self.exchanges {
                    Exchanges::Packets(_) => self.hear_packet(index),
                    Exchanges::Peers(_) => self.hear_peer(index),
                },
                _ => {}
            }
        }
        // After the ends: who has ended isn't late.
        shared.handlers.look_at_timeouts(self.index);
        leaving.on_time(self.index, &shared.handlers.pollers[self.index]);
        if let Exchanges::Peers(_) = self.exchanges {
            self.end_idle();
        }
        self.say_what_was_counted(false);
    }

    /// Acts on what the main thread would see too.
    fn see_ends(&mut self) {
        let shared: &'a Shared = self.shared;
        let poller = &shared.handlers.pollers[self.index];
        let mut room = no_events();
        let Ok(events) = poller.wait(&mut room, Some(Duration::ZERO)) else {
            return;
        };
        for event in events {
            match Token::from(event) {
                Token::Handler { thread, index } => {
                    reap::reap(&shared.handlers, self.index, (thread, index), None);
                }
                Token::Lingering(index) => {
                    shared.handlers.lingering.hear(self.index, poller, index)
                }
                Token::Waker => {
                    shared.wakers[self.index].clear();
                    shared.answer(self.index);
                    if let (Some(rules), Some(book)) = (&mut self.rules, &self.served.rules) {
                        rules.refresh(book);
                    }
                }
                _ => {}
            }
        }
    }

    /// Has the listeners in the set; says whether that could be done.
    fn watch(&mut self) -> bool {
        if self.watched {
            return true;
        }
        self.watched = true;
        // Of several threads one is woken.
        for (listener, socket) in self.served.datagrams.iter().enumerate() {
            if self.useless[listener] {
                continue;
            }
            let service = self.service;
            let key = Token::Listener { service, listener };
            let watched = self.poller.add(socket, Interest::ReadableOne, key.into());
            if let Err(errno) = watched {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: Some(self.served.id),
                    what: Watched::Listener,
                    errno,
                }));
                self.ready.fill(true);
                self.unwatch();
                return false;
            }
        }
        true
    }

    fn unwatch(&mut self) {
        if std::mem::replace(&mut self.watched, false) {
            for socket in &self.served.datagrams {
                // Fails only for one that isn't there.
                let _ = self.poller.remove(socket);
            }
        }
    }

    /// Sends an answer along the way that a datagram came. One that the socket has no room for is
    /// lost, as on the network: nobody else's is to wait for it.
    fn answer(&mut self, listener: usize, route: &Route, payload: &[u8]) {
        if !route.leads_back() {
            return self.drops.note(Why::NoAddress);
        }
        let socket = &self.served.datagrams[listener];
        let mut sent = datagrams::send(socket, payload, route);
        // One of UDP is emptied by the network card, which waits for nobody; but whether a unix
        // socket takes more is its owner's business.
        let waits = route.sender().is_some();
        if sent == Err(Errno::EAGAIN) && waits && self.has_room(listener) {
            let socket = &self.served.datagrams[listener];
            sent = datagrams::send(socket, payload, route);
        }
        match sent {
            Ok(()) => self.full = false,
            Err(errno) => self.not_sent(listener, route, errno),
        }
    }

    /// Waits a moment for a listener to have room for an answer; says whether it has.
    fn has_room(&mut self, listener: usize) -> bool {
        self.full = self.full || !wait_writable(self.served.datagrams[listener].as_fd(), FULL);
        !self.full
    }

    fn not_sent(&mut self, listener: usize, route: &Route, errno: Errno) {
        self.drops.note(Why::NotSent);
        if errno != Errno::EAGAIN {
            let listener = &self.served.datagrams[listener];
            let peer = Peer::datagram(route.sender(), None);
            report::event(Event::Trouble(Trouble::AnswerNotSent {
                service: self.served.id,
                peer: &peer,
                listener: listener.listener_name(),
                errno,
            }));
        }
    }

    /// Says once a second what was counted; or at once, since there will be no later.
    fn say_what_was_counted(&mut self, now: bool) {
        self.drops.flush(now);
        if now {
            self.reject_log.cut_short();
        }
        if self.reject_log.due().is_some() {
            let time = self.shared.clock.read(Instant::now());
            self.reject_log.flush(time, |source, count| {
                let id = self.served.id;
                report::event(Event::RejectedDatagrams(id, count, source));
            });
        }
    }

    /// Another exchange is there, or one less.
    fn count_exchange(&self, more: bool) {
        let open = &self.shared.exchanges;
        if more {
            open.fetch_add(1, Ordering::SeqCst);
        } else if open.fetch_sub(1, Ordering::SeqCst) == 1
            && self.shared.drains.load(Ordering::SeqCst)
        {
            self.shared.handlers.main.wake();
        }
    }
}
