//! Time to the first byte and to the end.

use super::{Section, by_speed, clients_text, find, handlers};
use crate::report::format::{median, micros};
use crate::report::table::Table;
use crate::results::{Results, StreamPoint};
use crate::stats::Summary;

pub(super) fn latency(results: &Results) -> Section {
    let usual = results.settings.usual_clients();
    let points = ["p50", "p99", "p99.9"];
    let columns: Vec<String> = ["first byte", "end"]
        .iter()
        .flat_map(|what| points.iter().map(move |point| format!("{what} {point}")))
        .collect();
    let mut tables = Vec::new();
    for transport in &results.settings.transports {
        for handler in handlers(results) {
            for clients in &results.settings.clients {
                let title = format!(
                    "Latency, {transport}, handler {handler}, {}",
                    clients_text(*clients)
                );
                let mut table = Table::of_figures(title, "server", columns.iter().cloned());
                table.detail = handler != "tiny" || *clients != usual;
                let point =
                    |server: &str| find(&results.rates, server, *transport, handler, *clients);
                let quickness = |server: &str| {
                    let latency = point(server)?.end.p50;
                    Some(latency.map_or(f64::NEG_INFINITY, |latency| -latency.median))
                };
                for server in by_speed(results, quickness) {
                    let figures: [fn(&StreamPoint) -> Option<Summary>; 6] = [
                        |point| point.first_byte.p50,
                        |point| point.first_byte.p99,
                        |point| point.first_byte.p999,
                        |point| point.end.p50,
                        |point| point.end.p99,
                        |point| point.end.p999,
                    ];
                    let cells =
                        figures.map(|figure| median(point(&server).and_then(figure), micros));
                    table.row([server.clone()].into_iter().chain(cells));
                }
                tables.push(table);
            }
        }
    }
    Section {
        title: "Latency",
        text: "Time from the call of connect to the first byte and to the end of file: medians of \
               the rounds' percentiles. Clients and server share the cores, so latency grows with \
               the number of clients.",
        tables,
        plots: "latency",
    }
}
