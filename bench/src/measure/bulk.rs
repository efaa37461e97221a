//! Bulk data through a handler.

use std::io;

use anyhow::Result;

use super::Bench;
use crate::handlers::{Handler, Reply};
use crate::load::{self, BulkOutcome};
use crate::options::Group;
use crate::peers::{Endpoint, Peer, Transport};
use crate::samples::{BulkRound, BulkSamples};

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    for handler in [bench.handlers.send.clone(), bench.handlers.echo.clone()] {
        for (peer, transport) in bench.usual_turns(round, Group::Bulk) {
            if !bench.step(round, &format!("bulk, {}: {}", handler.name, peer.name)) {
                continue;
            }
            let Some(server) = bench.start(&peer, transport, &handler) else {
                continue;
            };
            match transfer(bench, &server.endpoint, &handler) {
                Ok(outcome) => record(bench, &peer, transport, &handler, outcome),
                Err(error) => {
                    bench.note_error(&peer, transport, "bulk transfer failed", &error.into());
                }
            }
        }
    }
    Ok(())
}

fn transfer(bench: &Bench, endpoint: &Endpoint, handler: &Handler) -> io::Result<BulkOutcome> {
    let timeout = bench.settings.timeout;
    match handler.reply {
        Reply::Send(count) => load::receive(endpoint, count, timeout),
        _ => load::echo(endpoint, bench.settings.bulk_bytes, timeout),
    }
}

fn record(
    bench: &mut Bench,
    peer: &Peer,
    transport: Transport,
    handler: &Handler,
    outcome: BulkOutcome,
) {
    if !outcome.complete {
        let what = format!(
            "bulk data incomplete, {}: {} of {} bytes",
            handler.name, outcome.received, bench.settings.bulk_bytes
        );
        bench.results.note(&peer.name, Some(transport), what);
    }
    let mib = outcome.received as f64 / f64::from(1 << 20);
    let rate = mib / outcome.took.as_secs_f64().max(1e-9);
    let figures = BulkRound {
        rate,
        complete: outcome.complete,
    };
    let same = |cell: &&mut BulkSamples| {
        cell.server == peer.name && cell.transport == transport && cell.direction == handler.name
    };
    if let Some(cell) = bench.samples.bulk.iter_mut().find(same) {
        cell.rounds.push(figures);
    } else {
        bench.samples.bulk.push(BulkSamples {
            server: peer.name.clone(),
            transport,
            direction: handler.name.to_owned(),
            rounds: vec![figures],
        });
    }
}
