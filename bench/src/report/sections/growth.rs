//! How skd's rate, own CPU time and memory grow.

use super::{Section, mark};
use crate::report::format::{NOTHING, median, ratio, spread, thousands};
use crate::report::table::Table;
use crate::results::{Dimension, GrowthPoint, Results};
use crate::stats::Summary;

pub(super) fn growth(results: &Results) -> Section {
    let mut tables = vec![shapes(results)];
    tables.extend(Dimension::ALL.map(|dimension| table(results, dimension)));
    Section {
        title: "Growth",
        text: "skd's figures with more of what may be many, each beside an skd with the fewest, in short turns of the \
               same round. *Services* are of one daemon, each on a TCP address of its own, and clients connect to all of \
               them in turn. *Live handlers* wait for their idle clients. *Pending connections* have sent nothing, and \
               `--first-byte` keeps them from a handler. *Rules* are lines of a file of `--rules`, single addresses that \
               are denied, and then `allow all`, so that each client passes all of them. *Acceptor threads* are those of \
               `--threads`, with 32 clients, on the cores of this machine; the other rows have 8. The handler is *tiny*, \
               beside live handlers and pending connections a program that waits for a byte. CPU time is that of skd's own \
               threads, memory its RssAnon and its memory files, in one of which many rules are. The first row of each table, an skd with the fewest beside another, shows \
               how far apart equal ones are. A figure is called flat if the ratio of its medians is from 0.9 to 1.1.",
        tables,
        plots: "growth",
    }
}

fn points(results: &Results, dimension: Dimension) -> Vec<&GrowthPoint> {
    let points = results.growth.iter();
    let mut points: Vec<_> = points
        .filter(|point| point.dimension == dimension)
        .collect();
    points.sort_by_key(|point| point.count);
    points
}

fn table(results: &Results, dimension: Dimension) -> Table {
    let columns = [
        "connections a second",
        "ratio to the fewest",
        "own CPU (µs)",
        "ratio to the fewest",
        "memory (KiB)",
        "start (ms)",
    ];
    let name = dimension.as_str();
    let mut table = Table::of_figures(
        format!("Growth with {name}"),
        name,
        columns.map(str::to_owned),
    );
    for point in points(results, dimension) {
        table.row([
            thousands(point.count as f64),
            spread(point.rate, thousands) + mark(point.failures),
            spread(point.ratio, ratio),
            median(point.cpu, thousands),
            spread(point.cpu_ratio, ratio),
            median(point.memory, thousands),
            median(point.start, |figure| format!("{figure:.1}")),
        ]);
    }
    table
}

/// A row for each dimension, in words and figures.
fn shapes(results: &Results) -> Table {
    let columns = ["from, to", "rate", "own CPU", "memory", "start"];
    let mut table = Table::of_figures("The shape of growth", "more", columns.map(str::to_owned));
    for dimension in Dimension::ALL {
        let points = points(results, dimension);
        let (Some(fewest), Some(most)) = (points.first(), points.last()) else {
            continue;
        };
        if fewest.count == most.count {
            continue;
        }
        let memory = points
            .iter()
            .filter_map(|point| Some((point.count as f64, point.memory?.median * 1024.0)));
        let start = points
            .iter()
            .filter_map(|point| Some((point.count as f64, point.start?.median * 1e3)));
        table.row([
            dimension.as_str().to_owned(),
            format!(
                "{}, {}",
                thousands(fewest.count as f64),
                thousands(most.count as f64)
            ),
            factor(&points, |point| point.ratio),
            factor(&points, |point| point.cpu_ratio),
            slope(&memory.collect::<Vec<_>>(), "bytes"),
            slope(&start.collect::<Vec<_>>(), "µs"),
        ]);
    }
    table
}

/// What the ratios to the fewest say.
fn factor(points: &[&GrowthPoint], figure: impl Fn(&GrowthPoint) -> Option<Summary>) -> String {
    let ratios = points.iter();
    let ratios = ratios.filter_map(|point| Some((point.count, figure(point)?.median)));
    shape(&ratios.collect::<Vec<_>>())
}

/// Says in words how ratios to the first grow with their counts.
fn shape(ratios: &[(usize, f64)]) -> String {
    let [_, middle @ .., (_, last)] = ratios else {
        return NOTHING.to_owned();
    };
    let word = match last {
        ..0.9 => "falls",
        ..=1.1 => return format!("flat: {}", ratio(*last)),
        _ => "rises",
    };
    // The first from which on all are like the last.
    let is_like = |(_, figure): &(usize, f64)| (0.9..=1.1).contains(&(last / figure));
    let alike = middle.iter().rev().take_while(|point| is_like(point));
    match alike.last() {
        Some((count, _)) => format!(
            "{word} to {}, flat from {} on",
            ratio(*last),
            thousands(*count as f64)
        ),
        None => format!("{word} to {}", ratio(*last)),
    }
}

/// How much one more adds, and whether that stays the same. `figures` are pairs of a count and a figure.
fn slope(figures: &[(f64, f64)], unit: &str) -> String {
    let between = |(count, figure): (f64, f64), (more, grown): (f64, f64)| {
        (more > count).then(|| (grown - figure) / (more - count))
    };
    let [fewest, .., before, most] = figures[..] else {
        return NOTHING.to_owned();
    };
    let (Some(all), Some(last)) = (between(fewest, most), between(before, most)) else {
        return NOTHING.to_owned();
    };
    if (0.9..=1.1).contains(&(most.1 / fewest.1)) {
        return "flat".to_owned();
    }
    let each = if all.abs() < 10.0 {
        format!("{all:.1}")
    } else {
        thousands(all)
    };
    let word = match last / all {
        ..0.7 => "less than linear",
        ..=1.4 => "linear",
        _ => "more than linear",
    };
    format!("{word}: {each} {unit} each")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_in_words() {
        assert_eq!(shape(&[(1, 1.0), (9, 0.95)]), "flat: 0.95");
        assert_eq!(shape(&[(1, 1.0), (5, 0.9), (9, 0.5)]), "falls to 0.50");
        let early = [(1, 1.0), (100, 1.3), (1000, 1.2), (10_000, 1.25)];
        assert_eq!(shape(&early), "rises to 1.25, flat from 100 on");
        let late = [(1, 1.0), (2, 1.9), (4, 2.6), (8, 2.7)];
        assert_eq!(shape(&late), "rises to 2.70, flat from 4 on");
        assert_eq!(shape(&[(1, 1.0)]), NOTHING);
        let linear = [(1.0, 1000.0), (101.0, 2000.0), (1001.0, 11_000.0)];
        assert_eq!(slope(&linear, "bytes"), "linear: 10 bytes each");
        let flat = [(1.0, 1000.0), (10.0, 1001.0), (100.0, 999.0)];
        assert_eq!(slope(&flat, "bytes"), "flat");
        let square = [(1.0, 1.0), (100.0, 10_000.0), (1000.0, 1e6)];
        assert_eq!(slope(&square, "µs"), "linear: 1,001 µs each");
        let cube = [(1.0, 1.0), (500.0, 1.25e8), (1000.0, 1e9)];
        assert_eq!(slope(&cube, "µs"), "more than linear: 1,001,001 µs each");
        let root = [(1.0, 1.0), (500.0, 22.4), (1000.0, 31.6)];
        assert_eq!(slope(&root, "µs"), "less than linear: 0.0 µs each");
        assert_eq!(slope(&[(1.0, 1.0), (2.0, 2.0)], "µs"), NOTHING);
    }
}
