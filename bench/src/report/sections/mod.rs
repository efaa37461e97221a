//! The figures in tables, by topic.

mod before;
mod cost;
mod data;
mod growth;
mod kernel;
mod latency;
mod live;
mod prestart;
mod rates;
mod sandbox;
mod scripts;
mod servers;
mod services;
mod tls;

use super::format::{NOTHING, spread, thousands};
use super::table::Table;
use crate::peers::Transport;
use crate::results::{Results, StreamPoint};

pub(in crate::report) struct Section {
    pub(in crate::report) title: &'static str,
    /// What the figures mean and how they were measured, as Markdown.
    pub(in crate::report) text: &'static str,
    pub(in crate::report) tables: Vec<Table>,
    /// The prefix of the file names of its plots.
    pub(in crate::report) plots: &'static str,
}

/// The title of the section on the servers' commands.
pub(in crate::report) const SERVERS: &str = "Servers";

/// Returns the sections that have figures.
pub(in crate::report) fn all(results: &Results) -> Vec<Section> {
    let sections = [
        before::before(results),
        rates::rates(results),
        rates::ratios(results),
        prestart::prestart(results),
        scripts::scripts(results),
        live::live(results),
        latency::latency(results),
        kernel::kernel(results),
        cost::costs(results),
        services::services(results),
        growth::growth(results),
        sandbox::sandbox(results),
        tls::tls(results),
        data::bulk(results),
        data::datagrams(results),
        servers::servers(results),
    ];
    let mut sections = Vec::from(sections);
    for section in &mut sections {
        section.tables.retain(|table| !table.is_empty());
    }
    sections.retain(|section| !section.tables.is_empty());
    sections
}

pub(in crate::report) fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let settings = &results.settings;
    format!(
        "{}, {} cores{}, {} MiB of memory, Linux {} ({}), {}; {} of {} s{}; {}",
        machine.cpu,
        machine.cores,
        if machine.virtual_machine {
            " of a virtual machine"
        } else {
            ""
        },
        thousands(machine.memory_mib as f64),
        machine.kernel,
        machine.architecture,
        machine.distribution,
        plural(settings.rounds as usize, "round"),
        settings.window.as_secs_f64(),
        if settings.quick {
            " (a quick run: its figures mean nothing)"
        } else {
            ""
        },
        results.date,
    )
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{} {what}s", thousands(count as f64))
    }
}

/// Returns what a reader must know to trust the figures.
pub(in crate::report) fn notes(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    if results.interrupted {
        lines.push("The run was interrupted: its figures are incomplete.".to_owned());
    }
    if results.settings.rounds < 5 {
        lines.push("Fewer than five rounds: the medians mean little.".to_owned());
    }
    if results.machine.load_before > 0.5 {
        lines.push(format!(
            "The machine was not idle before the run: load average {:.2}.",
            results.machine.load_before
        ));
    }
    let failed = results.failed_connections(|_| true);
    lines.push(if failed == 0 {
        "Every counted connection got its full answer.".to_owned()
    } else {
        format!(
            "{} FAILED: figures with (!) are of runs with failures.",
            plural(usize::try_from(failed).unwrap_or(usize::MAX), "connection")
        )
    });
    for problem in &results.problems {
        let transport = problem
            .transport
            .map_or_else(String::new, |kind| format!(", {kind}"));
        let times = if problem.times > 1 {
            format!(" ({} times)", problem.times)
        } else {
            String::new()
        };
        lines.push(format!(
            "{}{transport}: {}{times}",
            problem.server, problem.what
        ));
    }
    for missing in &results.missing {
        lines.push(format!(
            "{}: not installed (Debian package {})",
            missing.name, missing.package
        ));
    }
    lines
}

/// Returns the servers for which `weight` returns a figure, the greatest first.
fn by_speed(results: &Results, weight: impl Fn(&str) -> Option<f64>) -> Vec<String> {
    let names = results.servers.iter().map(|server| server.name.clone());
    let mut weighed: Vec<(String, f64)> = names
        .filter_map(|name| weight(&name).map(|weight| (name, weight)))
        .collect();
    weighed.sort_by(|a, b| b.1.total_cmp(&a.1));
    weighed.into_iter().map(|(name, _)| name).collect()
}

fn find<'a>(
    points: &'a [StreamPoint],
    server: &str,
    transport: Transport,
    handler: &str,
    clients: usize,
) -> Option<&'a StreamPoint> {
    points.iter().find(|point| {
        let key = &point.key;
        key.server == server
            && key.transport == transport
            && key.handler == handler
            && key.clients == clients
    })
}

fn rate_text(point: Option<&StreamPoint>) -> String {
    point.map_or_else(
        || NOTHING.to_owned(),
        |point| spread(Some(point.rate), thousands) + mark(point.failures),
    )
}

const fn mark(failures: u64) -> &'static str {
    if failures > 0 { " (!)" } else { "" }
}

fn handlers(results: &Results) -> Vec<&'static str> {
    results
        .settings
        .handlers
        .iter()
        .filter(|handler| !handler.reads_a_line())
        .map(|handler| handler.as_str())
        .collect()
}

/// The handlers of the section on prestarted handlers.
pub(in crate::report) fn reading_handlers(results: &Results) -> Vec<&'static str> {
    results
        .settings
        .handlers
        .iter()
        .filter(|handler| handler.reads_a_line())
        .map(|handler| handler.as_str())
        .collect()
}

fn clients_text(clients: usize) -> String {
    plural(clients, "client")
}
