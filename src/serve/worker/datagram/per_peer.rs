//! A handler for each sender: each read from 0 gives one of its datagrams, each write to 1 goes
//! back as one.
//!
//! 0 and 1 are one end of a pair of unix seqpacket sockets. What waits to be read there is bounded
//! by the kernel (`net.core.wmem_default`), so skd keeps no datagrams of its own: what doesn't fit
//! is dropped.

use std::collections::{HashMap, TryReserveError};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, shutdown, socketpair,
};

use super::{Attempt, DatagramWorker, Exchanges, ParkedExchange, Why};
use crate::net::Peer;
use crate::report::{self, Event, Trouble, Watched};
use crate::serve::handlers::slab::Slab;
use crate::serve::handlers::timers::Timers;
use crate::serve::handlers::token::Token;
use crate::sys::datagrams::{BATCH, LONGEST, Received, Route};
use crate::sys::events::Interest;
use crate::sys::sockets::is_shut_down;

/// What is kept for handlers of senders.
#[derive(Debug)]
pub(in crate::serve) struct Peers {
    open: Slab<Exchange>,
    /// Those whose sender isn't silent, by whom they are with.
    known: HashMap<With, usize>,
    /// When their sender may have been silent for too long.
    timers: Timers<()>,
    idle: Duration,
    /// What a handler has written.
    answers: Received,
}

/// A sender, what it wrote to, and on which listener: a client that writes to two addresses of this
/// machine has two handlers, for each answers from one.
type With = (SocketAddr, Option<SocketAddr>, usize);

/// A handler, or whoever else has its end of the pair.
#[derive(Debug)]
struct Exchange {
    socket: OwnedFd,
    with: With,
    route: Route,
    /// When the last datagram came.
    last: Instant,
}

impl Peers {
    pub(in crate::serve) fn new(idle: Duration) -> Self {
        Self {
            open: Slab::new(),
            known: HashMap::new(),
            timers: Timers::default(),
            idle,
            answers: Received::new(BATCH),
        }
    }

    pub(in crate::serve) fn len(&self) -> usize {
        self.open.len()
    }

    /// When to see whether somebody has been silent for too long.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.timers.next().map(|(due, _)| due)
    }

    /// Makes room for one more.
    fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.open.reserve()?;
        self.known.try_reserve(1)?;
        self.timers.reserve(self.open.capacity())
    }

    pub(in crate::serve) fn leave(&mut self, service: usize, now: Instant) -> Vec<ParkedExchange> {
        let known = std::mem::take(&mut self.known);
        self.timers = Timers::default();
        let left = self.open.take().map(|(index, exchange)| ParkedExchange {
            service,
            silent: (known.get(&exchange.with) == Some(&index))
                .then(|| now.saturating_duration_since(exchange.last)),
            socket: exchange.socket,
            listener: exchange.with.2,
            route: exchange.route,
            answer: Vec::new(),
            too_long: false,
        });
        left.collect()
    }

    /// Gives a handler a datagram; `false` if it has ended.
    fn deliver(&mut self, index: usize, payload: &[u8], now: Instant) -> Result<bool, Why> {
        let Some(exchange) = self.open.get_mut(index) else {
            return Ok(false);
        };
        exchange.last = now;
        match put(&exchange.socket, payload) {
            Ok(()) => Ok(true),
            Err(Errno::EPIPE | Errno::ECONNRESET) => {
                // It is heard to its end, but a new one is there for what comes from now on.
                self.known.remove(&exchange.with);
                Ok(false)
            }
            Err(_) => Err(Why::Overflow),
        }
    }
}

fn put(socket: &OwnedFd, payload: &[u8]) -> Result<(), Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(socket.as_raw_fd(), payload, flags) {
        // What its end was closed before without being read, said once.
        Err(Errno::ECONNRESET) => send(socket.as_raw_fd(), payload, flags).map(drop),
        sent => sent.map(drop),
    }
}

