//! Datagrams that skd receives itself, for handlers of one datagram each ([`per_packet`]) or of all
//! datagrams of one sender ([`per_peer`]). Answers of a handler are sent from the socket and the
//! address that its datagrams arrived at.
//!
//! A handler's 0 and 1 are one end of a pair of unix sockets, and skd has the other: an exchange. A
//! datagram worker waits for its listeners and its exchanges, never for a client or a handler. What
//! can't be taken at once is dropped, and counted. A worker serves one service.

mod datagram_intake;
mod drops;
mod ours;
mod own_senders;
pub(super) mod parked_exchange;
mod per_packet;
mod per_peer;

use std::sync::Arc;

use nix::errno::Errno;

use crate::child::Spawner;
use crate::config::{DatagramMode, ServiceId};
use crate::serve::worker::shared::Shared;
use crate::sys::thread::Thread;

use per_packet::Packets;
use per_peer::Peers;

pub(in crate::serve) use parked_exchange::{ParkedExchange, SavedExchange};

/// Starts a datagram worker for a service.
pub(in crate::serve) fn start(
    index: usize,
    service: ServiceId,
    shared: Arc<Shared>,
    spawner: Spawner,
) -> Result<Thread, Errno> {
    match shared.services[service.index()].datagram_mode {
        DatagramMode::PerPeer => datagram_intake::start::<Peers>(index, service, shared, spawner),
        _ => datagram_intake::start::<Packets>(index, service, shared, spawner),
    }
}
