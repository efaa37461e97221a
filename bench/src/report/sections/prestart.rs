//! Handlers that are started before their clients connect, and the same handlers started on demand.

use super::{Section, by_speed, clients_text, find, mark, rate_text, reading_handlers};
use crate::peers::Transport;
use crate::report::format::{NOTHING, micros, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::{AlonePoint, Results};
use crate::stats::Summary;

const WARM: &str = "skd-warm";
const FORK_SERVER: &str = "skd-fork-server";

/// The ways to prestart handlers, in the order of columns.
const WAYS: [&str; 4] = [
    WARM,
    FORK_SERVER,
    "skd-fork-server-start",
    "skd-fork-server-shared",
];

/// Goals for the fork server: the least ratio of its rate to that of the best peer.
const RATE_GOALS: [(&str, f64); 5] = [
    ("cat", 2.5),
    ("bash", 2.5),
    ("perl", 10.0),
    ("python-quick", 25.0),
    ("python-full", 3.0),
];

/// Goals for warm handlers: the greatest ratio of their time to the first byte to that of exec.
const FIRST_BYTE_GOALS: [(&str, f64); 5] = [
    ("cat", 1.0 / 3.0),
    ("bash", 1.0 / 3.0),
    ("perl", 1.0 / 20.0),
    ("python-quick", 1.0 / 20.0),
    ("python-full", 1.0 / 20.0),
];

pub(super) fn prestart(results: &Results) -> Section {
    let mut tables = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        tables.push(rates(results, transport));
        tables.push(first_bytes(results, transport));
    }
    // Most peers have no unix sockets.
    tables.push(over_best_peer(results, Transport::Tcp));
    tables.push(share_of_plain(results, Transport::Tcp));
    Section {
        title: "Prestarted handlers",
        text: "Programs that read one line and answer with it; clients compare every answer. \
               *skd-warm* is skd with `--warm 32`, *skd-fork-server* is skd with `--fork-server`, \
               *skd-fork-server-start* and *skd-fork-server-shared* are its modes `start` and `shared`. \
               All others start the program when a client connects. Handlers: *cat*, unmodified; \
               *bash*, a script of two builtins; *perl*, a script that loads nine core modules; \
               *python-quick*, a script that imports seven modules and exits by `os._exit`; \
               *python-full*, the same with Python's full exit. Measuring begins when all \
               prestarted processes are ready. Rates are counted after a quarter of the time, when \
               these are used up. The time to the first byte is measured with one client that \
               pauses after each connection for 10 ms, or for 100 ms with Perl and Python. It is \
               the median of the rounds' medians, and the 99th percentile of all rounds.",
        tables,
        plots: "prestart",
    }
}

fn rates(results: &Results, transport: Transport) -> Table {
    let clients = results.settings.usual_clients();
    let title = format!(
        "Connections a second, {transport}, {}",
        clients_text(clients)
    );
    table_by_server(results, title, |server, handler| {
        let point = find(&results.prestart, server, transport, handler, clients)?;
        Some((point.rate.median, rate_text(Some(point))))
    })
}

fn first_bytes(results: &Results, transport: Transport) -> Table {
    let title = format!("Time to the first byte, {transport}, one client at a time: median, p99");
    table_by_server(results, title, |server, handler| {
        let point = alone(results, server, transport, handler)?;
        let median = point.first_byte.p50?.median;
        let p99 = point.first_byte_p99;
        let p99 = p99.map_or_else(|| NOTHING.to_owned(), |p99| time(p99 as f64));
        let text = format!("{}, {p99}{}", time(median), mark(point.failures));
        Some((-median, text))
    })
}

/// A column for each handler, and the best server of the first handler first.
fn table_by_server(
    results: &Results,
    title: String,
    cell: impl Fn(&str, &str) -> Option<(f64, String)>,
) -> Table {
    let handlers = reading_handlers(results);
    let columns = handlers.iter().map(|name| (*name).to_owned());
    let mut table = Table::of_figures(title, "server", columns);
    let weight = |server: &str| {
        let mut cells = handlers.iter().map(|handler| cell(server, handler));
        cells.find_map(|cell| cell.map(|(weight, _)| weight))
    };
    for server in by_speed(results, weight) {
        let cells = handlers.iter().map(|handler| {
            cell(&server, handler).map_or_else(|| NOTHING.to_owned(), |(_, text)| text)
        });
        table.row([server.clone()].into_iter().chain(cells));
    }
    table
}

/// A row for each handler, with a column for each way, a goal, and whether it is reached.
fn table_by_handler(title: String, first: &[&str]) -> Table {
    let columns = first.iter().chain(&WAYS).chain(&["goal", "reached"]);
    let columns = columns.map(|name| (*name).to_owned());
    Table::of_figures(title, "handler", columns)
}

