//! Scripts under skd beside servers that are written in the same languages.

use std::time::Duration;

use anyhow::Result;

use super::prestart::is_prestarted;
use super::{Bench, cpu_each};
use crate::handlers::{Handler, ITSELF, WAYS, Way};
use crate::load::AloneLoad;
use crate::peers::{Peer, Server, Transport};
use crate::proc;
use crate::samples::{RoundPercentiles, ScriptRound, ScriptSamples};

/// The time between the connections of one client alone.
const PAUSE: Duration = Duration::from_millis(20);

/// How long children that have ended may wait for their server to take note.
const SETTLE: Duration = Duration::from_millis(700);

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let mut ways: Vec<&'static Way> = WAYS.iter().collect();
    if bench.settings.quick {
        // Each is similar to another that stays.
        ways.retain(|way| way.reference || way.server == ITSELF);
    }
    let first = round as usize % ways.len();
    ways.rotate_left(first);
    for way in ways {
        let peer = bench.peers.iter().find(|peer| peer.name == way.server);
        let Some(peer) = peer.cloned() else {
            continue;
        };
        let what = format!("{}: {}", way.language.as_str(), way.name);
        if !bench.step(round, &what) {
            continue;
        }
        let Some(handler) = prepared(bench, way) else {
            continue;
        };
        let Some(server) = bench.start(&peer, Transport::Tcp, &handler) else {
            continue;
        };
        if is_prestarted(bench, &peer, Transport::Tcp, &server, &handler) {
            measure(bench, round, way, &peer, &server, &handler)?;
        }
    }
    Ok(())
}

/// Returns the program, or notes once why there is none.
fn prepared(bench: &mut Bench, way: &'static Way) -> Option<Handler> {
    let made = bench
        .scripts
        .iter()
        .find(|(known, _)| std::ptr::eq(*known, way));
    if let Some((_, handler)) = made {
        return handler.clone();
    }
    let handler = way.handler(bench.workspace.folder());
    let handler = handler.map_err(|error| {
        let what = format!("left out: {error:#}");
        bench.results.note(way.language.as_str(), None, what);
    });
    let handler = handler.ok();
    bench.scripts.push((way, handler.clone()));
    handler
}

fn measure(
    bench: &mut Bench,
    round: u32,
    way: &'static Way,
    peer: &Peer,
    server: &Server,
    handler: &Handler,
) -> Result<()> {
    let clients = bench.settings.usual_clients();
    let memory = memory(server)?;
    let alone = AloneLoad {
        endpoint: &server.endpoint,
        window: bench.settings.window,
        pause: PAUSE,
        timeout: bench.settings.timeout,
        reply: handler.reply,
        interrupted: &bench.interrupted,
    };
    let alone = alone.run();
    is_prestarted(bench, peer, Transport::Tcp, server, handler);
    server.await_idle(SETTLE);
    let before = server.cpu_of_all()?;
    let window = bench.settings.window * 2;
    let outcome = bench.load(server, handler, clients, window)?;
    server.await_idle(SETTLE);
    let cpu = server.cpu_of_all()?.saturating_sub(before);
    let failures = alone.failures.total() + outcome.failures.total();
    if failures > 0 {
        let name = if way.server == ITSELF {
            way.language.as_str()
        } else {
            &peer.name
        };
        let what = format!("{failures} connections failed: {}", way.name);
        bench.results.note(name, Some(Transport::Tcp), what);
    }
    let figures = ScriptRound {
        round,
        failures,
        rate: outcome.in_window as f64 / window.as_secs_f64(),
        first_byte: RoundPercentiles::of(&alone.first),
        cpu: cpu_each(cpu, outcome.completed),
        memory,
    };
    let cells = &mut bench.samples.scripts;
    match cells.iter_mut().find(|cell| std::ptr::eq(cell.way, way)) {
        Some(cell) => cell.rounds.push(figures),
        None => cells.push(ScriptSamples {
            way,
            rounds: vec![figures],
        }),
    }
    Ok(())
}

/// Returns the KiB of all processes of an idle server; a page that n processes share counts as 1/n.
fn memory(server: &Server) -> Result<f64> {
    let processes = server.processes()?.into_iter();
    let sizes = processes.filter_map(|pid| proc::proportional_kib(pid).ok());
    Ok(sizes.sum::<u64>() as f64)
}
