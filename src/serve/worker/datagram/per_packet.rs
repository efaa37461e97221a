//! A handler for each datagram. It reads the payload from 0, then the end. What it writes to 1 is
//! sent back as one datagram once no process has that any more.
//!
//! Both are one end of a pair of unix stream sockets. The other choice, a memory file and a pipe,
//! would take a number and calls of its own each in the child. A pipe would hold less than a
//! datagram for a user who has many pipes (pipe(7), pipe-user-pages-soft). And a socket is what
//! handlers of connections have.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, shutdown, socketpair,
};

use super::datagram_intake::{Datagram, Mode};
use super::ours::Ours;
use super::parked_exchange::ParkedExchange;
use crate::config::{Peer, ServiceId};
use crate::report::{self, DropReason, Event, Trouble, Watched};
use crate::serve::handlers::Slab;
use crate::serve::handlers::start::NewHandler;
use crate::serve::service::Service;
use crate::serve::worker::intake::{Attempt, HandlerStarter, Intake};
use crate::serve::worker::worker_loop::{WaitOut, pause};
use crate::sys::datagrams::{LONGEST, Route};
use crate::sys::events::Interest;
use crate::sys::memory;
use crate::sys::sockets::{receive_bytes, receive_now};

/// How often one handler's output is read before others are looked at.
const READS: usize = 16;

/// How many buffers of answers are kept for others, at most. Without a bound, one burst of long
/// answers would cost its memory for ever.
const SPARE: usize = 8;

/// How many bytes of answers are freed before the kernel gets them back: that takes a look at all
/// of the heap.
const FREED: usize = 1 << 20;

/// How many exchanges have memory while there are none.
pub(super) const KEPT: usize = 256;

/// The datagrams whose handlers may still answer.
#[derive(Debug)]
pub(super) struct Packets {
    open: Slab<Packet>,
    /// Whether memory for one more is reserved: answers of others may end while it is waited for.
    reserved: bool,
    /// Where answers are read: one of the longest, and a byte too many.
    buffer: Box<[u8]>,
    /// Memory that earlier answers have used.
    spare: Vec<Vec<u8>>,
    /// How many bytes of them were freed since the kernel got some back.
    freed: usize,
}

/// A datagram that may still be answered.
#[derive(Debug)]
struct Packet {
    socket: Ours,
    listener: usize,
    route: Route,
    /// What its handler has written so far.
    answer: Vec<u8>,
    /// Whether that has become longer than a datagram can be.
    too_long: bool,
}

impl Packets {
    /// Gives back what a burst of datagrams has taken, when it is over.
    fn give_back(&mut self) {
        if self.open.len() > 0 || self.reserved {
            return;
        }
        if self.open.capacity() > KEPT {
            self.open = Slab::default();
        }
        if self.freed > FREED {
            self.freed = 0;
            memory::return_freed();
        }
    }
}

/// The result of reading an answer.
enum Read {
    /// The handler may write more.
    Part,
    /// The answer is complete: so much is in the buffer, unless it is too long.
    Whole(usize),
}

impl Packet {
    /// Reads what there is into `buffer`, after what was read before.
    fn read(&mut self, buffer: &mut [u8]) -> Read {
        let mut length = self.answer.len();
        buffer[..length].copy_from_slice(&self.answer);
        for _ in 0..READS {
            if length > LONGEST {
                self.too_long = true;
                length = 0;
            }
            let buffer = &mut buffer[length..];
            let end = match self.socket.is_guarded() {
                false => receive_now(&self.socket, buffer, MsgFlags::empty()),
                true => receive_bytes(&self.socket, buffer),
            };
            match end {
                Ok(0) => return Read::Whole(length),
                Ok(more) => length += more,
                Err(Errno::EAGAIN) => break,
                // Its handler has ended without having read all; what it had written came before.
                // Or it passes a descriptor, which no handler does in good faith.
                Err(_) => return Read::Whole(length),
            }
        }
        self.answer.clear();
        if length > LONGEST {
            self.too_long = true;
        }
        if !self.too_long {
            // Only for handlers that don't write all at once. Without memory for it, the answer is
            // dropped like a datagram that is too long.
            match self.answer.try_reserve(length) {
                Ok(()) => self.answer.extend_from_slice(&buffer[..length]),
                Err(_) => self.too_long = true,
            }
        }
        Read::Part
    }
}

