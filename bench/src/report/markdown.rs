//! performance.md.

use std::fmt::Write;

use super::plots::Plot;
use super::{FOLDER, sections, svg};
use crate::results::Results;

pub(super) fn page(results: &Results, plots: &[Plot]) -> String {
    let mut page = String::from("# Performance\n\n");
    page.push_str(
        "Written by `skd-bench`; `bench/README.md` says how to run it. Every figure of every \
         round is in [results.json](performance/results.json).\n\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(page, "Measured on: {}.\n", sections::machine(results));
    page.push_str(
        "Servers take turns within each round, clients are on the same machine, and only \
         loopback addresses are used.\n\n",
    );
    for line in sections::soundness(results) {
        let _ = writeln!(page, "- {line}");
    }
    for section in sections::all(results) {
        let _ = writeln!(page, "\n## {}\n\n{}", section.title, section.text);
        for plot in plots
            .iter()
            .filter(|plot| plot.name.starts_with(section.plots))
        {
            let _ = writeln!(page, "\n{}", picture(plot));
        }
        for table in &section.tables {
            let body = table.to_markdown();
            let _ = if table.detail {
                writeln!(
                    page,
                    "\n<details>\n<summary>{}</summary>\n\n{body}\n\n</details>",
                    table.title
                )
            } else {
                writeln!(page, "\n**{}**\n\n{body}", table.title)
            };
        }
    }
    page
}

/// GitHub shows the source that fits its own theme, whatever the system's is.
fn picture(plot: &Plot) -> String {
    let (light, dark) = (plot.file(&svg::LIGHT), plot.file(&svg::DARK));
    format!(
        "<picture>\n  \
         <source media=\"(prefers-color-scheme: dark)\" srcset=\"{FOLDER}/{dark}\">\n  \
         <img alt=\"{}\" src=\"{FOLDER}/{light}\">\n\
         </picture>",
        svg::escape(&plot.title)
    )
}
