//! Scripts under skd beside servers in the same languages.

use super::{Section, clients_text, mark};
use crate::handlers::Language;
use crate::report::format::{median, micros, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::{Results, ScriptPoint};

pub(super) fn scripts(results: &Results) -> Section {
    let tables = Language::ALL.map(|language| table(results, language));
    Section {
        title: "What people would write instead",
        text: "One small service: it reads a line, and answers with a JSON object that has the line and its length. \
               Clients compare every answer, and no line is sent twice. Each language has it as a script for one \
               client, which skd runs in several ways, and as a server that accepts its clients itself. Scripts and \
               servers load the same modules, as many as small services do. *quick-exit* runs an unmodified script and \
               exits without Python's clean-up ([recipes.md](recipes.md) has it); *sitecustomize* does that in \
               an atexit function, and *os._exit* is in the script itself. A server that serves many clients in one \
               process starts nothing for them, but has none of what skd gives each client: a process of its own, with \
               limits, timeouts, another user, a sandbox. A server that forks has the process. The time to the first byte is \
               measured with one client that pauses for 20 ms after each connection: the median of the rounds' medians. \
               CPU time is of all processes of the server; memory is the proportional set size of all of them when \
               idle. Ratios are of the same round. WSGI servers such as gunicorn and uwsgi aren't compared, since they \
               speak HTTP only.",
        tables: Vec::from(tables),
        plots: "scripts",
    }
}

fn table(results: &Results, language: Language) -> Table {
    let mut points: Vec<&ScriptPoint> = results.scripts.iter().collect();
    points.retain(|point| point.language == language);
    let rate = |point: &ScriptPoint| point.rate.map_or(0.0, |rate| rate.median);
    points.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
    let reference = points.iter().find(|point| point.ratio.is_none());
    let reference = reference.map_or_else(String::new, |point| point.way.replace('*', ""));
    let mut versions = results.languages.iter();
    let version = versions.find(|(known, _)| *known == language);
    let version = version.map_or_else(String::new, |(_, version)| format!(" {version}"));
    let title = format!(
        "{}{version}, TCP, {}",
        language.as_str(),
        clients_text(results.settings.usual_clients())
    );
    let columns = [
        "connections a second".to_owned(),
        format!("\"{reference}\" over this"),
        "first byte".to_owned(),
        "CPU each".to_owned(),
        "idle memory (KiB)".to_owned(),
    ];
    let mut table = Table::of_figures(title, "way", columns);
    for point in points {
        table.row([
            point.way.clone(),
            spread(point.rate, thousands) + mark(point.failures),
            spread(point.ratio, ratio),
            median(point.first_byte.p50, micros),
            median(point.cpu, micros),
            median(point.memory, thousands),
        ]);
    }
    table
}
