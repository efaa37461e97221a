//! Which plots there are and what they show.

use super::format::thousands;
use super::sections::{rate_of, reading_handlers};
use super::svg::{Bar, BarChart, Line, LineChart, Panel, Scale, Theme};
use crate::peers::Transport;
use crate::results::Results;
use crate::stats::Summary;

pub(super) struct Plot {
    pub name: String,
    pub title: String,
    chart: Chart,
}

enum Chart {
    Bars(BarChart),
    Lines(LineChart),
}

impl Plot {
    pub(super) fn file(&self, theme: &Theme) -> String {
        format!("{}-{}.svg", self.name, theme.name)
    }

    pub(super) fn render(&self, theme: &Theme) -> String {
        match &self.chart {
            Chart::Bars(chart) => chart.render(&self.title, theme),
            Chart::Lines(chart) => chart.render(&self.title, theme),
        }
    }
}

/// Those that have something to show.
pub(super) fn all(results: &Results) -> Vec<Plot> {
    let mut plots = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        plots.extend(rates(results, transport));
    }
    for transport in [Transport::Tcp, Transport::Unix] {
        plots.extend(live(results, transport));
    }
    for transport in [Transport::Tcp, Transport::Unix] {
        plots.extend(latency(results, transport));
    }
    for transport in [Transport::Tcp, Transport::Unix] {
        plots.extend(ahead_rates(results, transport));
        plots.extend(ahead_first_bytes(results, transport));
    }
    plots
}

fn named(kind: &str, transport: Transport) -> String {
    format!("{kind}-{transport}").to_lowercase()
}

fn rates(results: &Results, transport: Transport) -> Option<Plot> {
    let clients = results.settings.usual_clients();
    let panel = |handler: &'static str| {
        let bars = results.rates.iter().filter(|cell| {
            let key = &cell.key;
            key.transport == transport && key.handler == handler && key.clients == clients
        });
        let mut bars: Vec<Bar> = bars
            .filter_map(|cell| {
                let value = rate_of(cell)?;
                let emphasised = cell.key.server == results.settings.base;
                Some(Bar {
                    label: cell.key.server.clone(),
                    value,
                    emphasised,
                })
            })
            .collect();
        bars.sort_by(|a, b| b.value.median.total_cmp(&a.value.median));
        let kernel = results
            .kernel
            .iter()
            .find(|kernel| kernel.handler == handler);
        let limit = kernel
            .and_then(|kernel| Summary::of(kernel.rounds.iter().map(|round| round.rate)))
            .map(|summary| (summary.median, "bare kernel".to_owned()));
        (!bars.is_empty()).then(|| Panel {
            title: format!("handler: {handler}"),
            bars,
            limit,
        })
    };
    let handlers = results.settings.handlers.iter();
    let panels: Vec<Panel> = handlers
        .filter_map(|handler| panel(handler.as_str()))
        .collect();
    (!panels.is_empty()).then(|| Plot {
        name: named("rates", transport),
        title: format!("Connections a second, {transport}, {clients} clients"),
        chart: Chart::Bars(BarChart { panels }),
    })
}

fn ahead_rates(results: &Results, transport: Transport) -> Option<Plot> {
    let clients = results.settings.usual_clients();
    let bars = |handler: &str| {
        let cells = results.ahead.iter().filter(|cell| {
            let key = &cell.key;
            key.transport == transport && key.handler == handler && key.clients == clients
        });
        let mut bars: Vec<Bar> = cells
            .filter_map(|cell| Some(bar(results, &cell.key.server, rate_of(cell)?)))
            .collect();
        bars.sort_by(|a, b| b.value.median.total_cmp(&a.value.median));
        bars
    };
    by_handler(
        results,
        named("ahead-rates", transport),
        format!("Connections a second, handlers that read a line, {transport}, {clients} clients"),
        bars,
    )
}

