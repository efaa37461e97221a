//! Pending connections and exchanges of datagrams in the state of an upgrade.

use serde::{Deserialize, Serialize};

use super::datagram::{ParkedExchange, SavedExchange};
use super::shared::Shared;
use crate::config::{Peer, ServiceId};
use crate::net::{Listener, ListenerAddress};
use crate::serve::admission::{Kind, PendingConnection, SavedRates};
use crate::serve::handlers::saved::{LeftOpen, SavedClock};
use crate::sys::descriptors::SavedDescriptors;

/// A pending connection. What it has got so far isn't saved, and its timeouts begin anew; but not a
/// header that was taken away.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPending {
    connection: i32,
    pub(in crate::serve) listener: ListenerAddress,
    peer: Peer,
    /// When it was accepted.
    #[serde(default)]
    arrived: Option<u64>,
    /// Whether its header has been read, if it is to have one.
    identified: bool,
}

impl Shared {
    /// Saves the pending connections of a service, which its parked workers have left.
    pub(in crate::serve) fn save_pending(
        &self,
        service: ServiceId,
        to: &mut SavedDescriptors,
    ) -> Vec<SavedPending> {
        let Some(served) = self.services.get(service.index()) else {
            return Vec::new();
        };
        let clock = SavedClock::new();
        let mut save = |pending: &PendingConnection| {
            Some(SavedPending {
                listener: served.listeners.get(pending.listener)?.address(),
                // A descriptor that can't be passed on is closed at the exec.
                connection: to.pass(&pending.connection).ok()?,
                peer: pending.client.peer,
                arrived: Some(clock.save(pending.arrived)),
                identified: pending.client.is_identified(),
            })
        };
        let mut saved = Vec::new();
        for thread in 0..self.pending.len() {
            let pending = self.pending(thread);
            let its = pending.iter().filter(|pending| pending.service == service);
            saved.extend(its.filter_map(&mut save));
        }
        saved
    }

    /// Saves the token buckets of a service. Its pending connections, which parked workers have left,
    /// take theirs again.
    pub(in crate::serve) fn save_rates(&self, service: ServiceId) -> Option<SavedRates> {
        let policy = self.services.get(service.index())?.policy.as_ref()?;
        let all: Vec<_> = (0..self.pending.len())
            .map(|thread| self.pending(thread))
            .collect();
        let pending = all.iter().flat_map(|pending| pending.iter());
        let its = pending.filter(|pending| pending.service == service);
        Some(policy.save_rates(its.map(|pending| &pending.client), self.clock))
    }

    /// Restores the token buckets of a service.
    pub(in crate::serve) fn restore_rates(&self, service: ServiceId, saved: &SavedRates) {
        let service = self.services.get(service.index());
        if let Some(policy) = service.and_then(|service| service.policy.as_ref()) {
            policy.restore_rates(saved, self.clock);
        }
    }

    /// Restores the pending connections of a service. Each stream worker gets a share, since its
    /// queue takes no more. Connections of a listener that is gone are closed.
    pub(in crate::serve) fn restore_pending(
        &self,
        service: ServiceId,
        saved: Vec<SavedPending>,
        stream_workers: usize,
        left_open: &mut LeftOpen,
    ) {
        let Some(served) = self.services.get(service.index()) else {
            return;
        };
        let Some(policy) = &served.policy else {
            return;
        };
        let clock = SavedClock::new();
        for (saved, thread) in saved.into_iter().zip((0..stream_workers).cycle()) {
            let mut listeners = served.listeners.iter();
            let listener = listeners.position(|listener| listener.address() == saved.listener);
            let Some(listener) = listener else {
                continue;
            };
            let Some(connection) = left_open.take(saved.connection) else {
                continue;
            };
            let mut client = policy.begin(saved.peer, Kind::Connection);
            if saved.identified {
                client.set_identified();
            }
            let pending = PendingConnection {
                client,
                connection: connection.into(),
                arrived: clock.restore_or_now(saved.arrived),
                service,
                listener,
                _last: served
                    .listeners
                    .get(listener)
                    .and_then(Listener::last_client),
            };
            self.pending(thread).push(pending);
        }
    }

    /// Saves the exchanges of a service, which its parked workers have left.
    pub(in crate::serve) fn save_exchanges(
        &self,
        service: ServiceId,
        to: &mut SavedDescriptors,
    ) -> Vec<SavedExchange> {
        let Some(served) = self.services.get(service.index()) else {
            return Vec::new();
        };
        let parked = self.parked_exchanges();
        let its = parked.iter().filter(|exchange| exchange.service == service);
        let save = |exchange: &ParkedExchange| {
            let listener = served.datagrams.get(exchange.listener)?;
            exchange.save(listener.address(), to)
        };
        its.filter_map(save).collect()
    }

    /// Restores the exchanges of a service. Those of a listener that is gone are closed.
    pub(in crate::serve) fn restore_exchanges(
        &self,
        service: ServiceId,
        saved: Vec<SavedExchange>,
        left_open: &mut LeftOpen,
    ) {
        let Some(served) = self.services.get(service.index()) else {
            return;
        };
        for saved in saved {
            let mut listeners = served.datagrams.iter();
            let listener = listeners.position(|listener| listener.address() == saved.listener);
            let restored = listener.and_then(|listener| {
                let socket = left_open.take(saved.socket)?;
                ParkedExchange::restore(saved, (service, listener), socket)
            });
            self.parked_exchanges().extend(restored);
        }
    }
}
