//! The manual page, the shell completions and the page of system calls as text, generated from the tables of
//! options and calls; and copies of files for crates that have folders of their own.
//!
//! The tests include this module too, and compare its texts with the files.

mod completions;
mod manual;
mod system_calls;

const LICENSE: &str = include_str!("../../../LICENSE");

/// Files that crates have copies of, since Cargo packs nothing from outside a crate's folder.
const COPIES: [(&str, &str); 7] = [
    ("control/LICENSE", LICENSE),
    ("ctl/LICENSE", LICENSE),
    ("forward/LICENSE", LICENSE),
    ("tls/LICENSE", LICENSE),
    ("tls-protocol/LICENSE", LICENSE),
    (
        "forward/man/skd-forward.1",
        include_str!("../../../man/skd-forward.1"),
    ),
    ("tls/man/skd-tls.1", include_str!("../../../man/skd-tls.1")),
];

/// Every generated file: its path in the project, and its text.
pub(crate) fn documents() -> Vec<(&'static str, String)> {
    let mut documents = vec![
        ("man/skd.8", manual::page()),
        ("completions/skd.bash", completions::bash()),
        ("completions/_skd", completions::zsh()),
        ("completions/skd.fish", completions::fish()),
        ("docs/system-calls.md", system_calls::page()),
    ];
    documents.extend(COPIES.map(|(path, text)| (path, text.to_owned())));
    documents
}
