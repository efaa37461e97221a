//! Bulk data and datagrams.

use super::{Section, by_speed, clients_text};
use crate::peers::Transport;
use crate::report::format::{NOTHING, median, micros, spread, thousands};
use crate::report::table::Table;
use crate::results::Results;

pub(super) fn bulk(results: &Results) -> Section {
    let mib = results.settings.bulk_bytes >> 20;
    let directions = ["send", "echo"];
    let mut tables = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        let title = format!("MiB a second, {transport}, {} MiB", thousands(mib as f64));
        let mut table = Table::of_figures(title, "server", directions.map(str::to_owned));
        let rate = |server: &str, direction: &str| {
            let point = results.bulk.iter().find(|point| {
                point.server == server
                    && point.transport == transport
                    && point.direction == direction
            })?;
            Some(point.rate)
        };
        for server in by_speed(results, |server| Some(rate(server, "send")?.median)) {
            let cells = directions.map(|direction| spread(rate(&server, direction), thousands));
            table.row([server.clone()].into_iter().chain(cells));
        }
        tables.push(table);
    }
    Section {
        title: "Bulk data",
        text: "One connection: *send* is `cat` of a file to the client; *echo* is `cat` of the \
               client's data, both ways at once. A server that passes the socket to its handler \
               takes no part in the transfer. A relay copies every byte twice more.",
        tables,
        plots: "bulk",
    }
}

pub(super) fn datagrams(results: &Results) -> Section {
    let mut counts: Vec<usize> = results
        .datagrams
        .iter()
        .map(|point| point.clients)
        .collect();
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
    let point = |server: &str, clients: usize| {
        results
            .datagrams
            .iter()
            .find(|point| point.server == server && point.clients == clients)
    };
    let speed = |server: &str| Some(point(server, *counts.last()?)?.rate.median);
    for server in by_speed(results, speed) {
        let cells = counts.iter().flat_map(|clients| {
            let Some(point) = point(&server, *clients) else {
                return [NOTHING, NOTHING, NOTHING].map(str::to_owned);
            };
            [
                spread(Some(point.rate), thousands),
                median(point.latency.p50, micros),
                thousands(point.lost as f64),
            ]
        });
        table.row([server.clone()].into_iter().chain(cells));
    }
    Section {
        title: "Datagrams",
        text: "The handler reads one datagram, sends it back and ends. Servers that pass it the \
               listening socket, as skd does by default, run one handler at a time, so more \
               clients add little. A datagram counts as lost without an answer after half a \
               second.",
        tables: vec![table],
        plots: "datagrams",
    }
}
