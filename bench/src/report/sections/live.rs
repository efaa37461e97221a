//! The rate beside live handlers.

use super::{Section, by_speed, clients_text, rate_text};
use crate::peers::Transport;
use crate::report::format::{NOTHING, percent, thousands};
use crate::report::table::Table;
use crate::results::Results;

pub(super) fn live(results: &Results) -> Section {
    let levels = &results.settings.live;
    let point = |server: &str, transport, live| {
        results.live.iter().find(|point| {
            let key = &point.key;
            key.server == server && key.transport == transport && key.live == live
        })
    };
    let median_of = |server: &str, transport, live| {
        point(server, transport, live).map(|point| point.rate.median)
    };
    let mut tables = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        let title = format!(
            "Connections a second beside live handlers, {transport}, {}",
            clients_text(results.settings.usual_clients())
        );
        let columns = levels
            .iter()
            .map(|live| format!("{} live", thousands(*live as f64)))
            .chain(["most over fewest".to_owned()]);
        let mut table = Table::of_figures(title, "server", columns);
        let (fewest, most) = (levels.first().copied(), levels.last().copied());
        let speed = |server: &str| {
            levels
                .iter()
                .rev()
                .find_map(|live| median_of(server, transport, *live))
        };
        for server in by_speed(results, speed) {
            let rates = levels
                .iter()
                .map(|live| rate_text(point(&server, transport, *live)));
            let at = |live: Option<usize>| median_of(&server, transport, live?);
            let kept = at(most.filter(|_| levels.len() > 1))
                .zip(at(fewest).filter(|rate| *rate > 0.0))
                .map(|(most, fewest)| percent(most / fewest));
            let kept = kept.unwrap_or_else(|| NOTHING.to_owned());
            table.row([server.clone()].into_iter().chain(rates).chain([kept]));
        }
        tables.push(table);
    }
    Section {
        title: "Live handlers",
        text: "The rate while thousands of other handlers are live, each with an idle client. The \
               handler answers at once and ends when the client sends a byte. A server that waits \
               for any child makes the kernel search all of them, and slows down.",
        tables,
        plots: "live",
    }
}
