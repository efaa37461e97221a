//! The manual page and the completions are those of the command line.

use std::process::Command;

// The texts that `cargo run --package skdctl --example ctl-documents` writes.
#[path = "../../examples/ctl-documents/generate.rs"]
mod generate;

/// The directory of the project.
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn the_generated_files_are_up_to_date() {
    for (path, text) in generate::documents() {
        let committed = std::fs::read_to_string(format!("{PROJECT}/{path}")).unwrap_or_default();
        assert!(
            committed == text,
            "{path} is out of date: cargo run --package skdctl --example ctl-documents"
        );
    }
}

#[test]
fn the_manual_is_without_faults() {
    let output = Command::new("mandoc")
        .args(["-Tlint", "-Wwarning", "man/skdctl.1"])
        .current_dir(PROJECT)
        .output()
        .expect("mandoc is needed: see .ci/packages");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn the_completions_are_understood_by_their_shells() {
    for (shell, path) in [
        ("bash", "completions/skdctl.bash"),
        ("zsh", "completions/_skdctl"),
        ("fish", "completions/skdctl.fish"),
    ] {
        let output = Command::new(shell)
            .args(["-n", path])
            .current_dir(PROJECT)
            .output()
            .expect("bash, zsh and fish are needed: see .ci/packages");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
        assert!(output.status.success(), "{shell}");
    }
}
