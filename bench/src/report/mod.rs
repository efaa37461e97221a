//! The results as tables on the terminal, as JSON, and as Markdown with plots.

mod format;
mod json;
mod markdown;
mod plots;
mod sections;
mod svg;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

pub(crate) use format::today;

use crate::peers::Found;
use crate::results::Results;
use table::{Align, Table};

const PAGE: &str = "performance.md";

/// The folder of plots and data beside it.
const FOLDER: &str = "performance";

/// The data of the page; runs with `--add` have files of their own.
const RESULTS: &str = "results.json";

/// Begins the part of performance.md that was written by hand; a new run keeps it.
const BY_HAND: &str = "<!-- From here on by hand: skd-bench keeps it. -->";

pub(crate) fn print(results: &Results) {
    println!("{}", sections::machine(results));
    for section in sections::all(results) {
        for (index, table) in section
            .tables
            .iter()
            .filter(|table| !table.detail)
            .enumerate()
        {
            if index == 0 {
                println!("\n== {} ==", section.title);
            }
            println!("\n{}", table.to_text());
        }
    }
    println!("\n{}", sections::notes(results).join("\n"));
}

/// Checks that there is a page that sections can be added to.
pub(crate) fn check_page(output: &Path) -> Result<()> {
    let page = output.join(PAGE);
    if !page.is_file() {
        bail!("--add: no file '{}' to add to", page.display());
    }
    Ok(())
}

/// Writes the figures of a run, and the page and the plots that show them.
pub(crate) fn write(results: &Results, output: &Path, add: bool) -> Result<()> {
    let folder = output.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let data = if add {
        let groups = results.settings.groups.iter().map(|group| group.as_str());
        format!("results-{}.json", groups.collect::<Vec<_>>().join("-"))
    } else {
        RESULTS.to_owned()
    };
    fs::write(folder.join(&data), json::text(results)?)?;
    let earlier = fs::read_to_string(output.join(PAGE)).ok();
    let rendered = match earlier {
        Some(page) if add => Rendered::added(&page, results, &data),
        earlier => Rendered::page(earlier.as_deref(), results),
    };
    rendered.write(output)
}

/// Writes the page and the plots again from the figures of earlier runs.
pub(crate) fn render(output: &Path) -> Result<()> {
    Rendered::from_files(output)?.write(output)
}

/// A page and its plots, as file names and contents.
struct Rendered {
    page: String,
    plots: Vec<(String, String)>,
}

impl Rendered {
    fn page(earlier: Option<&str>, results: &Results) -> Self {
        let plots = plots::all(results);
        let kept = earlier.and_then(by_hand);
        let kept = kept.map_or_else(String::new, |kept| format!("\n{kept}"));
        Self {
            page: markdown::page(results, &plots) + &kept,
            plots: drawn(&plots),
        }
    }

    fn added(page: &str, results: &Results, data: &str) -> Self {
        let plots = plots::all(results);
        Self {
            page: markdown::added(page, results, &plots, data),
            plots: drawn(&plots),
        }
    }

    /// Renders results.json, then the files of runs with `--add` in the order of their names.
    fn from_files(output: &Path) -> Result<Self> {
        let folder = output.join(FOLDER);
        let read = |name: &str| {
            let path = folder.join(name);
            let results = fs::read_to_string(&path).map_err(Into::into);
            results
                .and_then(|text| Results::from_json(&text))
                .with_context(|| format!("cannot read '{}'", path.display()))
        };
        let earlier = fs::read_to_string(output.join(PAGE)).ok();
        let mut rendered = Self::page(earlier.as_deref(), &read(RESULTS)?);
        for name in added_files(&folder)? {
            let added = Self::added(&rendered.page, &read(&name)?, &name);
            rendered.page = added.page;
            rendered.plots.extend(added.plots);
        }
        Ok(rendered)
    }

    fn write(&self, output: &Path) -> Result<()> {
        let folder = output.join(FOLDER);
        for (name, plot) in &self.plots {
            fs::write(folder.join(name), plot)?;
        }
        let page = output.join(PAGE);
        fs::write(&page, &self.page)?;
        println!("\nWritten to {} and {}.", page.display(), folder.display());
        Ok(())
    }
}

fn drawn(plots: &[plots::Plot]) -> Vec<(String, String)> {
    let plots = plots.iter();
    plots.map(|plot| (plot.file(), plot.render())).collect()
}

fn added_files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("results-") && name.ends_with(".json") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the part of an earlier page that was written by hand.
fn by_hand(page: &str) -> Option<&str> {
    page.find(BY_HAND).map(|start| &page[start..])
}

/// Prints the servers found, for `--list`.
pub(crate) fn list(found: &Found) {
    let columns = [
        ("server", Align::Left),
        ("version", Align::Left),
        ("socket", Align::Left),
        ("command", Align::Left),
    ];
    let mut table = Table::new("Servers on this machine", &columns);
    for peer in &found.peers {
        for (transport, recipe) in &peer.recipes {
            table.row([
                peer.name.clone(),
                peer.version.clone().unwrap_or_default(),
                transport.to_string(),
                recipe.display(&peer.program),
            ]);
        }
    }
    println!("{}", table.to_text());
    for missing in &found.missing {
        println!(
            "not installed: {} (Debian package {})",
            missing.name, missing.package
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_by_hand_is_kept() {
        let page = format!("# Performance\n\nold\n\n{BY_HAND}\n\n## Why\n");
        assert_eq!(
            by_hand(&page),
            Some(format!("{BY_HAND}\n\n## Why\n").as_str())
        );
        assert_eq!(by_hand("# Performance\n"), None);
    }

    #[test]
    fn the_published_page_is_that_of_its_figures() -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let rendered = Rendered::from_files(&docs)?;
        assert!(
            rendered.page == fs::read_to_string(docs.join(PAGE))?,
            "docs/performance.md differs: run skd-bench --render --output docs"
        );
        let folder = docs.join(FOLDER);
        for (name, plot) in &rendered.plots {
            assert!(*plot == fs::read_to_string(folder.join(name))?, "{name}");
        }
        for name in added_files(&folder)?
            .iter()
            .map(String::as_str)
            .chain([RESULTS])
        {
            let text = fs::read(folder.join(name))?;
            let results = Results::from_json(&String::from_utf8(text.clone())?)?;
            assert!(json::text(&results)? == text, "{name}");
        }
        Ok(())
    }
}