fn ahead_first_bytes(results: &Results, transport: Transport) -> Option<Plot> {
    let bars = |handler: &str| {
        let cells = results
            .ahead_alone
            .iter()
            .filter(|cell| cell.transport == transport && cell.handler == handler);
        let mut bars: Vec<Bar> = cells
            .filter_map(|cell| Some(bar(results, &cell.server, cell.first_byte()?)))
            .collect();
        bars.sort_by(|a, b| a.value.median.total_cmp(&b.value.median));
        bars
    };
    by_handler(
        results,
        named("ahead-first-byte", transport),
        format!("Microseconds to the first byte, {transport}, one client at a time"),
        bars,
    )
}

/// The base server stands out, in all its modes.
fn bar(results: &Results, server: &str, value: Summary) -> Bar {
    Bar {
        label: server.to_owned(),
        value,
        emphasised: results.is_base(server),
    }
}

fn by_handler(
    results: &Results,
    name: String,
    title: String,
    bars: impl Fn(&str) -> Vec<Bar>,
) -> Option<Plot> {
    let panels: Vec<Panel> = reading_handlers(results)
        .into_iter()
        .map(|handler| Panel {
            title: format!("handler: {handler}"),
            bars: bars(handler),
            limit: None,
        })
        .filter(|panel| !panel.bars.is_empty())
        .collect();
    (!panels.is_empty()).then_some(Plot {
        name,
        title,
        chart: Chart::Bars(BarChart { panels }),
    })
}

fn live(results: &Results, transport: Transport) -> Option<Plot> {
    let levels = &results.settings.live;
    if levels.len() < 2 {
        return None;
    }
    let mut lines: Vec<Line> = Vec::new();
    for server in &results.servers {
        let cells = results
            .live
            .iter()
            .filter(|cell| cell.key.server == server.name && cell.key.transport == transport);
        let mut points: Vec<(f64, f64)> = cells
            .filter_map(|cell| Some((cell.key.live as f64, rate_of(cell)?.median)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !points.is_empty() {
            let emphasised = server.name == results.settings.base;
            lines.push(Line {
                label: server.name.clone(),
                points,
                emphasised,
            });
        }
    }
    let ticks = levels
        .iter()
        .map(|live| (*live as f64, thousands(*live as f64)))
        .collect();
    (!lines.is_empty()).then(|| Plot {
        name: named("live", transport),
        title: format!("Connections a second beside live handlers, {transport}"),
        chart: Chart::Lines(LineChart {
            lines,
            x_title: "live handlers".to_owned(),
            x_ticks: ticks,
            y_title: "connections a second".to_owned(),
            scale: Scale::Linear,
        }),
    })
}

fn latency(results: &Results, transport: Transport) -> Option<Plot> {
    let clients = results.settings.usual_clients();
    let cells = results.rates.iter().filter(|cell| {
        let key = &cell.key;
        key.transport == transport && key.handler == "tiny" && key.clients == clients
    });
    let lines: Vec<Line> = cells
        .filter_map(|cell| {
            let points = cell.end.points();
            let points: Vec<(f64, f64)> = points
                .iter()
                .map(|(percent, micros)| (nines(*percent), *micros as f64 / 1000.0))
                .collect();
            (points.len() > 1).then(|| Line {
                label: cell.key.server.clone(),
                points,
                emphasised: cell.key.server == results.settings.base,
            })
        })
        .collect();
    let furthest = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.0)
        .fold(0.0, f64::max);
    let ticks = [
        (10.0, "10 %"),
        (50.0, "50 %"),
        (90.0, "90 %"),
        (99.0, "99 %"),
        (99.9, "99.9 %"),
        (99.99, "99.99 %"),
    ];
    let ticks = ticks
        .into_iter()
        .map(|(percent, label)| (nines(percent), label.to_owned()))
        .filter(|(position, _)| *position <= furthest + 1e-9)
        .collect();
    (!lines.is_empty()).then(|| Plot {
        name: named("latency", transport),
        title: format!(
            "Latency to the end of the answer, {transport}, tiny handler, {clients} clients"
        ),
        chart: Chart::Lines(LineChart {
            lines,
            x_title: "share of connections that took no longer".to_owned(),
            x_ticks: ticks,
            y_title: "milliseconds".to_owned(),
            scale: Scale::Logarithmic,
        }),
    })
}

/// How many nines a percentile has: each takes the same width, so that the tail can be seen.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}
