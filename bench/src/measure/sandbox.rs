//! A sandbox for each connection: the rate beside skd without one, beside live sandboxes, and the memory of
//! these.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::live::{HOLD_DEADLINE, check_capacity};
use crate::handlers::Handler;
use crate::load::hold;
use crate::options::Group;
use crate::peers::{Peer, Server, Transport};
use crate::proc;
use crate::results::StreamKey;
use crate::samples::{SandboxMemoryRound, SandboxMemorySamples};

/// Live sandboxes, if no fewer are wanted.
const LIVE: usize = 5_000;

/// Handlers whose memory is read; all are the same.
const READ: usize = 200;

/// How long the kernel may take to end as many namespaces.
const ENDING: Duration = Duration::from_secs(60);

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let peers = turns(bench, round);
    // Without any sandbox there is nothing to compare.
    if !peers.iter().any(|peer| peer.only == Some(Group::Sandbox)) {
        return Ok(());
    }
    let handlers: Vec<Handler> = bench.handlers.answering().cloned().collect();
    let handlers = handlers.iter().filter(|handler| {
        // Those of other groups may be chosen too.
        matches!(handler.name, "tiny" | "dynamic")
    });
    for handler in handlers {
        for peer in &peers {
            rate(bench, round, peer, handler)?;
        }
    }
    for peer in peers.iter().filter(|peer| peer.processes_each == 1) {
        live(bench, round, peer)?;
    }
    Ok(())
}

/// The base server and all that make sandboxes.
fn turns(bench: &Bench, round: u32) -> Vec<Peer> {
    let base = bench.settings.base.clone();
    bench.turns(round, |peer| {
        let plain = peer.name == base || peer.before_of.as_ref() == Some(&base);
        plain || peer.only == Some(Group::Sandbox)
    })
}

fn rate(bench: &mut Bench, round: u32, peer: &Peer, handler: &Handler) -> Result<()> {
    bench.step(round, &format!("sandbox, {}: {}", handler.name, peer.name));
    let Some(server) = bench.start(peer, Transport::Tcp, handler) else {
        return Ok(());
    };
    let key = key(bench, peer, handler, 0);
    bench.measure_stream(round, peer, &server, handler, key, |samples| {
        &mut samples.sandbox
    })
}

fn key(bench: &Bench, peer: &Peer, handler: &Handler, live: usize) -> StreamKey {
    StreamKey {
        server: peer.name.clone(),
        transport: Transport::Tcp,
        handler: handler.name.to_owned(),
        clients: bench.settings.usual_clients(),
        live,
    }
}

/// Measures the rate of one server beside no live sandbox and beside many, and their memory.
fn live(bench: &mut Bench, round: u32, peer: &Peer) -> Result<()> {
    let wanted = bench.settings.live.iter().max();
    let count = wanted.map_or(LIVE, |most| *most.min(&LIVE));
    if count == 0 {
        return Ok(());
    }
    bench.step(round, &format!("{count} live sandboxes: {}", peer.name));
    let gate = bench.handlers.gate.clone();
    let Some(server) = bench.start(peer, Transport::Tcp, &gate) else {
        return Ok(());
    };
    let alone = key(bench, peer, &gate, 0);
    bench.measure_stream(round, peer, &server, &gate, alone, |samples| {
        &mut samples.sandbox_live
    })?;
    if let Err(reason) = check_capacity(peer, count) {
        let what = format!("{count} live sandboxes left out: {reason}");
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
        return Ok(());
    }
    server.await_idle(Duration::from_secs(1));
    let kernel = proc::kernel_kib()?;
    let held = hold(&server.endpoint, count, HOLD_DEADLINE, &bench.interrupted);
    if held.len() < count {
        let what = format!("holds only {} of {count} live sandboxes", held.len());
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
        return Ok(());
    }
    let figures = memory(&server, &gate, count, kernel)?;
    record(bench, peer, count, figures);
    let beside = key(bench, peer, &gate, count);
    bench.measure_stream(round, peer, &server, &gate, beside, |samples| {
        &mut samples.sandbox_live
    })?;
    drop(held);
    // The kernel's work for thousands of ends must not disturb the next measurement.
    if !server.await_idle(ENDING) {
        let what = "processes stay after their clients have disconnected".to_owned();
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
    }
    Ok(())
}

/// Returns the memory for each of so many live sandboxes, of which the kernel had used `before` without them.
fn memory(
    server: &Server,
    handler: &Handler,
    count: usize,
    before: u64,
) -> Result<SandboxMemoryRound> {
    let kernel = proc::kernel_kib()?.saturating_sub(before);
    let program = Path::new(&handler.words[0]);
    let (handlers, others): (Vec<_>, Vec<_>) = server
        .processes()?
        .into_iter()
        .partition(|pid| proc::runs(*pid, program));
    let sum = |pids: &[i32]| {
        let sizes = pids
            .iter()
            .filter_map(|pid| proc::proportional_kib(*pid).ok());
        sizes.sum::<u64>() as f64
    };
    let read = &handlers[..handlers.len().min(READ)];
    Ok(SandboxMemoryRound {
        handler: sum(read) / read.len() as f64,
        others: sum(&others) / count as f64,
        kernel: kernel as f64 / count as f64,
    })
}

fn record(bench: &mut Bench, peer: &Peer, live: usize, figures: SandboxMemoryRound) {
    let cells = &mut bench.samples.sandbox_memory;
    if let Some(cell) = cells.iter_mut().find(|cell| cell.server == peer.name) {
        return cell.rounds.push(figures);
    }
    cells.push(SandboxMemorySamples {
        server: peer.name.clone(),
        live,
        rounds: vec![figures],
    });
}
