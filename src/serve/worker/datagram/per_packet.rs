//! A handler for each datagram: its payload on 0, then the end; what it writes to 1 goes back as
//! one datagram once nobody has that any more.
//!
//! Both are one end of a pair of unix stream sockets. Of a memory file and a pipe, the other
//! choice, each would take its own number in the child and its own calls; the pipe would hold less
//! than a datagram for a user who has many pipes (pipe(7), pipe-user-pages-soft); and this is what
//! handlers of connections have.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};

use super::{Attempt, DatagramWorker, Exchanges, ParkedExchange, Why};
use crate::config::AtLimit;
use crate::net::Peer;
use crate::report::{self, Event, Trouble, Watched};
use crate::serve::handlers::slab::Slab;
use crate::serve::handlers::token::Token;
use crate::sys::datagrams::{LONGEST, Route};
use crate::sys::events::Interest;

/// How often one handler's output is read before others are looked at.
const ROW: usize = 16;

/// What is kept for handlers of packets.
#[derive(Debug)]
pub(in crate::serve) struct Packets {
    open: Slab<Packet>,
    /// Room for an answer, and for a byte too many.
    room: Box<[u8]>,
    /// What handlers that write slowly have used before.
    spare: Vec<Vec<u8>>,
}

/// A datagram that may still be answered.
#[derive(Debug)]
struct Packet {
    socket: OwnedFd,
    listener: usize,
    route: Route,
    /// What its handler has written so far.
    answer: Vec<u8>,
    /// Whether that has become longer than a datagram can be.
    too_long: bool,
}

impl Packets {
    pub(in crate::serve) fn new() -> Self {
        Self {
            open: Slab::new(),
            room: vec![0; LONGEST + 1].into(),
            spare: Vec::new(),
        }
    }

    pub(in crate::serve) fn len(&self) -> usize {
        self.open.len()
    }

    pub(in crate::serve) fn leave(&mut self, service: usize) -> Vec<ParkedExchange> {
        let left = self.open.take().map(|(_, packet)| ParkedExchange {
            service,
            socket: packet.socket,
            listener: packet.listener,
            route: packet.route,
            answer: packet.answer,
            too_long: packet.too_long,
            silent: None,
        });
        left.collect()
    }
}

/// What came of reading what a handler writes.
enum Read {
    /// It may write more.
    Part,
    /// The end: so much is in the room, unless it is too long.
    Whole(usize),
}

impl Packet {
    /// Reads what there is into `room`, after what was read before.
    fn read(&mut self, room: &mut [u8]) -> Read {
        let mut length = self.answer.len();
        room[..length].copy_from_slice(&self.answer);
        for _ in 0..ROW {
            if length > LONGEST {
                self.too_long = true;
                length = 0;
            }
            let end = recv(
                self.socket.as_raw_fd(),
                &mut room[length..],
                MsgFlags::MSG_DONTWAIT,
            );
            match end {
                Ok(0) => return Read::Whole(length),
                Ok(more) => length += more,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // Its handler has ended without having read all; what it had written came before.
                Err(_) => return Read::Whole(length),
            }
        }
        self.answer.clear();
        if length > LONGEST {
            self.too_long = true;
        }
        if !self.too_long {
            // Only for those that don't write all at once. If there is no memory, it is as if
            // there were too much.
            match self.answer.try_reserve(length) {
                Ok(()) => self.answer.extend_from_slice(&room[..length]),
                Err(_) => self.too_long = true,
            }
        }
        Read::Part
    }
}