fn over_best_peer(results: &Results, transport: Transport) -> Table {
    let clients = results.settings.usual_clients();
    let base = &results.settings.base;
    let title = format!(
        "Connections a second over the best peer's, {transport}, {}",
        clients_text(clients)
    );
    let mut table = table_by_handler(title, &["best peer", base]);
    for handler in reading_handlers(results) {
        let Some(best) = results.best_peer(transport, handler, clients) else {
            continue;
        };
        let over = |server: &str| {
            find(&results.prestart, server, transport, handler, clients)?.over_best_peer
        };
        let goal = goal(&RATE_GOALS, handler);
        let reached = verdict(over(FORK_SERVER), goal, |ratio, goal| ratio >= goal);
        let first = [
            handler.to_owned(),
            format!("{}: {}", best.key.server, thousands(best.rate.median)),
            spread(over(base), ratio),
        ];
        let goal = goal.map_or_else(
            || NOTHING.to_owned(),
            |goal| format!("{FORK_SERVER} ≥ {goal}"),
        );
        let ways = WAYS.map(|server| spread(over(server), ratio));
        table.row(first.into_iter().chain(ways).chain([goal, reached]));
    }
    table
}

fn share_of_plain(results: &Results, transport: Transport) -> Table {
    let base = &results.settings.base;
    let title =
        format!("Time to the first byte as a share of {base}'s, {transport}, one client at a time");
    let mut table = table_by_handler(title, &[base]);
    for handler in reading_handlers(results) {
        let point = |server: &str| alone(results, server, transport, handler);
        let Some(plain) = point(base).and_then(|plain| plain.first_byte.p50) else {
            continue;
        };
        let share = |server: &str| point(server)?.share;
        if !WAYS.iter().any(|server| share(server).is_some()) {
            continue;
        }
        let goal = goal(&FIRST_BYTE_GOALS, handler);
        let reached = verdict(share(WARM), goal, |share, goal| share <= goal);
        let first = [handler.to_owned(), time(plain.median)];
        let goal = goal.map_or_else(
            || NOTHING.to_owned(),
            |goal| format!("{WARM} ≤ {}", thousandths(goal)),
        );
        let ways = WAYS.map(|server| spread(share(server), thousandths));
        table.row(first.into_iter().chain(ways).chain([goal, reached]));
    }
    table
}

fn alone<'a>(
    results: &'a Results,
    server: &str,
    transport: Transport,
    handler: &str,
) -> Option<&'a AlonePoint> {
    results.prestart_alone.iter().find(|point| {
        point.server == server && point.transport == transport && point.handler == handler
    })
}

fn goal(goals: &[(&str, f64)], handler: &str) -> Option<f64> {
    let goal = goals.iter().find(|(name, _)| *name == handler)?;
    Some(goal.1)
}

fn verdict(
    figure: Option<Summary>,
    goal: Option<f64>,
    reaches: impl Fn(f64, f64) -> bool,
) -> String {
    let reached = figure
        .zip(goal)
        .map(|(figure, goal)| reaches(figure.median, goal));
    match reached {
        Some(true) => "yes",
        Some(false) => "no",
        None => NOTHING,
    }
    .to_owned()
}

/// Microseconds, or milliseconds with a decimal.
fn time(figure: f64) -> String {
    if (10_000.0..100_000.0).contains(&figure) {
        format!("{:.1} ms", figure / 1000.0)
    } else {
        micros(figure)
    }
}

fn thousandths(figure: f64) -> String {
    format!("{figure:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_reached_or_not() {
        let figure = |median| Summary::of([median]);
        let at_least = |figure: f64, goal: f64| figure >= goal;
        assert_eq!(goal(&RATE_GOALS, "perl"), Some(10.0));
        assert_eq!(goal(&FIRST_BYTE_GOALS, "none of them"), None);
        assert_eq!(verdict(figure(2.5), Some(2.5), at_least), "yes");
        assert_eq!(verdict(figure(2.4), Some(2.5), at_least), "no");
        assert_eq!(verdict(figure(2.4), None, at_least), NOTHING);
        assert_eq!(verdict(None, Some(2.5), at_least), NOTHING);
    }

    #[test]
    fn goals_are_set_for_handlers_that_there_are() {
        use clap::ValueEnum;
        let names: Vec<&str> = crate::options::HandlerName::value_variants()
            .iter()
            .filter(|handler| handler.reads_a_line())
            .map(|handler| handler.as_str())
            .collect();
        for (name, _) in RATE_GOALS.iter().chain(&FIRST_BYTE_GOALS) {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn times_are_short_and_tell_enough() {
        assert_eq!(time(220.0), "220 µs");
        assert_eq!(time(15_740.0), "15.7 ms");
        assert_eq!(time(123_456.0), "123 ms");
    }
}
