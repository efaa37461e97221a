//! Connections a second, and their ratios.

use super::{Section, by_speed, clients_text, find, handlers, rate_text};
use crate::report::format::{NOTHING, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::Results;

pub(super) fn rates(results: &Results) -> Section {
    let usual = results.settings.usual_clients();
    let names = handlers(results);
    let mut tables = Vec::new();
    let mut details = Vec::new();
    for transport in &results.settings.transports {
        let order = |handler: &str, clients| {
            by_speed(results, |server| {
                let point = find(&results.rates, server, *transport, handler, clients)?;
                Some(point.rate.median)
            })
        };
        let title = format!("Connections a second, {transport}, {}", clients_text(usual));
        let mut table =
            Table::of_figures(title, "server", names.iter().map(|name| (*name).to_owned()));
        let Some(first) = names.first() else { continue };
        for server in order(first, usual) {
            let cells = names.iter().map(|handler| {
                rate_text(find(&results.rates, &server, *transport, handler, usual))
            });
            table.row([server.clone()].into_iter().chain(cells));
        }
        tables.push(table);
        for handler in &names {
            let title = format!("Connections a second, {transport}, handler {handler}");
            let columns = results
                .settings
                .clients
                .iter()
                .map(|clients| clients_text(*clients));
            let mut table = Table::of_figures(title, "server", columns).into_detail();
            for server in order(handler, usual) {
                let cells = results.settings.clients.iter().map(|clients| {
                    rate_text(find(&results.rates, &server, *transport, handler, *clients))
                });
                table.row([server.clone()].into_iter().chain(cells));
            }
            details.push(table);
        }
    }
    tables.extend(details);
    Section {
        title: "Connections a second",
        text: "Each client connects, reads the answer to the end, compares it and begins again. \
               Figures are medians, with the least and the most of the rounds in brackets. \
               Handlers: *tiny* is a static program of two system calls; *dynamic* is `echo ok`, \
               linked to the C library; *shell* is a script for `/bin/sh`; *python* is one for \
               Python 3. The dashed line in the plots is the rate of the bare kernel, see below.",
        tables,
        plots: "rates",
    }
}

pub(super) fn ratios(results: &Results) -> Section {
    let base = &results.settings.base;
    let usual = results.settings.usual_clients();
    let mut tables = Vec::new();
    for transport in &results.settings.transports {
        let rates = handlers(results)
            .into_iter()
            .map(|handler| (handler.to_owned(), handler, 0));
        let live = results
            .settings
            .live
            .iter()
            .map(|live| (format!("{} live", thousands(*live as f64)), "gate", *live));
        let mut columns: Vec<_> = rates.chain(live).collect();
        let ratio_to = |server: &str, handler: &str, live: usize| {
            let points = if handler == "gate" {
                &results.live
            } else {
                &results.rates
            };
            let point = points.iter().find(|point| {
                let key = &point.key;
                key.server == server
                    && key.transport == *transport
                    && key.handler == handler
                    && key.clients == usual
                    && key.live == live
            })?;
            point.ratio
        };
        let others: Vec<_> = results
            .servers
            .iter()
            .filter(|server| server.name != *base)
            .collect();
        columns.retain(|(_, handler, live)| {
            others
                .iter()
                .any(|server| ratio_to(&server.name, handler, *live).is_some())
        });
        let title = format!("{base} over each, {transport}, {}", clients_text(usual));
        let mut table = Table::of_figures(
            title,
            "server",
            columns.iter().map(|(title, ..)| title.clone()),
        );
        for server in others {
            let ratios: Vec<String> = columns
                .iter()
                .map(|(_, handler, live)| spread(ratio_to(&server.name, handler, *live), ratio))
                .collect();
            if ratios.iter().any(|ratio| ratio != NOTHING) {
                table.row([server.name.clone()].into_iter().chain(ratios));
            }
        }
        tables.push(table);
    }
    Section {
        title: "Ratios",
        text: "The rate of the base server over that of each other server: above 1 the base server \
               is faster. Ratios are taken within a round, in which the measurements are close in \
               time. Compare ratios only within a run: absolute figures depend on the machine.",
        tables,
        plots: "ratios",
    }
}
