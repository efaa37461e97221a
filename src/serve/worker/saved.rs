//! Pending connections and exchanges of datagrams in the state of an upgrade.

use serde::{Deserialize, Serialize};

use super::datagram::{ParkedExchange, SavedExchange};
use super::shared::Shared;
use crate::child::Method;
use crate::config::{Peer, ServiceId};
use crate::net::{Listener, ListenerAddress};
use crate::serve::admission::{Kind, PendingConnection, SavedRates};
use crate::serve::gate::{GateSlot, LiveGate, SavedGate};
use crate::serve::handlers::saved::{LeftOpen, SavedClock};
use crate::serve::tls::{SavedSession, TlsSession};
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
    /// Its TLS session, if skd-tls has it: it isn't passed again.
    #[serde(default)]
    tls: Option<SavedSession>,
    /// Its gate, if that runs.
    #[serde(default)]
    gate: Option<SavedGate>,
    /// Whether the gate has let it through.
    #[serde(default)]
    passed: bool,
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
                tls: pending.session.as_ref().map(TlsSession::save),
                gate: pending
                    .gate
                    .as_ref()
                    .map(|gate| gate.save(|time| clock.save(time))),
                passed: pending.client.has_passed(),
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
        method: Method,
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
            // Killed where its connection is closed.
            let gate = saved.gate.map(|gate| {
                let slot = served.gate.as_ref().map(|gate| gate.occupy());
                self.restore_gate(&gate, slot, method, clock)
            });
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
            let session = saved.tls.map(TlsSession::restore);
            match session.as_ref().map(TlsSession::established) {
                Some(Some(_)) => client.set_secure(),
                Some(None) => client.set_in_handshake(),
                None => {}
            }
            if saved.passed {
                client.set_passed();
            }
            if gate.is_some() {
                client.set_in_gate();
            }
            let pending = PendingConnection {
                session,
                client,
                connection: connection.into(),
                arrived: clock.restore_or_now(saved.arrived),
                service,
                listener,
                gate,
                _last: served
                    .listeners
                    .get(listener)
                    .and_then(Listener::last_client),
            };
            self.pending(thread).push(pending);
        }
    }

    /// Kills the gates of pending connections that are closed with their listeners.
    pub(in crate::serve) fn kill_gates(&self, saved: Vec<SavedPending>, method: Method) {
        let clock = SavedClock::new();
        let gates = saved.iter().filter_map(|pending| pending.gate.as_ref());
        gates.for_each(|gate| drop(self.restore_gate(gate, None, method, clock)));
    }

    fn restore_gate(
        &self,
        saved: &SavedGate,
        slot: Option<GateSlot>,
        method: Method,
        clock: SavedClock,
    ) -> Box<LiveGate> {
        let (time, pidfd_of) = (|at| clock.restore(at), |pid| method.pidfd_of(pid));
        let gates = &self.handlers.gates;
        Box::new(LiveGate::restore(saved, slot, gates, time, pidfd_of))
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
