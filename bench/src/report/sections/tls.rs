//! TLS before a handler.

use super::{Section, by_speed, clients_text, mark};
use crate::peers::TLS;
use crate::report::format::{NOTHING, median, micros, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::{Results, TlsBulkPoint, TlsKind, TlsPoint, Way};

pub(super) fn tls(results: &Results) -> Section {
    Section {
        title: "TLS",
        text: "*skd-tls* is skd with `--tls`: one process has the TLS of all connections. *haproxy-skd* is haproxy \
               with the TLS in front of skd, to which it sends PROXY headers. *stunnel* listens itself and runs the \
               handler (`exec`), a thread and a process for each connection; *stunnel-inetd* is tcpserver that runs \
               a stunnel for each. *s6-tlsserver* and *socat-tls* have a process for each connection, beside the \
               handler. All use TLS 1.3 with AES-128-GCM and X25519 (socat: P-256), and the same clients. Each short \
               connection starts the handler *tiny*, reads its answer and ends by close_notify. CPU time is of all \
               processes of a server, handlers among them; clients share the cores with it, so that it tells \
               servers apart more clearly than the rate. Ratios are of the same round.",
        tables: vec![
            rates(results),
            cpu(results),
            first_byte(results),
            bulk(results),
            idle(results),
        ],
        plots: "tls",
    }
}

/// The kinds that have several clients, and what their columns are called.
const KINDS: [(TlsKind, &str); 3] = [
    (TlsKind::Ecdsa, "ECDSA P-256"),
    (TlsKind::Rsa, "RSA-2048"),
    (TlsKind::Resumed, "resumed"),
];

/// Fewer resumed connections than this share don't make a figure of resumed handshakes.
const RESUMES: f64 = 0.5;

fn find<'a>(results: &'a Results, server: &str, kind: TlsKind) -> Option<&'a TlsPoint> {
    let mut points = results.tls.iter();
    points.find(|point| point.server == server && point.kind == kind)
}

fn names(results: &Results) -> Vec<String> {
    by_speed(results, |server| {
        Some(find(results, server, TlsKind::Ecdsa)?.rate.median)
    })
}

/// Returns the text of a point of this kind, if it is one.
fn cell(point: Option<&TlsPoint>, text: impl Fn(&TlsPoint) -> String) -> String {
    match point {
        None => NOTHING.to_owned(),
        Some(point) if point.kind == TlsKind::Resumed && point.resumed.median < RESUMES => {
            "doesn't resume".to_owned()
        }
        Some(point) => text(point),
    }
}

fn rates(results: &Results) -> Table {
    let title = format!(
        "Connections a second by handshake, TCP, {}",
        clients_text(results.settings.usual_clients())
    );
    let columns = KINDS
        .iter()
        .flat_map(|(_, name)| [(*name).to_owned(), format!("{TLS} over this")]);
    let mut table = Table::of_figures(title, "server", columns);
    for server in names(results) {
        let mut cells = vec![server.clone()];
        for (kind, _) in KINDS {
            let point = find(results, &server, kind);
            cells.push(cell(point, |point| {
                spread(Some(point.rate), thousands) + mark(point.failures)
            }));
            let ratios =
                point.filter(|point| kind != TlsKind::Resumed || point.resumed.median >= RESUMES);
            cells.push(spread(ratios.and_then(|point| point.ratio), ratio));
        }
        table.row(cells);
    }
    table
}

fn cpu(results: &Results) -> Table {
    let title = "CPU time of the server for each connection, handler included";
    let mut columns: Vec<_> = KINDS
        .iter()
        .flat_map(|(_, name)| [(*name).to_owned(), format!("over {TLS}")])
        .collect();
    columns.push("clients, ECDSA".to_owned());
    columns.push("without close_notify".to_owned());
    let mut table = Table::of_figures(title, "server", columns);
    for server in names(results) {
        let mut cells = vec![server.clone()];
        for (kind, _) in KINDS {
            let point = find(results, &server, kind);
            cells.push(cell(point, |point| spread(point.cpu, micros)));
            let ratios =
                point.filter(|point| kind != TlsKind::Resumed || point.resumed.median >= RESUMES);
            cells.push(spread(ratios.and_then(|point| point.cpu_ratio), ratio));
        }
        let ecdsa = find(results, &server, TlsKind::Ecdsa);
        cells.push(median(ecdsa.and_then(|point| point.load_cpu), micros));
        let unclean = ecdsa.map(|point| point.unclean);
        cells.push(median(unclean, crate::report::format::percent));
        table.row(cells);
    }
    table
}

fn first_byte(results: &Results) -> Table {
    let title =
        "Time from connect to the first byte of the answer, one client, full handshake, ECDSA";
    let columns = ["median", "99th percentile"];
    let mut table = Table::of_figures(title, "server", columns.map(str::to_owned));
    for server in names(results) {
        if let Some(point) = find(results, &server, TlsKind::Alone) {
            table.row([
                server,
                spread(point.first_byte.p50, micros),
                spread(point.first_byte.p99, micros),
            ]);
        }
    }
    table
}

fn bulk(results: &Results) -> Table {
    let title = format!(
        "Bulk data through one connection, {} MiB each way",
        results.settings.bulk_bytes >> 20
    );
    let columns = [
        "MiB/s to the client".to_owned(),
        format!("{TLS} over this"),
        "CPU ms a MiB".to_owned(),
        "MiB/s to the handler".to_owned(),
        format!("{TLS} over this"),
        "CPU ms a MiB".to_owned(),
    ];
    let mut table = Table::of_figures(title, "server", columns);
    let find = |server: &str, way| {
        let mut points = results.tls_bulk.iter();
        points.find(|point| point.server == server && point.way == way)
    };
    let rate =
        |point: &TlsBulkPoint| spread(Some(point.rate), thousands) + mark(point.incomplete as u64);
    let two = |figure: f64| format!("{figure:.2}");
    for server in by_speed(results, |server| {
        Some(find(server, Way::ToClient)?.rate.median)
    }) {
        let mut cells = vec![server.clone()];
        for way in [Way::ToClient, Way::ToHandler] {
            let point = find(&server, way);
            cells.push(point.map_or_else(|| NOTHING.to_owned(), rate));
            cells.push(spread(point.and_then(|point| point.ratio), ratio));
            cells.push(spread(point.and_then(|point| point.cpu), two));
        }
        table.row(cells);
    }
    table
}

fn idle(results: &Results) -> Table {
    let live = results.tls_idle.iter().map(|point| point.live).max();
    let title = format!(
        "Memory of each of {} idle connections, in KiB",
        thousands(live.unwrap_or(0) as f64)
    );
    let columns = ["skd-tls's process", "other processes", "handler", "kernel"];
    let mut table = Table::of_figures(title, "server", columns.map(str::to_owned));
    let one = |figure: f64| format!("{figure:.1}");
    for point in &results.tls_idle {
        table.row([
            point.server.clone(),
            point.skd_tls.map_or_else(|| NOTHING.to_owned(), one),
            one(point.others),
            one(point.handler),
            one(point.kernel),
        ]);
    }
    table
}
