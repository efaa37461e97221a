//! Exchanges while no thread has them: during an upgrade in place, and handed on to the next image.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Exchanges, Passer};
use crate::sys::datagrams::Route;
use crate::sys::descriptors::HandOver;

/// An exchange that no thread has.
#[derive(Debug)]
pub(in crate::serve) struct Left {
    pub(super) socket: OwnedFd,
    pub(super) listener: usize,
    pub(super) route: Route,
    /// What was read of the answer to a datagram.
    pub(super) answer: Vec<u8>,
    pub(super) too_long: bool,
    /// For how long a sender has been silent who has this handler.
    pub(super) silent: Option<Duration>,
}

/// The same for another image of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandedExchange {
    pub(in crate::serve) socket: i32,
    listener: usize,
    sender: Vec<u8>,
    local: Option<std::net::SocketAddr>,
    answer: Vec<u8>,
    too_long: bool,
    silent: Option<u64>,
}

impl Left {
    /// `None` if it can't be passed on: then it is closed at the exec.
    pub(in crate::serve) fn hand_over(&self, to: &mut HandOver) -> Option<HandedExchange> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or_default();
        Some(HandedExchange {
            socket: to.pass(&self.socket).ok()?,
            listener: self.listener,
            sender: self.route.address().to_vec(),
            local: self.route.local(),
            answer: self.answer.clone(),
            too_long: self.too_long,
            silent: self.silent.map(milliseconds),
        })
    }

    pub(in crate::serve) fn resume(handed: HandedExchange, socket: OwnedFd) -> Option<Self> {
        Some(Self {
            socket,
            listener: handed.listener,
            route: Route::new(&handed.sender, handed.local)?,
            answer: handed.answer,
            too_long: handed.too_long,
            silent: handed.silent.map(Duration::from_millis),
        })
    }
}

impl Passer<'_> {
    /// Leaves all exchanges to whoever goes on: this thread, or another image.
    pub(super) fn leave_exchanges(&mut self) {
        let now = Instant::now();
        let left = match &mut self.exchanges {
            Exchanges::Packets(packets) => packets.leave(),
            Exchanges::Peers(peers) => peers.leave(now),
        };
        for exchange in &left {
            let _ = self.poller.remove(&exchange.socket);
            self.count_exchange(false);
        }
        if !left.is_empty() {
            self.shared.left_exchanges().extend(left);
        }
    }

    /// Takes over all that were left.
    pub(super) fn enter_exchanges(&mut self) {
        let left = std::mem::take(&mut *self.shared.left_exchanges());
        let listeners = self.served.datagrams.len();
        for exchange in left {
            // For want of memory, it ends.
            if exchange.listener < listeners {
                match self.exchanges {
                    Exchanges::Packets(_) => self.enter_packet(exchange),
                    Exchanges::Peers(_) => self.enter_peer(exchange),
                }
            }
        }
    }
}
