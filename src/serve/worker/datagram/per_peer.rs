//! A handler for each sender. Each read from 0 gives one of its datagrams, and each write to 1 is
//! sent back as one.
//!
//! 0 and 1 are one end of a pair of unix seqpacket sockets. The kernel bounds what waits to be read
//! there (`net.core.wmem_default`), so skd keeps no datagrams of its own: what doesn't fit is
//! dropped.

use std::collections::{HashMap, TryReserveError};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, shutdown, socketpair,
};

use super::datagram_intake::{Datagram, Mode};
use super::ours::Ours;
use super::parked_exchange::ParkedExchange;
use super::per_packet::KEPT;
use crate::config::{Peer, ServiceId};
use crate::report::{self, DropReason, Event, Trouble, Watched};
use crate::serve::handlers::start::{GiveUp, NewHandler};
use crate::serve::handlers::{Slab, Timers};
use crate::serve::service::Service;
use crate::serve::worker::intake::{Attempt, HandlerStarter};
use crate::sys::datagrams::{BATCH, LONGEST, Received, Route};
use crate::sys::events::Interest;
use crate::sys::sockets::{is_shut_down, unread};

/// The exchanges with senders.
#[derive(Debug)]
pub(super) struct Peers {
    open: Slab<Exchange>,
    /// The exchanges whose senders aren't silent.
    known: HashMap<With, usize>,
    /// When a sender may have been silent for too long.
    timers: Timers<()>,
    idle: Duration,
    /// What a handler has written.
    answers: Received,
}

/// A sender, the address that it sent to, and the listener: a client that sends to two addresses of
/// this machine has two handlers, and each answers from its own.
type With = (SocketAddr, Option<SocketAddr>, usize);

/// skd's end of a pair of sockets. The other is a handler's, or of whatever it has left it to.
#[derive(Debug)]
struct Exchange {
    socket: Ours,
    with: With,
    route: Route,
    /// When the last datagram arrived.
    last: Instant,
}

impl Peers {
    /// Reserves memory for one more exchange.
    fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.open.reserve(1)?;
        self.known.try_reserve(1)?;
        self.timers.reserve(self.open.capacity())
    }

    /// Gives back what a flood of senders has taken, when the last of them has gone.
    fn give_back(&mut self) {
        if self.open.len() == 0 && self.open.capacity() > KEPT {
            self.open = Slab::default();
            self.known = HashMap::new();
            self.timers = Timers::default();
        }
    }

    /// Passes a datagram to a handler. Returns whether the handler still reads.
    fn deliver(&mut self, index: usize, payload: &[u8], now: Instant) -> Result<bool, DropReason> {
        let Some(exchange) = self.open.get_mut(index) else {
            return Ok(false);
        };
        exchange.last = now;
        match put(&exchange.socket, payload) {
            Ok(()) => Ok(true),
            Err(Errno::EPIPE | Errno::ECONNRESET) => {
                // Its answers are still sent, but a new handler gets what arrives from now on.
                self.known.remove(&exchange.with);
                Ok(false)
            }
            Err(_) => Err(DropReason::Overflow),
        }
    }
}

fn put(socket: impl AsFd, payload: &[u8]) -> Result<(), Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let socket = socket.as_fd().as_raw_fd();
    match send(socket, payload, flags) {
        // Returned once, if the other end was closed with unread datagrams.
        Err(Errno::ECONNRESET) => send(socket, payload, flags).map(drop),
        sent => sent.map(drop),
    }
}

impl Mode for Peers {
    const BATCH: usize = BATCH;
    // Datagrams of senders that have a handler wait for nothing.
    const GATED: bool = false;

    fn new(service: &Service) -> Self {
        Self {
            open: Slab::default(),
            known: HashMap::new(),
            timers: Timers::default(),
            idle: service.peer_idle,
            answers: Received::new(BATCH),
        }
    }

    fn len(&self) -> usize {
        self.open.len()
    }

    fn due(&self) -> Option<Instant> {
        self.timers.next().map(|(due, _)| due)
    }

