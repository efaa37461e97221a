//! The rate while other handlers are live, held open by idle clients.
//!
//! The same handler is held and counted: it answers at once and lives until a byte or the end of
//! file comes. Idle clients send nothing, counted ones send the byte.

use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit};

use super::Bench;
use crate::load::{Held, hold};
use crate::options::Group;
use crate::peers::Peer;
use crate::proc::{self, ProcessTable};
use crate::results::StreamKey;

pub(super) const HOLD_DEADLINE: Duration = Duration::from_secs(60);
/// The memory of a tiny process with its connection, rounded up.
const KIB_A_PROCESS: u64 = 400;

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let handler = bench.handlers.gate.clone();
    let clients = bench.settings.usual_clients();
    for (peer, transport) in bench.usual_turns(round, Group::Live) {
        let Some(server) = bench.start(&peer, transport, &handler) else {
            for live in &bench.settings.live {
                bench.step(round, &format!("{live} live: {}", peer.name));
            }
            continue;
        };
        let mut held = Held::default();
        let mut possible = true;
        for live in bench.settings.live.clone() {
            let what = format!("{live} live, {clients} clients: {}", peer.name);
            if !bench.step(round, &what) || !possible {
                continue;
            }
            if let Err(reason) = check_capacity(&peer, live.saturating_sub(held.len())) {
                let what = format!("{live} live handlers left out: {reason}");
                bench.results.note(&peer.name, Some(transport), what);
                possible = false;
                continue;
            }
            let missing = live.saturating_sub(held.len());
            held.append(hold(
                &server.endpoint,
                missing,
                HOLD_DEADLINE,
                &bench.interrupted,
            ));
            if held.len() < live {
                let what = format!("holds only {} of {live} live handlers", held.len());
                bench.results.note(&peer.name, Some(transport), what);
                possible = false;
                continue;
            }
            let key = StreamKey {
                server: peer.name.clone(),
                transport,
                handler: handler.name.to_owned(),
                clients,
                live,
            };
            bench.measure_stream(round, &peer, &server, &handler, key, |samples| {
                &mut samples.live
            })?;
        }
        drop(held);
        // The kernel's work for thousands of ends must not disturb the next measurement.
        if !server.await_idle(Duration::from_secs(30)) {
            let what = "handlers stay after their clients have disconnected".to_owned();
            bench.results.note(&peer.name, Some(transport), what);
        }
    }
    Ok(())
}

/// Checks that the machine has processes, memory and descriptors for this many more handlers.
pub(super) fn check_capacity(peer: &Peer, more: usize) -> Result<(), String> {
    let processes = more * peer.processes_each;
    let running = ProcessTable::read().map_or(0, |table| table.len());
    let most = proc::pid_max() * 8 / 10;
    if running + processes > most {
        return Err(format!(
            "{processes} more processes exceed the limit of this machine"
        ));
    }
    let needed = processes as u64 * KIB_A_PROCESS;
    if proc::memory_available_kib().is_ok_and(|available| needed > available * 8 / 10) {
        return Err(format!("{} MiB of memory are not available", needed / 1024));
    }
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    if more as u64 + 200 > descriptors {
        return Err(format!("{descriptors} open files are not enough"));
    }
    Ok(())
}
