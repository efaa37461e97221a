//! The manual page and the shell completions as text, generated from the table of options.
//!
//! The tests include this module too, and compare its texts with the files.

mod completions;
mod manual;

/// Every generated file: its path in the project, and its text.
pub(crate) fn documents() -> [(&'static str, String); 4] {
    [
        ("man/skd.8", manual::page()),
        ("completions/skd.bash", completions::bash()),
        ("completions/_skd", completions::zsh()),
        ("completions/skd.fish", completions::fish()),
    ]
}