    fn serve<'a>(
        intake: &mut Datagram<'a, Self>,
        listener: usize,
        starter: &mut HandlerStarter<'a>,
    ) -> Attempt {
        let count = match intake.receive(listener) {
            Ok(count) => count,
            Err(attempt) => return attempt,
        };
        let now = Instant::now();
        for index in 0..count {
            if let Err(reason) = deliver(intake, listener, index, now, starter) {
                intake.drop_datagram(listener, reason);
            }
        }
        Attempt::Served
    }

    /// Sends what a handler has written. If it has ended, that is all.
    fn on_exchange(intake: &mut Datagram<'_, Self>, index: usize) {
        let Self { open, answers, .. } = &mut intake.mode;
        let Some(exchange) = open.get_mut(index) else {
            return;
        };
        let (batch, received) = match exchange.socket.is_guarded() {
            false => (BATCH, answers.receive(&exchange.socket, false)),
            true => (1, answers.receive_bytes(&exchange.socket)),
        };
        let count = match received {
            Ok(count) => count,
            // The handler has ended with unread datagrams. That is returned before what it had
            // written.
            Err(Errno::ECONNRESET) => return,
            Err(_) => return close(intake, index),
        };
        let length = |index| Some(answers.get(index)?.1?.len());
        // The end reads as empty messages, as many as fit. So do answers without bytes, which others
        // may follow.
        let last = (0..count).rfind(|index| length(*index) != Some(0));
        let written = last.map_or(0, |last| last + 1);
        let ended = count == batch
            && written < count
            && is_shut_down(&exchange.socket)
            && unread(&exchange.socket) == 0;
        let count = if ended { written } else { count };
        let (route, listener) = (exchange.route, exchange.with.2);
        send_answers(intake, listener, &route, count);
        if ended {
            close(intake, index);
        }
    }

    /// Has the handlers of senders that have been silent for too long read the end. What they still
    /// write is sent.
    fn on_time(intake: &mut Datagram<'_, Self>) {
        let peers = &mut intake.mode;
        while let Some((due, index)) = peers.timers.next() {
            let now = Instant::now();
            let Some(exchange) = peers.open.get_mut(index) else {
                peers.timers.remove(index);
                continue;
            };
            if now < due {
                return;
            }
            let due = exchange.last + peers.idle;
            if now < due {
                peers.timers.postpone(index, due);
                continue;
            }
            peers.timers.remove(index);
            if peers.known.get(&exchange.with) == Some(&index) {
                peers.known.remove(&exchange.with);
            }
            let _ = shutdown(exchange.socket.as_fd().as_raw_fd(), Shutdown::Write);
        }
    }

    fn park(&mut self, service: ServiceId) -> Vec<ParkedExchange> {
        let now = Instant::now();
        let known = std::mem::take(&mut self.known);
        self.timers = Timers::default();
        let parked = self.open.take().map(|(index, exchange)| ParkedExchange {
            service,
            silent: (known.get(&exchange.with) == Some(&index))
                .then(|| now.saturating_duration_since(exchange.last)),
            socket: exchange.socket.into_inner(),
            listener: exchange.with.2,
            route: exchange.route,
            answer: Vec::new(),
            too_long: false,
        });
        parked.collect()
    }

    fn unpark(intake: &mut Datagram<'_, Self>, parked: ParkedExchange) {
        let peers = &mut intake.mode;
        let sender = parked.route.sender();
        let Some(sender) = sender.filter(|_| peers.reserve().is_ok()) else {
            return;
        };
        let now = Instant::now();
        let silent = parked.silent.unwrap_or_default();
        let exchange = Exchange {
            socket: Ours::restored(parked.socket),
            with: (sender, parked.route.local(), parked.listener),
            route: parked.route,
            last: now.checked_sub(silent).unwrap_or(now),
        };
        open(intake, exchange, parked.silent.is_some());
    }
}

/// Delivers a received datagram, to a new handler if its sender has none.
fn deliver<'a>(
    intake: &mut Datagram<'a, Peers>,
    listener: usize,
    index: usize,
    now: Instant,
    starter: &mut HandlerStarter<'a>,
) -> Result<(), DropReason> {
    let Some((route, payload)) = intake.received.get(index) else {
        return Ok(());
    };
    let (Some(payload), Some(sender)) = (payload, route.sender()) else {
        return Err(DropReason::TooLong);
    };
    if payload.is_empty() {
        return Err(DropReason::Empty);
    }
    if intake.own_senders.has_sent(route) {
        return Err(DropReason::Own);
    }
    let with = (sender, route.local(), listener);
    let peers = &mut intake.mode;
    let delivered = match peers.known.get(&with).copied() {
        Some(known) => peers.deliver(known, payload, now)?,
        None => false,
    };
    if delivered {
        return Ok(());
    }
    if intake.takes_new(listener) {
        start(intake, with, index, now, starter)
    } else {
        Err(intake.why_none())
    }
}

