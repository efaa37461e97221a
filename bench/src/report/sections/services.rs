//! One skd with many services.

use super::{Section, mark};
use crate::report::format::{median, spread, thousands};
use crate::report::table::Table;
use crate::results::Results;

pub(super) fn services(results: &Results) -> Section {
    let columns = [
        "start (ms)",
        "end (ms)",
        "memory (KiB)",
        "each service (bytes)",
        "descriptors",
        "threads",
        "connections a second",
        "ratio to one service",
        "ratio, spread over all",
        "own CPU (µs)",
        "own CPU, spread over all (µs)",
    ];
    let mut table = Table::of_figures("Services", "services", columns.map(str::to_owned));
    let ratio = |ratio| format!("{ratio:.2}");
    for point in &results.services {
        table.row([
            thousands(point.services as f64),
            spread(point.start, thousands),
            spread(point.end, thousands),
            median(point.memory, thousands),
            median(point.memory_each, thousands),
            median(point.descriptors, thousands),
            median(point.threads, thousands),
            spread(point.rate, thousands) + mark(point.failures),
            spread(point.ratio, ratio),
            spread(point.spread_ratio, ratio),
            median(point.cpu, thousands),
            median(point.spread_cpu, thousands),
        ]);
    }
    Section {
        title: "Services",
        text: "One skd with many services, each on a TCP address of its own, with the tiny handler. The \
               start lasts from exec to the end of the first answer of the last service, the end from \
               TERM to the exit. Memory is RssAnon of the idle daemon. The ratios are to a daemon with \
               one service, in short turns of the same round: once with all clients at one service of the \
               many, and once with connections to all of them in turn. The first row, a daemon with one \
               service beside another, shows how far apart equal ones are.",
        tables: vec![table],
        plots: "services",
    }
}
