//! The start of a gate: as that of a handler, but skd keeps the connection.

use super::start::{Starter, become_peer, write_environment};
use crate::child::{SpawnError, Spawned};
use crate::report::{self, Event, Trouble};
use crate::serve::admission::PendingConnection;
use crate::serve::gate::{Gate, GateSlot, LiveGate};
use crate::serve::service::Service;

/// Starts the gate of a pending connection, in a slot that was taken for it. Why it can't be started is
/// reported here.
pub(in crate::serve) fn start_gate(
    by: Starter<'_>,
    service: &Service,
    gate: &Gate,
    slot: GateSlot,
    pending: &PendingConnection,
) -> Result<LiveGate, SpawnError> {
    let Starter {
        handlers,
        thread,
        spawner,
        environment,
    } = by;
    let plan = &gate.source.plan;
    let peer = &pending.client.peer;
    let failed = |why: SpawnError| {
        let trouble = Trouble::Spawn(service.id, why.explain(plan));
        report::event(Event::Trouble(trouble));
        why
    };
    // Pending connections have listeners.
    let Some(listener) = service.listeners.get(pending.listener) else {
        return Err(SpawnError::Killed);
    };
    become_peer(spawner, (service.id, plan), peer, &pending.connection)?;
    let held = spawner.hold(&pending.connection);
    held.map_err(|errno| failed(SpawnError::Shortage(errno)))?;
    let rule = pending.client.rule();
    let client = (listener, peer, pending.session.as_ref());
    write_environment(environment, plan, client, rule);
    // So that it isn't taken for an orphan before it is known as a gate.
    let births = handlers.births.get(thread);
    let birth = births.map(super::Births::begin);
    let spawned = spawner.spawn(&gate.source, environment);
    spawner.release();
    let Spawned { pid, pidfd, .. } = spawned.map_err(failed)?;
    let times = (gate.timeout.into(), gate.kill_after);
    let live = LiveGate::new((pid, pidfd), times, slot, &handlers.gates);
    drop(birth);
    Ok(live)
}