impl DatagramWorker<'_> {
    /// Passes on what waits at a listener.
    pub(in crate::serve) fn serve_peers(&mut self, listener: usize) -> Attempt {
        let count = match self.receive(listener) {
            Ok(count) => count,
            Err(attempt) => return attempt,
        };
        let now = Instant::now();
        for index in 0..count {
            if let Err(why) = self.pass_on(listener, index, now) {
                self.drops.note(why);
            }
        }
        Attempt::Served
    }

    /// Passes on one of those received, to a new handler if there is none.
    fn pass_on(&mut self, listener: usize, index: usize, now: Instant) -> Result<(), Why> {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return Ok(());
        };
        let Some((route, payload)) = self.received.get(index) else {
            return Ok(());
        };
        let (Some(payload), Some(sender)) = (payload, route.sender()) else {
            return Err(Why::TooLong);
        };
        if payload.is_empty() {
            return Err(Why::Empty);
        }
        let with = (sender, route.local(), listener);
        if let Some(known) = peers.known.get(&with).copied()
            && peers.deliver(known, payload, now)?
        {
            return Ok(());
        }
        if self.takes_new() {
            self.begin(with, index, now)
        } else {
            Err(Why::Closed)
        }
    }

    /// Starts a handler for a sender, with one of those received.
    fn begin(&mut self, with: With, index: usize, now: Instant) -> Result<(), Why> {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return Ok(());
        };
        if peers.reserve().is_err() || !self.make_room() {
            return Err(Why::Short);
        }
        let Some((route, _)) = self.received.get(index) else {
            return Ok(());
        };
        let route = *route;
        let peer = Peer::datagram(route.sender(), route.local());
        // Before anything is made: a flood that is refused costs no more than that.
        let Some(admitted) = self.admit(&peer, None) else {
            return Ok(());
        };
        let Some((_, Some(payload))) = self.received.get(index) else {
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
            Ok((ours, theirs))
        });
        let (socket, theirs) = filled.map_err(|errno| {
            report::event(Event::Trouble(Trouble::NoSocketpair {
                service: self.served.id,
                errno,
                again: false,
            }));
            Why::Short
        })?;
        // Nobody else is to wait until a shortage is over.
        if !self.start(with.2, theirs, peer, admitted, false) {
            return Err(Why::Short);
        }
        let exchange = Exchange {
            socket,
            with,
            route,
            last: now,
        };
        self.enter(exchange, true);
        Ok(())
    }

    /// Goes on with an exchange, for which there is room; `known` says whether it has a sender.
    fn enter(&mut self, exchange: Exchange, known: bool) {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return;
        };
        let (with, last) = (exchange.with, exchange.last);
        let index = peers.open.insert(exchange);
        if known {
            peers.known.insert(with, index);
            peers.timers.insert(index, last + peers.idle, ());
        }
        if let Some(exchange) = peers.open.get_mut(index) {
            let key = Token::Exchange(index).into();
            let watched = self.poller.add(&exchange.socket, Interest::Readable, key);
            self.count_exchange(true);
            if let Err(errno) = watched {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: Some(self.served.id),
                    what: Watched::Output,
                    errno,
                }));
                self.end_exchange(index);
            }
        }
    }

    /// Goes on with an exchange that was left.
    pub(in crate::serve) fn enter_peer(&mut self, left: ParkedExchange) {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return;
        };
        let Some(sender) = left.route.sender().filter(|_| peers.reserve().is_ok()) else {
            return;
        };
        let now = Instant::now();
        let silent = left.silent.unwrap_or_default();
        let exchange = Exchange {
            socket: left.socket,
            with: (sender, left.route.local(), left.listener),
            route: left.route,
            last: now.checked_sub(silent).unwrap_or(now),
        };
        self.enter(exchange, left.silent.is_some());
    }

    /// Sends what a handler has written; if it has ended, that is all.
    pub(in crate::serve) fn hear_peer(&mut self, index: usize) {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return;
        };
        let Some(exchange) = peers.open.get_mut(index) else {
            return;
        };
        let count = match peers.answers.receive(&exchange.socket, false) {
            Ok(count) => count,
            // It has ended without having read all, which is said before what it had written.
            Err(Errno::ECONNRESET) => return,
            Err(_) => return self.end_exchange(index),
        };
        let (route, listener) = (exchange.route, exchange.with.2);
        let length = |index| {
            peers
                .answers
                .get(index)
                .and_then(|(_, payload)| Some(payload?.len()))
        };
        // The end is an empty message over and over, as many as there is room for; so is an answer
        // without bytes, but once, and others may follow.
        let last = (0..count).rfind(|index| length(*index) != Some(0));
        let said = last.map_or(0, |last| last + 1);
        let ended = count == BATCH && said < count && is_shut_down(&exchange.socket);
        let said = if ended { said } else { count };
        let mut first = 0;
        while first < said {
            let Exchanges::Peers(peers) = &self.exchanges else {
                return;
            };
            let fits = |index: &usize| {
                let found = peers.answers.get(*index).and_then(|(_, payload)| payload);
                found.is_some_and(|payload| payload.len() <= LONGEST)
            };
            let row = (first..said).take_while(fits).count();
            if row == 0 {
                let peer = Peer::datagram(route.sender(), None);
                report::event(Event::Trouble(Trouble::OneAnswerTooLong {
                    service: self.served.id,
                    peer: &peer,
                    longest: LONGEST,
                }));
                first += 1;
                continue;
            }
            let socket = &self.served.datagrams[listener];
            let mut sent = peers.answers.send(socket, first, row, &route);
            // It is emptied by the network card, which waits for nobody.
            if sent == Err(Errno::EAGAIN) && self.has_room(listener) {
                let Exchanges::Peers(peers) = &self.exchanges else {
                    return;
                };
                sent = peers.answers.send(socket, first, row, &route);
            }
            match sent {
                Ok(count) => {
                    self.full = false;
                    first += count.max(1);
                }
                Err(errno) => {
                    self.not_sent(listener, &route, errno);
                    first += 1;
                }
            }
        }
        if ended {
            self.end_exchange(index);
        }
    }

    fn end_exchange(&mut self, index: usize) {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return;
        };
        let Some(exchange) = peers.open.remove(index) else {
            return;
        };
        peers.timers.remove(index);
        // Unless another is with the sender by now.
        if peers.known.get(&exchange.with) == Some(&index) {
            peers.known.remove(&exchange.with);
        }
        let _ = self.poller.remove(&exchange.socket);
        drop(exchange);
        self.count_exchange(false);
    }

    /// Has the handlers of those who have been silent for too long read the end. What they still
    /// write is sent.
    pub(in crate::serve) fn end_idle(&mut self) {
        let Exchanges::Peers(peers) = &mut self.exchanges else {
            return;
        };
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
            let _ = shutdown(exchange.socket.as_raw_fd(), Shutdown::Write);
        }
    }
}
