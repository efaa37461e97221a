//! Lingering close: what was sent last arrives at the peer.
//!
//! A connection that is closed while input waits in it, or to which input arrives later, is reset, and a reset takes
//! away what the peer hasn't received yet (RFC 1122, 4.2.2.13). So its input is drained until the peer closes it too,
//! or its time is over.

use std::time::{Duration, Instant};

use super::buffers::{Rest, Scratches};
use super::link::Link;
use super::socket::{Received, Sent, Socket};

/// How long: as skd does it for connections without TLS.
const TIME: Duration = Duration::from_secs(2);

/// How often input is drained before other connections have their turn.
const ROUNDS: usize = 2;

/// A connection that was ended, or is about to be.
#[derive(Debug)]
pub(super) struct Linger {
    tcp: Socket,
    rest: Rest,
    is_told: bool,
    until: Instant,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lingers {
    /// Another turn, when others have had theirs.
    Turn,
    /// An event, or the deadline.
    Waits,
    /// The peer has closed it.
    Over,
}

impl Linger {
    /// Closes the plain side of a connection, and keeps the other with what is still to be sent.
    pub(super) fn new(link: Link, now: Instant) -> Self {
        Self {
            is_told: link.tcp.was_ended(),
            tcp: link.tcp,
            rest: link.to_tcp,
            until: now + TIME,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    pub(super) fn tcp(&mut self) -> &mut Socket {
        &mut self.tcp
    }

    pub(super) fn turn(&mut self, scratches: &mut Scratches) -> Lingers {
        if !self.is_told {
            match self.rest.flush(&mut self.tcp) {
                Sent::All => {
                    self.tcp.end();
                    self.is_told = true;
                }
                Sent::Some => {}
                Sent::Broken => return Lingers::Over,
            }
        }
        for _ in 0..ROUNDS {
            match self.tcp.receive(scratches.input.room(0)) {
                Received::Bytes(_) => {}
                Received::Nothing => return Lingers::Waits,
                // What is still to be sent may be wanted all the same.
                Received::End if !self.is_told => return Lingers::Waits,
                Received::End | Received::Broken(_) => return Lingers::Over,
            }
        }
        Lingers::Turn
    }
}
