//! The rate of the bare kernel, and the servers' shares of it.

use super::{Section, by_speed, clients_text, find, handlers, plural};
use crate::peers::Transport;
use crate::report::format::{median, micros, percent, spread, thousands};
use crate::report::table::Table;
use crate::results::Results;

pub(super) fn kernel(results: &Results) -> Section {
    let threads = results.settings.kernel_threads;
    let title = format!(
        "Programs a second, bare kernel, {}",
        plural(threads, "thread")
    );
    let columns = ["programs/s", "CPU each"].map(str::to_owned);
    let mut bare = Table::of_figures(title, "handler", columns);
    for point in &results.kernel {
        bare.row([
            point.handler.clone(),
            spread(Some(point.rate), thousands),
            median(Some(point.cpu), micros),
        ]);
    }
    let usual = results.settings.usual_clients();
    let names = handlers(results);
    let title = format!("Share of the bare kernel, TCP, {}", clients_text(usual));
    let mut shares =
        Table::of_figures(title, "server", names.iter().map(|name| (*name).to_owned()));
    let share = |server: &str, handler: &str| {
        find(&results.rates, server, Transport::Tcp, handler, usual)?.kernel_share
    };
    let order = by_speed(results, |server| {
        Some(share(server, names.first()?)?.median)
    });
    for server in order {
        let cells = names
            .iter()
            .map(|handler| spread(share(&server, handler), percent));
        shares.row([server.clone()].into_iter().chain(cells));
    }
    Section {
        title: "The bare kernel",
        text: "The upper limit for any launcher: the same programs started by vfork-style clone, \
               exec and wait, without a socket, on as many threads as skd has acceptors. A share \
               is the rate of a server over that of the bare kernel on the cores that the clients \
               left free.",
        tables: vec![bare, shares],
        plots: "kernel",
    }
}
