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

use anyhow::Result;

pub(crate) use format::today;

use crate::peers::Found;
use crate::results::Results;
use table::{Align, Table};

/// The folder of plots and data beside performance.md.
const FOLDER: &str = "performance";

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

pub(crate) fn write(results: &Results, output: &Path) -> Result<()> {
    let folder = output.join(FOLDER);
    fs::create_dir_all(&folder)?;
    json::write(results, &folder.join("results.json"))?;
    let plots = plots::all(results);
    for plot in &plots {
        for theme in [svg::LIGHT, svg::DARK] {
            fs::write(folder.join(plot.file(&theme)), plot.render(&theme))?;
        }
    }
    let page = output.join("performance.md");
    fs::write(&page, markdown::page(results, &plots))?;
    println!("\nWritten to {} and {}.", page.display(), folder.display());
    Ok(())
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