impl DatagramWorker<'_> {
    /// Serves one datagram of a listener, if it may be.
    pub(in crate::serve) fn serve_packet(&mut self, listener: usize) -> Attempt {
        if !self.make_room() {
            return Attempt::Short;
        }
        let Exchanges::Packets(packets) = &mut self.exchanges else {
            return Attempt::Drained;
        };
        if packets.open.reserve().is_err() {
            return Attempt::Short;
        }
        if self.slot.is_none() && matches!(self.policy.asked.at_max(), AtLimit::Queue(_)) {
            // Before it is received: without one, it stays where it is.
            self.slot = self.served.slots.take(self.index);
            if self.slot.is_none() {
                return Attempt::Closed;
            }
        }
        let clock = self.shared.clock;
        let mut token = None;
        if let Some(bucket) = self.policy.gate() {
            let now = clock.read(Instant::now());
            if bucket.take(now).is_err() {
                return Attempt::Closed;
            }
            token = Some(now);
        }
        let give_back = |token: Option<u64>| {
            if let (Some(taken), Some(bucket)) = (token, self.policy.gate()) {
                bucket.give_back(taken, clock.read(Instant::now()));
            }
        };
        match self.receive(listener) {
            Ok(_) => {}
            Err(attempt) => {
                give_back(token);
                return attempt;
            }
        }
        let Some((route, payload)) = self.received.get(0) else {
            return Attempt::Drained;
        };
        if payload.is_none_or(|payload| payload.len() > LONGEST) {
            give_back(token);
            self.drops.note(Why::TooLong);
            return Attempt::Served;
        }
        let route = *route;
        let peer = Peer::datagram(route.sender(), route.local());
        if let Some(admitted) = self.admit(&peer, token) {
            let Some((ours, theirs)) = self.pair() else {
                return Attempt::Served;
            };
            if self.start(listener, theirs, peer, admitted, true) {
                self.expect_answer(ours, listener, route);
            } else {
                self.drops.note(Why::Short);
            }
        }
        Attempt::Served
    }

    /// A pair of sockets, with the datagram in one of them, and its end after that. `None` if it
    /// has no room for that, or if skd stops while they can't be had.
    fn pair(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        loop {
            let pair = socketpair(
                AddressFamily::Unix,
                SockType::Stream,
                None,
                SockFlag::SOCK_CLOEXEC,
            );
            let payload = self.received.get(0).and_then(|(_, payload)| payload);
            let payload = payload.unwrap_or_default();
            let filled = pair.and_then(|(ours, theirs)| {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                // It is empty: what it has no room for now, it never has.
                let sent = match payload {
                    [] => Ok(0),
                    payload => send(ours.as_raw_fd(), payload, flags),
                };
                match sent {
                    Ok(length) if length == payload.len() => {}
                    Ok(_) | Err(Errno::EAGAIN) => return Err(Errno::EMSGSIZE),
                    Err(errno) => return Err(errno),
                }
                shutdown(ours.as_raw_fd(), Shutdown::Write)?;
                Ok((ours, theirs))
            });
            let errno = match filled {
                Ok(pair) => return Some(pair),
                Err(errno) => errno,
            };
            if errno == Errno::EMSGSIZE {
                let trouble = Trouble::DatagramTooBig(self.served.id);
                report::event(Event::Trouble(trouble));
                self.drops.note(Why::Short);
                return None;
            }
            report::event(Event::Trouble(Trouble::NoSocketpair {
                service: self.served.id,
                errno,
                again: true,
            }));
            if self.stopping() {
                self.drops.note(Why::Short);
                return None;
            }
            self.pause();
        }
    }

    /// Waits for what a handler writes.
    fn expect_answer(&mut self, socket: OwnedFd, listener: usize, route: Route) {
        let Exchanges::Packets(packets) = &mut self.exchanges else {
            return;
        };
        let packet = Packet {
            socket,
            listener,
            route,
            answer: packets.spare.pop().unwrap_or_default(),
            too_long: false,
        };
        self.wait_for(packet);
    }

    /// Goes on with a datagram that was left.
    pub(in crate::serve) fn enter_packet(&mut self, left: ParkedExchange) {
        if let Exchanges::Packets(packets) = &mut self.exchanges
            && packets.open.reserve().is_ok()
        {
            self.wait_for(Packet {
                socket: left.socket,
                listener: left.listener,
                route: left.route,
                answer: left.answer,
                too_long: left.too_long,
            });
        }
    }

    fn wait_for(&mut self, packet: Packet) {
        let Exchanges::Packets(packets) = &mut self.exchanges else {
            return;
        };
        let index = packets.open.insert(packet);
        self.count_exchange(true);
        let Exchanges::Packets(packets) = &mut self.exchanges else {
            return;
        };
        let Some(packet) = packets.open.get_mut(index) else {
            return;
        };
        let key = Token::Exchange(index).into();
        let watched = self.poller.add(&packet.socket, Interest::Readable, key);
        if let Err(errno) = watched {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: Some(self.served.id),
                what: Watched::Answer,
                errno,
            }));
            packets.open.remove(index);
            self.count_exchange(false);
        }
    }

    /// Reads what a handler has written; if that was all, sends it.
    pub(in crate::serve) fn hear_packet(&mut self, index: usize) {
        let Exchanges::Packets(packets) = &mut self.exchanges else {
            return;
        };
        let Some(packet) = packets.open.get_mut(index) else {
            return;
        };
        let Read::Whole(length) = packet.read(&mut packets.room) else {
            return;
        };
        // Before it is closed, as a pidfd.
        let _ = self.poller.remove(&packet.socket);
        let Some(mut packet) = packets.open.remove(index) else {
            return;
        };
        if packet.answer.capacity() > 0 {
            packet.answer.clear();
            packets.spare.push(std::mem::take(&mut packet.answer));
        }
        if packet.too_long || length > LONGEST {
            let peer = Peer::datagram(packet.route.sender(), None);
            report::event(Event::Trouble(Trouble::AnswerTooLong {
                service: self.served.id,
                peer: &peer,
                longest: LONGEST,
            }));
        } else if length > 0 {
            let room = std::mem::take(&mut packets.room);
            self.answer(packet.listener, &packet.route, &room[..length]);
            if let Exchanges::Packets(packets) = &mut self.exchanges {
                packets.room = room;
            }
        }
        self.count_exchange(false);
    }
}
