//! performance.md.

use std::fmt::Write;

use super::plots::Plot;
use super::sections::{SERVERS, Section};
use super::{BY_HAND, FOLDER, sections};
use crate::results::Results;

pub(super) fn page(results: &Results, plots: &[Plot]) -> String {
    let mut page = String::from("# Performance\n\n");
    page.push_str(
        "Written by `skd-bench`, see [bench/README.md](../bench/README.md). The figures are in \
         [results.json](performance/results.json).\n\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(page, "Measured on: {}.\n", sections::machine(results));
    page.push_str(
        "Servers take turns within each round. Clients run on the same machine and use loopback \
         addresses.\n\n",
    );
    for line in sections::notes(results) {
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

/// Returns an earlier page with the sections of this run, which replace those of the same title.
pub(super) fn added(page: &str, results: &Results, plots: &[Plot], data: &str) -> String {
    let mut about = format!(
        "Measured in a separate run ([{data}]({FOLDER}/{data})) on: {}.\n\n",
        sections::machine(results)
    );
    for line in sections::notes(results) {
        let _ = writeln!(about, "- {line}");
    }
    let mut page = page.to_owned();
    for section in sections::all(results) {
        // The page usually lists more servers than a run of some measurements.
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
            let start = find(SERVERS).unwrap_or(by_hand);
            (start, start)
        }
    };
    format!("{}{section}{}", &page[..start], &page[end..])
}

fn picture(plot: &Plot) -> String {
    format!("![{}]({FOLDER}/{})", plot.title, plot.file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# P\n\n## A\n\none\n\n## B\n\ntwo\n\n## Servers\n\nthree\n\n";

    #[test]
    fn a_section_replaces_the_one_of_its_title() {
        let page = with_section(PAGE, "A", "new\n");
        assert_eq!(page, PAGE.replace("one\n", "new\n"));
        let by_hand = format!("{PAGE}{BY_HAND}\n\n## A\n\nby hand\n");
        let page = with_section(&by_hand, "Servers", "new\n");
        assert_eq!(page, by_hand.replace("three\n", "new\n"));
    }

    #[test]
    fn a_new_section_precedes_the_servers_and_what_was_written_by_hand() {
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
