//! Bulk data through a handler: whether the server stands in the way.

use std::io;

use anyhow::Result;

use super::Bench;
use crate::handlers::{Handler, Reply};
use crate::load::{self, BulkOutcome};
use crate::options::Group;
use crate::peers::{Endpoint, Peer, Transport};
use crate::results::{BulkCell, BulkRound};

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
                Ok(outcome) => book(bench, round, &peer, transport, &handler, outcome),
                Err(error) => {
                    bench.note_error(&peer, transport, "bulk data broke off", &error.into());
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

fn book(
    bench: &mut Bench,
    round: u32,
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
        round,
        rate,
        complete: outcome.complete,
    };
    let same = |cell: &&mut BulkCell| {
        cell.server == peer.name && cell.transport == transport && cell.direction == handler.name
    };
    if let Some(cell) = bench.results.bulk.iter_mut().find(same) {
        cell.rounds.push(figures);
    } else {
        bench.results.bulk.push(BulkCell {
            server: peer.name.clone(),
            transport,
            direction: handler.name,
            rounds: vec![figures],
        });
    }
}
