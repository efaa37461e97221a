//! A pending connection at its gate: the start of the gate, and a look at it.

use std::time::Instant;

use super::service_state::ServiceState;
use crate::child::SpawnError;
use crate::config::ListenerId;
use crate::net::Listener;
use crate::report::{self, Client, Event, Reason};
use crate::serve::admission::{Capacity, FoundGate, PendingConnection};
use crate::serve::gate::{GateStop, LiveGate, Sign};
use crate::serve::worker::intake::{HandlerStarter, PAUSE};
use crate::serve::worker::shared::Phase;
use crate::sys::descriptors::set_blocking;
use crate::sys::process::Ended;

impl<'a> ServiceState<'a> {
    /// Starts the gate of a pending connection, or looks at it if it runs, and notes what was found.
    pub(super) fn look_at_gate(
        &self,
        pending: &mut PendingConnection,
        starter: &mut HandlerStarter<'a>,
        now: Instant,
    ) {
        let found = match pending.gate.take() {
            Some(gate) => self.look_at(gate, pending, now),
            None => self.start_gate(pending, starter, now),
        };
        pending.client.found_gate(found);
    }

    fn start_gate(
        &self,
        pending: &mut PendingConnection,
        starter: &mut HandlerStarter<'a>,
        now: Instant,
    ) -> FoundGate {
        // No client gets past a gate that is missing.
        let Some(gate) = &self.service.gate else {
            return FoundGate::Refused(Reason::GateFailed);
        };
        // It will be queued, and skd doesn't wait for new gates at its end.
        if self.queue.capacity_for(pending.client.source) == Capacity::Full {
            return FoundGate::Refused(Reason::Crowd);
        }
        if !self.thread.shared.is_in(Phase::Serving) || self.service.slots.are_spent() {
            return FoundGate::Refused(Reason::End);
        }
        let Some(slot) = gate.enter() else {
            return FoundGate::Refused(Reason::GateMax(gate.most.get()));
        };
        match starter.start_gate(self.service, gate, slot, pending) {
            Ok(live) => {
                let due = live.next(now);
                pending.gate = Some(Box::new(live));
                FoundGate::Runs(due)
            }
            Err(SpawnError::Shortage(_)) => FoundGate::Runs(Some(now + PAUSE)),
            Err(_) => FoundGate::Refused(Reason::GateFailed),
        }
    }

    fn look_at(
        &self,
        mut gate: Box<LiveGate>,
        pending: &mut PendingConnection,
        now: Instant,
    ) -> FoundGate {
        let listener = self.service.listeners.get(pending.listener);
        let client = Client {
            service: self.service.id,
            listener: listener.map_or(ListenerId::NONE, Listener::id),
            peer: &pending.client.peer,
        };
        let pid = gate.pid().as_raw();
        let due = match gate.look(now) {
            Sign::Ended(_, _, Some(GateStop::End)) => return FoundGate::Refused(Reason::End),
            Sign::Ended(_, after, Some(GateStop::Timeout)) => {
                return FoundGate::Refused(Reason::GateTimeout(after));
            }
            Sign::Ended(Ended::Exited(0), after, None) => {
                report::event(Event::GatePassed(client, pid, after));
                // Clients of skd and its handlers wait for input, whatever the gate has made of it.
                let _ = set_blocking(&pending.connection, true);
                return FoundGate::Passed;
            }
            Sign::Ended(ended, after, None) => {
                return FoundGate::Refused(Reason::Gate(ended, after));
            }
            Sign::Killed(due) => {
                report::event(Event::KillingGate(client, pid));
                due
            }
            Sign::Runs(due) => due,
        };
        pending.gate = Some(gate);
        FoundGate::Runs(due)
    }
}
