//! Exchanges of parked workers, and how they are saved for an upgrade.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::ServiceId;
use crate::net::ListenerAddress;
use crate::sys::datagrams::Route;
use crate::sys::descriptors::SavedDescriptors;

/// An exchange of a parked worker.
#[derive(Debug)]
pub(in crate::serve) struct ParkedExchange {
    pub(in crate::serve) service: ServiceId,
    pub(super) socket: OwnedFd,
    /// The index of the service's listener that its datagrams arrived at.
    pub(in crate::serve) listener: usize,
    pub(super) route: Route,
    /// What was read of the answer to a datagram.
    pub(super) answer: Vec<u8>,
    pub(super) too_long: bool,
    /// How long the sender that the handler serves has been silent. `None` if it serves none any
    /// more.
    pub(super) silent: Option<Duration>,
}

/// A saved exchange.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedExchange {
    pub(in crate::serve) socket: i32,
    pub(in crate::serve) listener: ListenerAddress,
    sender: Vec<u8>,
    local: Option<SocketAddr>,
    answer: Vec<u8>,
    too_long: bool,
    silent: Option<u64>,
}

impl ParkedExchange {
    /// Saves the exchange. Returns `None` if its socket can't be passed on: then it is closed at
    /// the exec.
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

    /// Restores an exchange of the service with this id, and its listener with this index.
    pub(in crate::serve) fn restore(
        saved: SavedExchange,
        (service, listener): (ServiceId, usize),
        socket: OwnedFd,
    ) -> Option<Self> {
        Some(Self {
            service,
            socket,
            listener,
            route: Route::new(&saved.sender, saved.local)?,
            answer: saved.answer,
            too_long: saved.too_long,
            silent: saved.silent.map(Duration::from_millis),
        })
    }
}
