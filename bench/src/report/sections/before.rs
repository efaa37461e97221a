//! A new binary and the one before.

use super::{Section, clients_text, mark};
use crate::report::format::{micros, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::{AlonePoint, Results, StreamPoint};

const COLUMNS: [&str; 3] = ["before", "now", "now over before"];

pub(super) fn before(results: &Results) -> Section {
    Section {
        title: "Compared with the binary before",
        text: "The two binaries are measured next to each other, and take turns in being first. \
               Ratios are taken within a round: the median, with the least and the most in \
               brackets.",
        tables: vec![rates(results), first_bytes(results)],
        plots: "before",
    }
}

fn rates(results: &Results) -> Table {
    let title = "Connections a second; above 1 is faster";
    let mut table = Table::of_figures(title, "work", COLUMNS.map(str::to_owned));
    for points in [&results.rates, &results.live, &results.prestart] {
        for (now, before) in pairs(results, points) {
            table.row([
                work(now),
                spread(Some(before.rate), thousands) + mark(before.failures),
                spread(Some(now.rate), thousands) + mark(now.failures),
                spread(before.ratio, ratio),
            ]);
        }
    }
    table
}

fn pairs<'a>(
    results: &'a Results,
    points: &'a [StreamPoint],
) -> impl Iterator<Item = (&'a StreamPoint, &'a StreamPoint)> {
    let befores = results.servers.iter().flat_map(|server| {
        let of_server = |point: &&StreamPoint| point.key.server == server.name;
        points.iter().filter(of_server)
    });
    befores.filter_map(|before| {
        let server = results.before_of(&before.key.server)?;
        let now = points.iter().find(|now| {
            now.key.server == server
                && now.key.transport == before.key.transport
                && now.key.handler == before.key.handler
                && now.key.clients == before.key.clients
                && now.key.live == before.key.live
        })?;
        Some((now, before))
    })
}

fn work(point: &StreamPoint) -> String {
    let key = &point.key;
    let live = if key.live > 0 {
        format!(", {} live", thousands(key.live as f64))
    } else {
        String::new()
    };
    format!(
        "{}, {}, {}, {}{live}",
        key.server,
        key.handler,
        key.transport,
        clients_text(key.clients)
    )
}

fn first_bytes(results: &Results) -> Table {
    let title = "Time to the first byte, one client at a time; below 1 is faster";
    let mut table = Table::of_figures(title, "work", COLUMNS.map(str::to_owned));
    let befores = results.servers.iter().flat_map(|server| {
        let of_server = |point: &&AlonePoint| point.server == server.name;
        results.prestart_alone.iter().filter(of_server)
    });
    for before in befores {
        let Some(server) = results.before_of(&before.server) else {
            continue;
        };
        let same = |now: &&AlonePoint| {
            now.server == server
                && now.transport == before.transport
                && now.handler == before.handler
        };
        let Some(now) = results.prestart_alone.iter().find(same) else {
            continue;
        };
        table.row([
            format!("{}, {}, {}", now.server, now.handler, now.transport),
            spread(before.first_byte.p50, micros) + mark(before.failures),
            spread(now.first_byte.p50, micros) + mark(now.failures),
            spread(before.ratio, ratio),
        ]);
    }
    table
}