/// Starts a handler for a sender, with a received datagram.
fn start<'a>(
    intake: &mut Datagram<'a, Peers>,
    with: With,
    index: usize,
    now: Instant,
    starter: &mut HandlerStarter<'a>,
) -> Result<(), DropReason> {
    if intake.mode.reserve().is_err() || !starter.reserve(intake.service.id) {
        return Err(DropReason::Short);
    }
    let Some((route, _)) = intake.received.get(index) else {
        return Ok(());
    };
    let route = *route;
    let peer = Peer::datagram(route.sender(), route.local());
    // Before anything is made: a flood that is rejected costs no more than that.
    let Some(admitted) = intake.admit(with.2, peer, None) else {
        return Ok(());
    };
    let Some((_, Some(payload))) = intake.received.get(index) else {
        return Ok(());
    };
    let pair = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    );
    let filled = pair.and_then(|(ours, theirs)| {
        put(&ours, payload)?;
        Ok((Ours::new(ours), theirs))
    });
    let (socket, theirs) = filled.map_err(|errno| {
        report::event(Event::Trouble(Trouble::NoSocketpair {
            service: intake.service.id,
            errno,
            again: false,
        }));
        DropReason::Short
    })?;
    let service = intake.service;
    let listener = &service.datagrams[with.2];
    let new = NewHandler::for_datagrams(service, (listener, now), theirs, peer, admitted);
    // No other sender waits until a shortage is over.
    if !starter.start(new, &mut GiveUp) {
        return Err(DropReason::Short);
    }
    let exchange = Exchange {
        socket,
        with,
        route,
        last: now,
    };
    open(intake, exchange, true);
    Ok(())
}

/// Waits for what a handler writes. There is memory for the entry. `known` is set if datagrams
/// of the sender are for this handler.
fn open(intake: &mut Datagram<'_, Peers>, exchange: Exchange, known: bool) {
    intake.count_opened();
    let peers = &mut intake.mode;
    let (with, last) = (exchange.with, exchange.last);
    let index = peers.open.insert(exchange);
    if known {
        peers.known.insert(with, index);
        peers.timers.insert(index, last + peers.idle, ());
    }
    let token = intake.token(index);
    let Some(exchange) = intake.mode.open.get_mut(index) else {
        return;
    };
    let watched = intake
        .poller
        .add(&exchange.socket, Interest::Readable, token);
    if let Err(errno) = watched {
        report::event(Event::Trouble(Trouble::NotWatched {
            service: Some(intake.service.id),
            what: Watched::Output,
            errno,
        }));
        close(intake, index);
    }
}

/// Sends so many answers of a handler.
fn send_answers(intake: &mut Datagram<'_, Peers>, listener: usize, route: &Route, count: usize) {
    let socket = &intake.service.datagrams[listener];
    let mut first = 0;
    while first < count {
        let fits = |index: &usize| {
            let found = intake.mode.answers.get(*index);
            let payload = found.and_then(|(_, payload)| payload);
            payload.is_some_and(|payload| payload.len() <= LONGEST)
        };
        let batch = (first..count).take_while(fits).count();
        if batch == 0 {
            let peer = Peer::datagram(route.sender(), None);
            report::event(Event::Trouble(Trouble::OneAnswerTooLong {
                service: intake.service.id,
                peer: &peer,
                longest: LONGEST,
            }));
            first += 1;
            continue;
        }
        let mut sent = intake.mode.answers.send(socket, first, batch, route);
        // The socket is emptied by the network card, which waits for nothing.
        if sent == Err(Errno::EAGAIN) && intake.becomes_writable(listener) {
            sent = intake.mode.answers.send(socket, first, batch, route);
        }
        match sent {
            Ok(count) => {
                intake.full = false;
                report::event(Event::DatagramsSent(socket.id(), count as u64));
                first += count.max(1);
            }
            Err(errno) => {
                intake.not_sent(listener, route, errno);
                first += 1;
            }
        }
    }
}

fn close(intake: &mut Datagram<'_, Peers>, index: usize) {
    let peers = &mut intake.mode;
    let Some(exchange) = peers.open.remove(index) else {
        return;
    };
    peers.timers.remove(index);
    // Unless another handler serves the sender by now.
    if peers.known.get(&exchange.with) == Some(&index) {
        peers.known.remove(&exchange.with);
    }
    let _ = intake.poller.remove(&exchange.socket);
    drop(exchange);
    intake.mode.give_back();
    intake.count_closed();
}
