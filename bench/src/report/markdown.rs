//! performance.md.

use std::fmt::Write;

use super::plots::Plot;
use super::sections::{SERVERS, Section};
use super::{BY_HAND, FOLDER, sections, svg};
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
        let _ = write!(page, "\n## {}\n\n{}", section.title, body(&section, plots));
    }
    page
}

fn body(section: &Section, plots: &[Plot]) -> String {
    let mut body = format!("{}\n", section.text);
    for plot in plots
        .iter()
        .filter(|plot| plot.name.starts_with(section.plots))
    {
        let _ = writeln!(body, "\n{}", picture(plot));
    }
    for table in &section.tables {
        let rows = table.to_markdown();
        let _ = if table.detail {
            writeln!(
                body,
                "\n<details>\n<summary>{}</summary>\n\n{rows}\n\n</details>",
                table.title
            )
        } else {
            writeln!(body, "\n**{}**\n\n{rows}", table.title)
        };
    }
    body
}

/// The sections of this run in an earlier page, each in the place of its forerunner if there is
/// one, with what else a reader has to know of a run of its own.
pub(super) fn added(page: &str, results: &Results, plots: &[Plot], data: &str) -> String {
    let mut about = format!(
        "Measured in a run of its own, whose figures are in [{data}]({FOLDER}/{data}), on: {}.\n\n",
        sections::machine(results)
    );
    for line in sections::soundness(results) {
        let _ = writeln!(about, "- {line}");
    }
    let mut page = page.to_owned();
    for section in sections::all(results) {
        // Those of the page are of more servers, most often.
        if section.title != SERVERS {
            let text = format!("{about}\n{}", body(&section, plots));
            page = with_section(&page, section.title, &text);
        }
    }
    page
}

fn with_section(page: &str, title: &str, text: &str) -> String {
    let section = format!("## {title}\n\n{text}\n");
    let by_hand = page.find(BY_HAND).unwrap_or(page.len());
    let find = |title: &str| {
        let start = page[..by_hand].find(&format!("\n## {title}\n"))?;
        Some(start + 1)
    };
    let (start, end) = match find(title) {
        Some(start) => {
            let next = page[start..by_hand].find("\n## ");
            (start, next.map_or(by_hand, |length| start + length + 1))
        }
        None => {
            let place = find(SERVERS).unwrap_or(by_hand);
            (place, place)
        }
    };
    format!("{}{section}{}", &page[..start], &page[end..])
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

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# P\n\n## A\n\none\n\n## B\n\ntwo\n\n## Servers\n\nthree\n\n";

    #[test]
    fn a_section_takes_the_place_of_its_forerunner() {
        let page = with_section(PAGE, "A", "new\n");
        assert_eq!(page, PAGE.replace("one\n", "new\n"));
        let by_hand = format!("{PAGE}{BY_HAND}\n\n## A\n\nby hand\n");
        let page = with_section(&by_hand, "Servers", "new\n");
        assert_eq!(page, by_hand.replace("three\n", "new\n"));
    }

    #[test]
    fn a_new_section_stands_before_the_servers_and_what_was_written_by_hand() {
        let page = with_section(PAGE, "C", "new\n");
        assert_eq!(
            page,
            PAGE.replace("## Servers", "## C\n\nnew\n\n## Servers")
        );
        let by_hand = format!("# P\n\n{BY_HAND}\n\n## C\n");
        let page = with_section(&by_hand, "C", "new\n");
        assert_eq!(page, format!("# P\n\n## C\n\nnew\n\n{BY_HAND}\n\n## C\n"));
    }
}
