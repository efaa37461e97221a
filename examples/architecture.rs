//! Counts the imports between the files and folders in src/FOLDER, and lists circles of files:
//! `cargo run --locked --example architecture [FOLDER]`.

#![allow(clippy::print_stdout)] // It is what this is for.

#[path = "../tests/behaviour/architecture/graph/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]
mod graph;

use std::collections::BTreeSet;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_default();
    let sources = graph::Crate::read();
    let edges = sources.edges();
    let module = |file: &str| {
        let inside = Path::new(file).strip_prefix(&folder).ok()?;
        Some(
            inside
                .iter()
                .next()?
                .to_str()?
                .trim_end_matches(".rs")
                .to_owned(),
        )
    };
    let arrows = edges
        .keys()
        .filter_map(|(from, to)| Some((module(from)?, module(to)?)));
    let arrows: BTreeSet<_> = arrows.filter(|(from, to)| from != to).collect();
    let count = Path::new("src").join(&folder).read_dir()?.count();
    println!("{count} files and folders, {} arrows", arrows.len());

    let path: Vec<String> = folder.split_terminator('/').map(str::to_owned).collect();
    if let Some(floors) = graph::Floors::of(&sources, &path) {
        let is_up = |from: &str, to: &str| to == "mod" || floors.objection(from, to).is_some();
        let up = arrows.iter().filter(|(from, to)| is_up(from, to));
        println!("{} arrows run up, or along a floor", up.count());
    }
    for circle in graph::circles(&edges) {
        if circle.files().iter().any(|file| module(file).is_some()) {
            println!("{circle}");
        }
    }
    Ok(())
}
