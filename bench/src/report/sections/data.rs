//! Bulk data and datagrams.

use super::{Section, by_speed, clients_text, positive};
use crate::peers::Transport;
use crate::report::format::{NOTHING, median, micros, spread, thousands};
use crate::report::table::Table;
use crate::results::Results;
use crate::stats::Summary;

pub(super) fn bulk(results: &Results) -> Section {
    let mib = results.settings.bulk_bytes >> 20;
    let directions = ["send", "echo"];
    let mut tables = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        let title = format!("MiB a second, {transport}, {} MiB", thousands(mib as f64));
        let mut table = Table::of_figures(title, "server", directions.map(str::to_owned));
        let rate = |server: &str, direction: &str| {
            let cell = results.bulk.iter().find(|cell| {
                cell.server == server && cell.transport == transport && cell.direction == direction
            })?;
            Summary::of(cell.rounds.iter().map(|round| round.rate))
        };
        for server in by_speed(results, |server| Some(rate(server, "send")?.median)) {
            let cells = directions.map(|direction| spread(rate(&server, direction), thousands));
            table.row([server.clone()].into_iter().chain(cells));
        }
        tables.push(table);
    }
    Section {
        title: "Bulk data",
        text: "One connection: *send*, `cat` of a file to the client; *echo*, `cat` of what the \
               client sends, both ways at once. A server that hands its handler the socket itself \
               is out of the way and all of these are alike; a relay moves every byte twice more.",
        tables,
        plots: "bulk",
    }
}

pub(super) fn datagrams(results: &Results) -> Section {
    let mut counts: Vec<usize> = results.datagrams.iter().map(|cell| cell.clients).collect();
    counts.sort_unstable();
    counts.dedup();
    let columns = counts.iter().flat_map(|clients| {
        let clients = clients_text(*clients);
        [
            clients.clone(),
            format!("p50, {clients}"),
            format!("lost, {clients}"),
        ]
    });
    let mut table = Table::of_figures("Datagram services a second, UDP", "server", columns);
    let cell = |server: &str, clients: usize| {
        results
            .datagrams
            .iter()
            .find(|cell| cell.server == server && cell.clients == clients)
    };
    let speed = |server: &str| {
        let rounds = &cell(server, *counts.last()?)?.rounds;
        Some(Summary::of(rounds.iter().map(|round| round.rate))?.median)
    };
    for server in by_speed(results, speed) {
        let cells = counts.iter().flat_map(|clients| {
            let Some(cell) = cell(&server, *clients) else {
                return [NOTHING, NOTHING, NOTHING].map(str::to_owned);
            };
            let rounds = &cell.rounds;
            let lost: u64 = rounds.iter().map(|round| round.lost).sum();
            [
                spread(
                    Summary::of(rounds.iter().map(|round| round.rate)),
                    thousands,
                ),
                median(
                    Summary::of(rounds.iter().map(|round| positive(round.latency.p50))),
                    micros,
                ),
                thousands(lost as f64),
            ]
        });
        table.row([server.clone()].into_iter().chain(cells));
    }
    Section {
        title: "Datagrams",
        text: "One program for each datagram, which comes from a new sender each time: it reads the \
               datagram, sends it back and ends. Most servers, skd among them unless told \
               otherwise, hand it the listening socket and run one at a time, so more clients bring \
               little; skd-per-packet, skd-per-peer, busybox and socat run many. Lost is what had no answer after half a second.",
        tables: vec![table],
        plots: "datagrams",
    }
}
