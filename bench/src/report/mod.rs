//! What the run found: to the terminal, as JSON, as Markdown with plots.

mod format;
mod json;
mod markdown;
mod plots;
mod sections;
mod svg;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

pub(crate) use format::today;

use crate::peers::Found;
use crate::results::Results;
use table::{Align, Table};

const PAGE: &str = "performance.md";

/// The folder of plots and data beside it.
const FOLDER: &str = "performance";

/// Where what people have written into performance.md begins; a new run keeps it.
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
    println!("\n{}", sections::soundness(results).join("\n"));
}

/// Whether there is a page that sections can be added to.
pub(crate) fn check_page(output: &Path) -> Result<()> {
    let page = output.join(PAGE);
    if !page.is_file() {
        bail!("--add: there is no '{}' to add to", page.display());
    }
    Ok(())
}

pub(crate) fn write(results: &Results, output: &Path, add: bool) -> Result<()> {
    let folder = output.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let groups: Vec<&str> = results
        .settings
        .groups
        .iter()
        .map(|group| group.as_str())
        .collect();
    let data = if add {
        format!("results-{}.json", groups.join("-"))
    } else {
        "results.json".to_owned()
    };
    json::write(results, &folder.join(&data))?;
    let plots = plots::all(results);
    for plot in &plots {
        for theme in [svg::LIGHT, svg::DARK] {
            fs::write(folder.join(plot.file(&theme)), plot.render(&theme))?;
        }
    }
    let page = output.join(PAGE);
    let earlier = fs::read_to_string(&page).ok();
    let text = match &earlier {
        Some(earlier) if add => markdown::added(earlier, results, &plots, &data),
        _ => {
            let kept = earlier.as_deref().and_then(by_hand);
            let kept = kept.map_or_else(String::new, |kept| format!("\n{kept}"));
            markdown::page(results, &plots) + &kept
        }
    };
    fs::write(&page, text)?;
    println!("\nWritten to {} and {}.", page.display(), folder.display());
    Ok(())
}

/// The part of an earlier page that was written by hand.
fn by_hand(page: &str) -> Option<&str> {
    page.find(BY_HAND).map(|start| &page[start..])
}

/// The servers found, for `--list`.
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
}