impl Mode for Packets {
    const BATCH: usize = 1;
    const GATED: bool = true;

    fn new(_: &Service) -> Self {
        Self {
            open: Slab::default(),
            reserved: false,
            buffer: vec![0; LONGEST + 1].into(),
            spare: Vec::new(),
            freed: 0,
        }
    }

    fn len(&self) -> usize {
        self.open.len()
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn serve<'a>(
        intake: &mut Datagram<'a, Self>,
        listener: usize,
        starter: &mut HandlerStarter<'a>,
    ) -> Attempt {
        if !starter.reserve(intake.service.id) || intake.mode.open.reserve(1).is_err() {
            return Attempt::Short;
        }
        intake.mode.reserved = true;
        let attempt = serve(intake, listener, starter);
        intake.mode.reserved = false;
        intake.mode.give_back();
        attempt
    }

    /// Reads what a handler has written. If that was all, sends it.
    fn on_exchange(intake: &mut Datagram<'_, Self>, index: usize) {
        let Self { open, buffer, .. } = &mut intake.mode;
        let Some(packet) = open.get_mut(index) else {
            return;
        };
        let Read::Whole(length) = packet.read(buffer) else {
            return;
        };
        // Before it is closed, as a pidfd.
        let _ = intake.poller.remove(&packet.socket);
        let Some(mut packet) = open.remove(index) else {
            return;
        };
        if packet.answer.capacity() > 0 {
            packet.answer.clear();
            if intake.mode.spare.len() < SPARE {
                intake.mode.spare.push(std::mem::take(&mut packet.answer));
            } else {
                intake.mode.freed += packet.answer.capacity();
            }
        }
        drop(packet.socket);
        if packet.too_long || length > LONGEST {
            let peer = Peer::datagram(packet.route.sender(), None);
            report::event(Event::Trouble(Trouble::AnswerTooLong {
                service: intake.service.id,
                peer: &peer,
                longest: LONGEST,
            }));
        } else if length > 0 {
            let buffer = std::mem::take(&mut intake.mode.buffer);
            intake.answer(packet.listener, &packet.route, &buffer[..length]);
            intake.mode.buffer = buffer;
        }
        intake.mode.give_back();
        intake.count_closed();
    }

