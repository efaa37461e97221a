//! CPU time for each connection, memory, and start of a server.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, cpu_each};
use crate::load::hold;
use crate::options::Group;
use crate::peers::{Peer, Server, Transport};
use crate::samples::{CostRound, CostSamples};

/// Longer windows, since the kernel counts CPU time in hundredths of a second.
const WINDOWS: u32 = 2;

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    for (peer, transport) in bench.usual_turns(round, Group::Cost) {
        if !bench.step(round, &format!("cost: {}", peer.name)) {
            continue;
        }
        let tiny = bench.tiny.clone();
        let Some(server) = bench.start(&peer, transport, &tiny) else {
            continue;
        };
        match busy(bench, &server) {
            Ok(mut figures) => {
                let program_bytes = server.program_size().ok();
                // One server at a time.
                drop(server);
                figures.memory_each = memory_each(bench, &peer, transport);
                record(bench, &peer, transport, program_bytes, figures);
            }
            Err(error) => {
                bench.note_error(&peer, transport, "ended during the measurement", &error)
            }
        }
    }
    Ok(())
}

fn busy(bench: &Bench, server: &Server) -> Result<CostRound> {
    let settle = Duration::from_millis(300);
    server.await_idle(settle);
    let idle_memory = server.anonymous_kib()? as f64;
    let before = server.cpu_times()?;
    let window = bench.settings.window * WINDOWS;
    let outcome = bench.load(server, &bench.tiny, bench.settings.usual_clients(), window)?;
    server.await_idle(settle);
    let cpu = server.cpu_times()?.since(before);
    let each = |time| cpu_each(time, outcome.completed);
    Ok(CostRound {
        first_answer: server.first_answer.as_secs_f64() * 1e6,
        server_cpu: each(cpu.own),
        children_cpu: each(cpu.children),
        load_cpu: each(outcome.cpu),
        idle_memory,
        memory_each: None,
    })
}

/// Returns the KiB of the server for each live handler; `None` if it does not hold them.
fn memory_each(bench: &mut Bench, peer: &Peer, transport: Transport) -> Option<f64> {
    let gate = bench.handlers.gate.clone();
    let count = bench.settings.cost_live;
    let server = bench.start(peer, transport, &gate)?;
    server.await_idle(Duration::from_millis(300));
    let before = server.anonymous_kib().ok()?;
    let held = hold(
        &server.endpoint,
        count,
        Duration::from_secs(30),
        &bench.interrupted,
    );
    let after = server.anonymous_kib().ok()?;
    if held.len() < count {
        let what = format!("holds only {} of {count} live handlers", held.len());
        bench.results.note(&peer.name, Some(transport), what);
        return None;
    }
    drop(held);
    server.await_idle(Duration::from_secs(10));
    Some(after.saturating_sub(before) as f64 / count as f64)
}

fn record(
    bench: &mut Bench,
    peer: &Peer,
    transport: Transport,
    program_bytes: Option<u64>,
    figures: CostRound,
) {
    let cells = &mut bench.samples.costs;
    let same = |cell: &CostSamples| cell.server == peer.name && cell.transport == transport;
    if let Some(cell) = cells.iter_mut().find(|cell| same(cell)) {
        cell.rounds.push(figures);
    } else {
        let rounds = vec![figures];
        cells.push(CostSamples {
            server: peer.name.clone(),
            transport,
            program_bytes,
            rounds,
        });
    }
}
