//! Exchanges while no thread has them: during an upgrade in place, and handed on to the next image.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{DatagramWorker, Exchanges};
use crate::net::ListenerAddress;
use crate::sys::datagrams::Route;
use crate::sys::descriptors::SavedDescriptors;

/// An exchange that no thread has.
#[derive(Debug)]
pub(in crate::serve) struct ParkedExchange {
    pub(in crate::serve) socket: OwnedFd,
    /// The index of its service, and that of the listener among the service's.
    pub(in crate::serve) service: usize,
    pub(in crate::serve) listener: usize,
    pub(in crate::serve) route: Route,
    /// What was read of the answer to a datagram.
    pub(in crate::serve) answer: Vec<u8>,
    pub(in crate::serve) too_long: bool,
    /// For how long a sender has been silent who has this handler.
    pub(in crate::serve) silent: Option<Duration>,
}

/// The same for another image of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedExchange {
    pub(in crate::serve) socket: i32,
    pub(in crate::serve) listener: ListenerAddress,
    sender: Vec<u8>,
    local: Option<std::net::SocketAddr>,
    answer: Vec<u8>,
    too_long: bool,
    silent: Option<u64>,
}

impl ParkedExchange {
    /// `None` if it can't be passed on: then it is closed at the exec.
    pub(in crate::serve) fn save(
        &self,
        listener: ListenerAddress,
        to: &mut SavedDescriptors,
    ) -> Option<SavedExchange> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or_default();
        Some(SavedExchange {
            socket: to.pass(&self.socket).ok()?,
            listener,
            sender: self.route.address().to_vec(),
            local: self.route.local(),
            answer: self.answer.clone(),
            too_long: self.too_long,
            silent: self.silent.map(milliseconds),
        })
    }

    /// Restores one for the service and the listener with these indexes.
    pub(in crate::serve) fn restore(
        saved: SavedExchange,
        (service, listener): (usize, usize),
        socket: OwnedFd,
    ) -> Option<Self> {
        Some(Self {
            socket,
            service,
            listener,
            route: Route::new(&saved.sender, saved.local)?,
            answer: saved.answer,
            too_long: saved.too_long,
            silent: saved.silent.map(Duration::from_millis),
        })
    }
}

impl DatagramWorker<'_> {
    /// Leaves all exchanges to whoever goes on: this thread, or another image.
    pub(in crate::serve) fn leave_exchanges(&mut self) {
        let now = Instant::now();
        let left = match &mut self.exchanges {
            Exchanges::Packets(packets) => packets.leave(self.service),
            Exchanges::Peers(peers) => peers.leave(self.service, now),
        };
        for exchange in &left {
            let _ = self.poller.remove(&exchange.socket);
            self.count_exchange(false);
        }
        if !left.is_empty() {
            self.shared.parked_exchanges().extend(left);
        }
    }

    /// Takes over all that were left for this thread's service.
    pub(in crate::serve) fn enter_exchanges(&mut self) {
        let its = |exchange: &mut ParkedExchange| exchange.service == self.service;
        let left: Vec<_> = self.shared.parked_exchanges().extract_if(.., its).collect();
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
