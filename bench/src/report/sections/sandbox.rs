//! A sandbox for each connection.

use super::{Section, by_speed, clients_text, mark};
use crate::report::format::{NOTHING, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::{Results, StreamPoint};

pub(super) fn sandbox(results: &Results) -> Section {
    let mut handlers: Vec<&str> = Vec::new();
    for point in &results.sandbox {
        if !handlers.contains(&point.key.handler.as_str()) {
            handlers.push(&point.key.handler);
        }
    }
    let mut tables: Vec<_> = handlers
        .iter()
        .map(|handler| rates(results, handler))
        .collect();
    tables.push(live(results));
    tables.push(memory(results));
    Section {
        title: "Sandboxes",
        text: "*skd-sandbox* is skd with `--sandbox=strict`, *skd-contain* skd with `--contain`, *nsjail* \
               listens itself, and *skd-bwrap* is skd that runs bubblewrap for each connection. All but \
               *skd-contain* give each handler its own user, mount, PID, IPC, UTS and cgroup namespaces and a \
               network namespace without an interface, of which *skd-sandbox* makes some once for the service, \
               with a read-only /usr, a /tmp and a /proc of its own, and no capability. nsjail's filter is close \
               to that of skd; bubblewrap has none here. nsjail and bubblewrap get fewer files in /dev and /etc \
               than skd shows. Ratios are of the same round. Memory is for each live sandbox: of the handler \
               (its proportional share), of all other processes of the server divided by the number of \
               sandboxes, and what the kernel's slabs, page tables, stacks and data of each processor grew by, \
               sockets among them.",
        tables,
        plots: "sandbox",
    }
}

fn rates(results: &Results, handler: &str) -> Table {
    let title = format!(
        "Connections a second, handler {handler}, TCP, {}",
        clients_text(results.settings.usual_clients())
    );
    let columns = [
        "connections a second",
        "ratio to plain skd",
        "skd-sandbox over this",
    ];
    let mut table = Table::of_figures(title, "server", columns.map(str::to_owned));
    let find = |server: &str| {
        let points = results.sandbox.iter();
        let mut points = points.filter(|point| point.key.handler == handler);
        points.find(|point| point.key.server == server)
    };
    for server in by_speed(results, |server| Some(find(server)?.rate.median)) {
        let Some(point) = find(&server) else {
            continue;
        };
        let sandbox_over = point.over_sandbox.map(crate::stats::Summary::inverse);
        table.row([
            server,
            rate(point),
            spread(point.over_plain, ratio),
            spread(sandbox_over, ratio),
        ]);
    }
    table
}

fn live(results: &Results) -> Table {
    let point = |server: &str, live: bool| {
        let mut points = results.sandbox_live.iter();
        points.find(|point| point.key.server == server && (point.key.live > 0) == live)
    };
    let most = results.sandbox_live.iter().map(|point| point.key.live);
    let most = thousands(most.max().unwrap_or(0) as f64);
    let title = format!(
        "Connections a second beside live sandboxes, TCP, {}",
        clients_text(results.settings.usual_clients())
    );
    let columns = [
        "none live".to_owned(),
        format!("{most} live"),
        "most over none".to_owned(),
    ];
    let mut table = Table::of_figures(title, "server", columns);
    for server in by_speed(results, |server| Some(point(server, false)?.rate.median)) {
        let (none, many) = (point(&server, false), point(&server, true));
        let kept = none.zip(many);
        let kept = kept.map(|(none, many)| ratio(many.rate.median / none.rate.median));
        let text = |point: Option<&StreamPoint>| point.map_or_else(|| NOTHING.to_owned(), rate);
        table.row([
            server.clone(),
            text(none),
            text(many),
            kept.unwrap_or_else(|| NOTHING.to_owned()),
        ]);
    }
    table
}

fn rate(point: &StreamPoint) -> String {
    spread(Some(point.rate), thousands) + mark(point.failures)
}

fn memory(results: &Results) -> Table {
    let title = "Memory of each live sandbox, in KiB";
    let columns = ["handler", "other processes", "kernel"];
    let mut table = Table::of_figures(title, "server", columns.map(str::to_owned));
    let one = |figure: f64| format!("{figure:.1}");
    for point in &results.sandbox_memory {
        table.row([
            point.server.clone(),
            spread(point.handler, one),
            spread(point.others, one),
            spread(point.kernel, one),
        ]);
    }
    table
}
