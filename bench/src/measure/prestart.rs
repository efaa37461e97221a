//! Programs that read a line and answer it, prestarted or not: the time to the first byte with one
//! client, and the rate with several.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::handlers::Handler;
use crate::load::{AloneLoad, AloneOutcome};
use crate::options::Group;
use crate::peers::{Peer, Server, Transport};
use crate::results::StreamKey;
use crate::samples::{AloneRound, AloneSamples, RoundPercentiles};

/// Prestarted processes are ready when none starts or ends for this time, or a third of it in a
/// quick run.
const QUIET: Duration = Duration::from_millis(300);
const PRESTART_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let handlers: Vec<Handler> = bench.handlers.reading().cloned().collect();
    let clients = bench.settings.usual_clients();
    for mut handler in handlers {
        if bench.settings.quick {
            handler.windows = 1;
        }
        for (peer, transport) in bench.usual_turns(round, Group::Prestart) {
            let what = format!(
                "{transport}, {}, 1 and {clients} clients: {}",
                handler.name, peer.name
            );
            if !bench.step(round, &what) {
                continue;
            }
            let Some(server) = bench.start(&peer, transport, &handler) else {
                continue;
            };
            if !is_prestarted(bench, &peer, transport, &server, &handler) {
                continue;
            }
            alone(bench, round, &peer, transport, &server, &handler);
            is_prestarted(bench, &peer, transport, &server, &handler);
            let key = StreamKey {
                server: peer.name.clone(),
                transport,
                handler: handler.name.to_owned(),
                clients,
                live: 0,
            };
            bench.measure_stream(round, &peer, &server, &handler, key, |samples| {
                &mut samples.prestart
            })?;
        }
    }
    Ok(())
}

/// Waits until the prestarted handlers are ready. A server without any is reported and not
/// measured.
pub(super) fn is_prestarted(
    bench: &mut Bench,
    peer: &Peer,
    transport: Transport,
    server: &Server,
    handler: &Handler,
) -> bool {
    let quiet = QUIET / if bench.settings.quick { 3 } else { 1 };
    if !peer.prestarts || server.await_prestarted(quiet, PRESTART_TIMEOUT) > 0 {
        return true;
    }
    let what = format!("prestarts no handler '{}'", handler.name);
    bench.results.note(&peer.name, Some(transport), what);
    false
}

/// The pause between connections. It is longer than the start of the handler, so that the server
/// can replace what a client used.
const fn pause(handler: &Handler) -> Duration {
    Duration::from_millis(if is_slow(handler) { 100 } else { 10 })
}

const fn is_slow(handler: &Handler) -> bool {
    handler.windows > 1
}

fn alone(
    bench: &mut Bench,
    round: u32,
    peer: &Peer,
    transport: Transport,
    server: &Server,
    handler: &Handler,
) {
    // Long pauses leave time for few connections.
    let longer = if is_slow(handler) { 2 } else { 1 };
    let load = AloneLoad {
        endpoint: &server.endpoint,
        window: bench.settings.window * handler.windows * longer,
        pause: pause(handler),
        timeout: bench.settings.timeout,
        reply: handler.reply,
        interrupted: &bench.interrupted,
    };
    let outcome = load.run();
    if outcome.failures.total() > 0 {
        bench.note_failed(peer, transport, 1, handler);
    }
    record(bench, round, peer, transport, handler, &outcome);
}

fn record(
    bench: &mut Bench,
    round: u32,
    peer: &Peer,
    transport: Transport,
    handler: &Handler,
    outcome: &AloneOutcome,
) {
    let cells = &mut bench.samples.prestart_alone;
    let same = |cell: &AloneSamples| {
        cell.server == peer.name && cell.transport == transport && cell.handler == handler.name
    };
    let index = cells.iter().position(same).unwrap_or_else(|| {
        cells.push(AloneSamples::new(
            peer.name.clone(),
            transport,
            handler.name.to_owned(),
        ));
        cells.len() - 1
    });
    let cell = &mut cells[index];
    cell.first_byte.add(&outcome.first);
    cell.rounds.push(AloneRound {
        round,
        failures: outcome.failures,
        first_byte: RoundPercentiles::of(&outcome.first),
        end: RoundPercentiles::of(&outcome.end),
    });
}
