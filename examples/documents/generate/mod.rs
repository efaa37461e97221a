//! The manual page, the shell completions and the page of system calls as text, generated from the tables of
//! options and calls.
//!
//! The tests include this module too, and compare its texts with the files.

mod completions;
mod manual;
mod system_calls;

/// Every generated file: its path in the project, and its text.
pub(crate) fn documents() -> [(&'static str, String); 5] {
    [
        ("man/skd.8", manual::page()),
        ("completions/skd.bash", completions::bash()),
        ("completions/_skd", completions::zsh()),
        ("completions/skd.fish", completions::fish()),
        ("docs/system-calls.md", system_calls::page()),
    ]
}
