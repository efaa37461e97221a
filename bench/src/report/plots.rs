//! The plots.

use super::format::thousands;
use super::sections::reading_handlers;
use super::svg::{Bar, BarChart, Line, LineChart, Panel, Scale};
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
    pub(super) fn file(&self) -> String {
        format!("{}.svg", self.name)
    }

    pub(super) fn render(&self) -> String {
        match &self.chart {
            Chart::Bars(chart) => chart.render(&self.title),
            Chart::Lines(chart) => chart.render(&self.title),
        }
    }
}

/// Returns the plots that have figures.
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
        plots.extend(prestart_rates(results, transport));
        plots.extend(prestart_first_bytes(results, transport));
    }
    plots
}

fn named(kind: &str, transport: Transport) -> String {
    format!("{kind}-{transport}").to_lowercase()
}

fn rates(results: &Results, transport: Transport) -> Option<Plot> {
    let clients = results.settings.usual_clients();
    let panel = |handler: &'static str| {
        let bars = results.rates.iter().filter(|point| {
            let key = &point.key;
            key.transport == transport && key.handler == handler && key.clients == clients
        });
        let mut bars: Vec<Bar> = bars
            .map(|point| Bar {
                label: point.key.server.clone(),
                value: point.rate,
                emphasised: point.key.server == results.settings.base,
            })
            .collect();
        bars.sort_by(|a, b| b.value.median.total_cmp(&a.value.median));
        let kernel = results
            .kernel
            .iter()
            .find(|kernel| kernel.handler == handler);
        let limit = kernel.map(|kernel| (kernel.rate.median, "bare kernel".to_owned()));
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

fn prestart_rates(results: &Results, transport: Transport) -> Option<Plot> {
    let clients = results.settings.usual_clients();
    let bars = |handler: &str| {
        let points = results.prestart.iter().filter(|point| {
            let key = &point.key;
            key.transport == transport && key.handler == handler && key.clients == clients
        });
        let mut bars: Vec<Bar> = points
            .map(|point| bar(results, &point.key.server, point.rate))
            .collect();
        bars.sort_by(|a, b| b.value.median.total_cmp(&a.value.median));
        bars
    };
    by_handler(
        results,
        named("prestart-rates", transport),
        format!("Connections a second, handlers that read a line, {transport}, {clients} clients"),
        bars,
    )
}

fn prestart_first_bytes(results: &Results, transport: Transport) -> Option<Plot> {
    let bars = |handler: &str| {
        let points = results
            .prestart_alone
            .iter()
            .filter(|point| point.transport == transport && point.handler == handler);
        let mut bars: Vec<Bar> = points
            .filter_map(|point| Some(bar(results, &point.server, point.first_byte.p50?)))
            .collect();
        bars.sort_by(|a, b| a.value.median.total_cmp(&b.value.median));
        bars
    };
    by_handler(
        results,
        named("prestart-first-byte", transport),
        format!("Microseconds to the first byte, {transport}, one client at a time"),
        bars,
    )
}

/// Emphasises the base server in all its modes.
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
        let points = results
            .live
            .iter()
            .filter(|point| point.key.server == server.name && point.key.transport == transport);
        let mut points: Vec<(f64, f64)> = points
            .map(|point| (point.key.live as f64, point.rate.median))
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
    let points = results.rates.iter().filter(|point| {
        let key = &point.key;
        key.transport == transport && key.handler == "tiny" && key.clients == clients
    });
    let lines: Vec<Line> = points
        .filter_map(|point| {
            let points: Vec<(f64, f64)> = point
                .curve
                .iter()
                .map(|(percent, micros)| (nines(*percent), *micros as f64 / 1000.0))
                .collect();
            (points.len() > 1).then(|| Line {
                label: point.key.server.clone(),
                points,
                emphasised: point.key.server == results.settings.base,
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

/// Returns the number of nines of a percentile. On this scale the tail is visible.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}
