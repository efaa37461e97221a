//! What is made of the table of options: the manual page and the shell completions, as text.
//!
//! Also a module of the tests, which compare it with the files.

mod completions;
mod manual;

/// Every generated file: its path in the project, and what should be in it.
pub(crate) fn documents() -> [(&'static str, String); 4] {
    [
        ("man/skd.8", manual::page()),
        ("completions/skd.bash", completions::bash()),
        ("completions/_skd", completions::zsh()),
        ("completions/skd.fish", completions::fish()),
    ]
}
