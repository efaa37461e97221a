//! How the modules of a folder of src/ hang together, in figures:
//! `cargo run --example architecture [FOLDER]`.

#![allow(clippy::print_stdout)] // It is what this is for.

#[path = "../tests/behaviour/architecture/graph/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]
mod graph;

use std::collections::BTreeSet;

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_default();
    let sources = graph::Crate::read();
    let edges = sources.edges();
    // The file or folder directly in the folder that a file is, or is in.
    let module = |file: &'static str| {
        Some(
            file.strip_prefix(&folder)?
                .trim_start_matches('/')
                .split('/')
                .next()?
                .trim_end_matches(".rs"),
        )
    };
}
