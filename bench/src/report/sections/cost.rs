//! CPU time, memory, size and start of each server.

use super::{Section, by_speed};
use crate::peers::Transport;
use crate::report::format::{NOTHING, median, spread, thousands};
use crate::report::table::Table;
use crate::results::Results;

pub(super) fn costs(results: &Results) -> Section {
    let columns = [
        "start to first answer (ms)",
        "CPU, server (µs)",
        "CPU, children (µs)",
        "CPU, clients (µs)",
        "idle memory (KiB)",
        "memory a live handler (KiB)",
        "program (KiB)",
    ];
    let mut tables = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        let title = format!("Cost, {transport}");
        let mut table = Table::of_figures(title, "server", columns.map(str::to_owned));
        let point = |server: &str| {
            results
                .costs
                .iter()
                .find(|point| point.server == server && point.transport == transport)
        };
        let cheapness = |server: &str| {
            let cpu = point(server)?.cpu;
            Some(cpu.map_or(f64::NEG_INFINITY, |cpu| -cpu.median))
        };
        for server in by_speed(results, cheapness) {
            let Some(point) = point(&server) else {
                continue;
            };
            let program = point.program_bytes;
            table.row([
                server.clone(),
                spread(point.first_answer, |micros| {
                    format!("{:.1}", micros / 1000.0)
                }),
                spread(point.server_cpu, thousands),
                spread(point.children_cpu, thousands),
                median(point.load_cpu, thousands),
                median(point.idle_memory, thousands),
                median(point.memory_each, |kib| format!("{kib:.2}")),
                program.map_or_else(
                    || NOTHING.to_owned(),
                    |bytes| thousands(bytes as f64 / 1024.0),
                ),
            ]);
        }
        tables.push(table);
    }
    Section {
        title: "Cost",
        text: "CPU time for each connection with the tiny handler: of the server, of its children \
               (including fork before exec), and of the clients. Memory is anonymous memory \
               (RssAnon) of the server when idle, and what each live handler adds, including relay \
               processes. The start lasts from exec of the server to the end of its first answer.",
        tables,
        plots: "cost",
    }
}