    fn on_time(_: &mut Datagram<'_, Self>) {}

    fn park(&mut self, service: ServiceId) -> Vec<ParkedExchange> {
        let parked = self.open.take().map(|(_, packet)| ParkedExchange {
            service,
            socket: packet.socket.into_inner(),
            listener: packet.listener,
            route: packet.route,
            answer: packet.answer,
            too_long: packet.too_long,
            silent: None,
        });
        parked.collect()
    }

    fn unpark(intake: &mut Datagram<'_, Self>, parked: ParkedExchange) {
        if intake.mode.open.reserve(1).is_ok() {
            open(
                intake,
                Packet {
                    socket: Ours::restored(parked.socket),
                    listener: parked.listener,
                    route: parked.route,
                    answer: parked.answer,
                    too_long: parked.too_long,
                },
            );
        }
    }
}

/// Serves a listener once. There is memory for one more exchange.
fn serve<'a>(
    intake: &mut Datagram<'a, Packets>,
    listener: usize,
    starter: &mut HandlerStarter<'a>,
) -> Attempt {
    // Before the datagram is received: without a slot or a token, it stays where it is.
    if !intake.pipeline.take_slot() {
        return Attempt::Closed;
    }
    let Ok(token) = intake.pipeline.take_token() else {
        return Attempt::Closed;
    };
    if let Err(attempt) = intake.receive(listener) {
        intake.pipeline.release_token(token);
        return attempt;
    }
    let Some((route, payload)) = intake.received.get(0) else {
        return Attempt::Drained;
    };
    if payload.is_none_or(|payload| payload.len() > LONGEST) {
        intake.pipeline.release_token(token);
        intake.drop_datagram(listener, DropReason::TooLong);
        return Attempt::Served;
    }
    let route = *route;
    if intake.own_senders.has_sent(&route) {
        intake.pipeline.release_token(token);
        intake.drop_datagram(listener, DropReason::Own);
        return Attempt::Served;
    }
    let arrived = Instant::now();
    let peer = Peer::datagram(route.sender(), route.local());
    let Some(admitted) = intake.admit(listener, peer, token) else {
        return Attempt::Served;
    };
    let Some((ours, theirs)) = pair(intake, listener) else {
        return Attempt::Served;
    };
    let service = intake.service;
    let socket = &service.datagrams[listener];
    let new = NewHandler::for_datagrams(service, (socket, arrived), theirs, peer, admitted);
    // The datagram was received, so a shortage is waited out, while other exchanges go on.
    if starter.start(new, &mut WaitOut::new(intake, |_| false)) {
        let answer = intake.mode.spare.pop().unwrap_or_default();
        open(
            intake,
            Packet {
                socket: ours,
                listener,
                route,
                answer,
                too_long: false,
            },
        );
    } else {
        intake.drop_datagram(listener, DropReason::Short);
    }
    Attempt::Served
}

/// Waits for what a handler writes. There is memory for the entry.
fn open(intake: &mut Datagram<'_, Packets>, packet: Packet) {
    intake.count_opened();
    let index = intake.mode.open.insert(packet);
    let token = intake.token(index);
    let Some(packet) = intake.mode.open.get_mut(index) else {
        return;
    };
    let watched = intake.poller.add(&packet.socket, Interest::Readable, token);
    if let Err(errno) = watched {
        report::event(Event::Trouble(Trouble::NotWatched {
            service: Some(intake.service.id),
            what: Watched::Answer,
            errno,
        }));
        intake.mode.open.remove(index);
        intake.count_closed();
    }
}

/// Makes a pair of sockets with the datagram in one of them, and its end after that. Returns `None`
/// if it doesn't fit, or if skd stops while there is a shortage.
fn pair(intake: &mut Datagram<'_, Packets>, listener: usize) -> Option<(Ours, OwnedFd)> {
    loop {
        let payload = intake.received.get(0).and_then(|(_, payload)| payload);
        let errno = match filled_pair(payload.unwrap_or_default()) {
            Ok(pair) => return Some(pair),
            Err(errno) => errno,
        };
        if errno == Errno::EMSGSIZE {
            let trouble = Trouble::DatagramTooBig(intake.service.id);
            report::event(Event::Trouble(trouble));
            intake.drop_datagram(listener, DropReason::Short);
            return None;
        }
        report::event(Event::Trouble(Trouble::NoSocketpair {
            service: intake.service.id,
            errno,
            again: true,
        }));
        if intake.thread().is_stopping() {
            intake.drop_datagram(listener, DropReason::Short);
            return None;
        }
        pause(intake);
    }
}

/// Makes a pair of sockets with this datagram, and its end. `EMSGSIZE` means that it doesn't fit.
fn filled_pair(payload: &[u8]) -> Result<(Ours, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // The socket is empty: what it doesn't take now, it never does.
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
    Ok((Ours::new(ours), theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_reserved_for_a_datagram_is_not_given_back() {
        let mut packets = Packets {
            open: Slab::default(),
            reserved: true,
            buffer: Box::default(),
            spare: Vec::new(),
            freed: 0,
        };
        packets.open.reserve(KEPT + 1).unwrap();
        packets.give_back();
        assert!(packets.open.capacity() > KEPT);
        packets.reserved = false;
        packets.give_back();
        assert_eq!(packets.open.capacity(), 0);
    }
}
