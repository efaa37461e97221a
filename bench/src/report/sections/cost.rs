//! What a server costs.

use super::{Section, by_speed};
use crate::peers::Transport;
use crate::report::format::{NOTHING, median, spread, thousands};
use crate::report::table::Table;
use crate::results::{CostRound, Results};
use crate::stats::Summary;

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
        let cell = |server: &str| {
            results
                .costs
                .iter()
                .find(|cell| cell.server == server && cell.transport == transport)
        };
        let cheapness = |server: &str| {
            let rounds = cell(server)?.rounds.iter();
            let cpu = Summary::of(rounds.map(|round| round.server_cpu + round.children_cpu));
            Some(cpu.map_or(f64::NEG_INFINITY, |cpu| -cpu.median))
        };
        for server in by_speed(results, cheapness) {
            let Some(cell) = cell(&server) else { continue };
            let of = |figure: fn(&CostRound) -> f64| Summary::of(cell.rounds.iter().map(figure));
            let each = Summary::of(cell.rounds.iter().filter_map(|round| round.memory_each));
            let program = cell.program_bytes;
            table.row([
                server.clone(),
                spread(of(|round| round.first_answer / 1000.0), |ms| {
                    format!("{ms:.1}")
                }),
                spread(of(|round| round.server_cpu), thousands),
                spread(of(|round| round.children_cpu), thousands),
                median(of(|round| round.load_cpu), thousands),
                median(of(|round| round.idle_memory), thousands),
                median(each, |kib| format!("{kib:.2}")),
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
               (what a fork costs before exec counts there), and of the clients. Anonymous memory \
               (RssAnon) of the server when idle, and what each live handler adds, relays that \
               stay beside their handler included. The size of the program, and the time from \
               its start to the end of its first answer.",
        tables,
        plots: "cost",
    }
}
