//! The structure of src/: floors, circles of files, methods, `unsafe`. The floors of the crate are in a table in
//! src/lib.rs. The floors of a folder, if it has some, are in a table in its mod.rs.

mod graph;
mod graph_itself;

use std::fmt::Display;

use graph::{Crate, Floors, circles};

/// Imports within a floor, each with its reason.
const EXCEPTIONS: [(&str, &str); 2] = [
    // The program does one or the other.
    ("start", "check"),
    // Plain data, but a resource limit is the kernel's number.
    ("config", "sys"),
];

#[test]
fn modules_import_from_lower_floors_of_their_folder() {
    assert_none(&Crate::of_skd().floor_faults(&EXCEPTIONS));
}

#[test]
fn the_crate_and_serve_have_floors() {
    let sources = Crate::of_skd();
    for folder in [&[][..], &["serve".to_owned()]] {
        let floors = Floors::of(sources, folder);
        assert!(floors.is_some(), "{folder:?} has no table of floors");
    }
}

#[test]
fn files_do_not_import_in_circles() {
    assert_none(&circles(&Crate::of_skd().edges()));
}

#[test]
fn methods_are_in_the_folder_of_their_type() {
    assert_none(&Crate::of_skd().impls_elsewhere());
}

#[test]
fn unsafe_is_in_sys_alone() {
    for (file, line) in Crate::of_skd().unsafe_lines() {
        assert!(file.starts_with("sys/"), "src/{file}:{line}: unsafe");
    }
}

fn assert_none(faults: &[impl Display]) {
    let lines: String = faults.iter().map(|fault| format!("\n{fault}")).collect();
    assert!(lines.is_empty(), "{lines}");
}
