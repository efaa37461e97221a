//! Datagram services.

use anyhow::Result;

use super::Bench;
use crate::load::{DatagramLoad, DatagramOutcome};
use crate::peers::{Endpoint, Peer, Transport};
use crate::samples::{DatagramRound, DatagramSamples, RoundPercentiles};

/// More clients change little, since most servers run one handler at a time.
const CLIENTS: [usize; 2] = [1, 8];

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let handler = bench.handlers.datagram.clone();
    for clients in CLIENTS {
        for peer in bench.turns(round, |peer| peer.recipes.contains_key(&Transport::Udp)) {
            if !bench.step(
                round,
                &format!("datagrams, {clients} clients: {}", peer.name),
            ) {
                continue;
            }
            let Some(server) = bench.start(&peer, Transport::Udp, &handler) else {
                continue;
            };
            let Endpoint::Udp(address) = server.endpoint else {
                continue;
            };
            let load = DatagramLoad {
                address,
                clients,
                window: bench.settings.window,
                interrupted: &bench.interrupted,
            };
            let outcome = load.run()?;
            record(bench, &peer, clients, &outcome);
        }
    }
    Ok(())
}

fn record(bench: &mut Bench, peer: &Peer, clients: usize, outcome: &DatagramOutcome) {
    for (count, what) in [
        (outcome.lost, "unanswered"),
        (outcome.wrong, "answered wrongly"),
    ] {
        if count > 0 {
            let s = if clients == 1 { "" } else { "s" };
            let what = format!("datagrams {what}, {clients} client{s}");
            bench.results.note(&peer.name, Some(Transport::Udp), what);
        }
    }
    let figures = DatagramRound {
        rate: outcome.answered as f64 / bench.settings.window.as_secs_f64(),
        latency: RoundPercentiles::of(&outcome.latency),
        lost: outcome.lost,
        wrong: outcome.wrong,
    };
    let cells = &mut bench.samples.datagrams;
    let same = |cell: &&mut DatagramSamples| cell.server == peer.name && cell.clients == clients;
    if let Some(cell) = cells.iter_mut().find(same) {
        cell.rounds.push(figures);
    } else {
        let rounds = vec![figures];
        cells.push(DatagramSamples {
            server: peer.name.clone(),
            clients,
            rounds,
        });
    }
}
