//! The checks of the structure, on a small crate: they find each kind of fault, and nothing else.

use std::collections::BTreeMap;

use super::EXCEPTIONS;
use super::graph::{Crate, circles};

/// A small crate without faults.
const TREE: [(&str, &str); 23] = [
    (
        "lib.rs",
        "//! | floor | modules | |
         //! | --- | --- | --- |
         //! | 0 | [`config`], [`error`], [`sys`] | data |
         //! | 1 | [`report`] | |
         //! | 2 | [`cli`], [`child`], [`net`], [`setup`] | strangers |
         //! | 3 | [`serve`] | |
         //! | 4 | [`start`], [`check`] | |
         pub mod config; pub mod error; pub mod sys; pub mod report; pub mod cli; pub mod child;
         pub mod net; pub mod setup; pub mod serve; pub mod start; pub mod check;",
    ),
    ("main.rs", "fn main() { skd::start::main() }"),
    ("config.rs", "use crate::sys::child::Resource;"),
    ("error.rs", "pub struct Error;"),
    ("sys/mod.rs", "pub mod child; pub mod sockets;"),
    ("sys/child.rs", "pub struct Resource;"),
    ("sys/sockets.rs", ""),
    ("report.rs", "pub enum Event { Started }"),
    ("cli.rs", ""),
    ("child.rs", "pub struct Plan;"),
    ("net/mod.rs", "mod peer; mod unix; pub use peer::Peer;"),
    ("net/peer.rs", "pub struct Peer;"),
    ("net/unix.rs", ""),
    ("setup.rs", ""),
    ("start.rs", "pub fn main() {}"),
    ("check.rs", ""),
    (
        "serve/mod.rs",
        "//! | 0 | `admission` | |
         //! | 1 | `service` | |
         //! | 2 | `worker`, `wait_mode` | |
         //! | 3 | `control` | |
         mod admission; mod control; mod service; mod wait_mode; mod worker;
         pub use admission::Rules; pub use control::Daemon; use service::Service;",
    ),
    ("serve/admission/mod.rs", "mod rules; pub use rules::Rules;"),
    ("serve/admission/rules.rs", "pub struct Rules;"),
    (
        "serve/service.rs",
        "use super::admission::Rules; pub struct Service(Rules);",
    ),
    ("serve/worker.rs", "use super::Service; pub fn work() {}"),
    ("serve/wait_mode.rs", "use super::service;"),
    (
        "serve/control.rs",
        "pub use super::{wait_mode, worker::{self, work}}; pub struct Daemon;",
    ),
];

/// Returns the small crate with some files replaced or added.
fn tree(changes: &[(&str, &str)]) -> Crate {
    let files: BTreeMap<&str, &str> = TREE.iter().chain(changes).copied().collect();
    // The table of floors is at the margin, as rustfmt has it.
    let unindent = |text: &str| text.replace("\n         ", "\n");
    let files = files.into_iter();
    let files = files.map(|(path, text)| (path.to_owned(), unindent(text)));
    Crate::parse(files.collect())
}

fn floor_faults_of(path: &str, text: &str) -> Vec<String> {
    let faults = tree(&[(path, text)]).floor_faults(&EXCEPTIONS);
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    for (path, text) in [
        ("net/peer.rs", "use crate::serve::Daemon;"),
        ("net/peer.rs", "use crate::{error::Error, cli};"),
        (
            "net/peer.rs",
            "pub use crate::{error::{self, Error}, sys::*, cli::*};",
        ),
        ("net/mod.rs", "mod peer; mod unix; use super::child::Plan;"),
        (
            "net/mod.rs",
            "mod peer; mod unix; pub use super::serve::Daemon;",
        ),
        ("net/peer.rs", "use super::super::setup;"),
        ("net/peer.rs", "fn f() { crate::start::main() }"),
        (
            "net/peer.rs",
            "fn f(plan: &[super::super::child::Plan; 2]) {}",
        ),
        ("net/peer.rs", "mod tests { use super::super::super::cli; }"),
        ("net/peer.rs", "#[cfg(test)] mod tests { use crate::cli; }"),
        ("net/peer.rs", "fn f() { use crate::cli; }"),
        ("net/peer.rs", "use crate::*;"),
        ("net/peer.rs", "use crate::{self as all};"),
        (
            "sys/mod.rs",
            "mod child; mod sockets; use crate::config::Limit;",
        ),
        ("report.rs", "use crate /* */ :: net::Peer;"),
        (
            "serve/admission/mod.rs",
            "use crate::{report::{Event, self}, start};",
        ),
        // In the bodies of macros.
        (
            "net/peer.rs",
            "fn f() { print!(\"{}\", crate::serve::Daemon) }",
        ),
        (
            "net/peer.rs",
            "fn f() { g!(format_args!(\"{}\", &super::super::cli::NAME)) }",
        ),
        (
            "net/peer.rs",
            "fn f() { g!(0..crate::cli::MOST, x: crate::error::Error) }",
        ),
        (
            "net/peer.rs",
            "declare! { use crate::{error::Error, cli}; }",
        ),
    ] {
        let faults = floor_faults_of(path, text);
        assert_eq!(faults.len(), 1, "{path}: {text}: {faults:#?}");
    }
}

#[test]
fn a_right_import_is_no_fault() {
    for (path, text) in [
        ("error.rs", ""),
        (
            "net/peer.rs",
            "use crate::{error::Error, sys::{child, sockets}};",
        ),
        (
            "net/peer.rs",
            "use super::unix; mod tests { use super::*; use super::super::unix; }",
        ),
        (
            "net/peer.rs",
            "/// [`crate::serve`]\nfn f<'a>() { \"crate::serve\"; r#\"crate::\"serve\"#; }",
        ),
        (
            "net/peer.rs",
            "/* crate::serve /* crate::cli */ */ pub(crate) fn f() { '\"'; '\\''; }",
        ),
        (
            "net/peer.rs",
            "use ::cli::serve; use clap::crate_name; fn f() { std::cli::f() }",
        ),
        (
            "serve/admission/rules.rs",
            "pub(in crate::serve) struct Rules;",
        ),
        (
            "serve/admission/rules.rs",
            "declare! { pub(in crate::serve) fn f() {} }",
        ),
        (
            "start.rs",
            "use crate::serve::{self, Daemon}; use crate::check;",
        ),
    ] {
        assert_eq!(floor_faults_of(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn a_folder_may_have_floors_of_its_own() {
    for (path, text, fault) in [
        (
            "serve/service.rs",
            "use super::worker::work;",
            "1: service imports worker, on a higher floor",
        ),
        (
            "serve/service.rs",
            "\nuse crate::serve::*;",
            "2: service imports from src/serve/mod.rs itself",
        ),
        (
            "serve/wait_mode.rs",
            "use super::worker;",
            "1: wait_mode imports worker, on the same floor",
        ),
        (
            "serve/admission/rules.rs",
            "use super::super::service;",
            "1: admission imports service, on a higher floor",
        ),
        // Through a re-export of the folder, or of another module.
        (
            "serve/worker.rs",
            "use crate::serve::Daemon;",
            "1: worker imports control, on a higher floor",
        ),
        (
            "serve/worker.rs",
            "use super::control::work;",
            "1: worker imports control, on a higher floor",
        ),
        (
            "serve/worker.rs",
            "use super::Unknown;",
            "1: worker imports from src/serve/mod.rs itself",
        ),
    ] {
        let fault = format!("src/{path}:{fault}");
        assert_eq!(floor_faults_of(path, text), [fault], "{path}: {text}");
    }
    for (path, text) in [
        (
            "serve/worker.rs",
            "use super::{Rules, Service, admission::rules, service};",
        ),
        (
            "serve/admission/rules.rs",
            "use super::*; use super::super::admission::Rules;",
        ),
    ] {
        assert_eq!(floor_faults_of(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn a_table_of_floors_has_each_module_and_nothing_else() {
    let modules = "mod admission; mod control; mod service; mod wait_mode; mod worker;";
    let faults_of = |table: &str, items: &str| {
        floor_faults_of("serve/mod.rs", &format!("{table}\n{modules}\n{items}"))
    };
    let table = "//! | 0 | `admission` | |\n//! | 1 | `service` | |\n//! | 2 | `control` | |";
    assert_eq!(
        faults_of(table, "use service::Service; struct Shared;"),
        [
            "src/serve/mod.rs:1: wait_mode is missing in the table of floors",
            "src/serve/mod.rs:1: worker is missing in the table of floors",
            "src/serve/mod.rs:5: Shared is defined here: a file with a table of floors only declares and re-exports",
        ]
    );
    let table = "//! Floors:\n//!\n//! | 0 | `admission` | |\n//! | 1 | `service` | |
//! | 2 | `worker`, `wait_mode`, `pages` | |\n//! | 3 | `control` | |";
    assert_eq!(
        faults_of(table, "pub use service::Service;"),
        ["src/serve/mod.rs:3: pages is in the table of floors, but no module"]
    );
}

/// Returns the edges from a file, as `LINE FILE`.
fn edges_from(file: &str, changes: &[(&str, &str)]) -> Vec<String> {
    let tree = tree(changes);
    let edges = tree.edges().into_iter();
    edges
        .filter(|((from, _), _)| *from == file)
        .map(|((_, to), line)| format!("{line} {to}"))
        .collect()
}

#[test]
fn an_import_needs_the_file_that_defines_the_item() {
    for (text, edges) in [
        ("use super::service::Service;", &["1 serve/service.rs"][..]),
        ("\nuse crate::serve::Service;", &["2 serve/service.rs"]),
        ("use super::{Rules as R};", &["1 serve/admission/rules.rs"]),
        ("use super::Phase;", &["1 serve/mod.rs"]),
        ("use super::admission::*;", &["1 serve/admission/mod.rs"]),
        (
            "use super::*;\nfn f(_: Rules) {}",
            &["2 serve/admission/rules.rs", "1 serve/mod.rs"],
        ),
        // A module's name alone needs no file.
        ("use super::admission;", &[]),
        (
            "use super::admission;\nfn f() { admission::Rules::new() }",
            &["2 serve/admission/rules.rs"],
        ),
        (
            "use super::{self as up, worker};\nfn f() { g!(worker::work(up::Rules)) }",
            &["2 serve/admission/rules.rs", "2 serve/worker.rs"],
        ),
        ("#[cfg(test)] mod tests { use super::super::Service; }", &[]),
        (
            "mod tests { use super::super::Service; }",
            &["1 serve/service.rs"],
        ),
        ("fn f(worker: u8) { worker; } struct Control;", &[]),
    ] {
        assert_eq!(
            edges_from("serve/control.rs", &[("serve/control.rs", text)]),
            edges,
            "{text}"
        );
    }
}

#[test]
fn a_folder_does_not_need_what_it_re_exports() {
    for (text, edges) in [
        ("mod rules; pub use rules::Rules;", &[][..]),
        ("mod rules; pub(crate) use rules::*;", &[]),
        (
            "mod rules; use rules::Rules;",
            &["1 serve/admission/rules.rs"],
        ),
        (
            "mod rules; pub use rules::Rules;\nstruct Policy(Rules);",
            &["2 serve/admission/rules.rs"],
        ),
        // An item from outside the folder.
        (
            "mod rules; pub use super::Service;",
            &["1 serve/service.rs"],
        ),
    ] {
        let file = "serve/admission/mod.rs";
        assert_eq!(edges_from(file, &[(file, text)]), edges, "{text}");
    }
}

#[test]
fn a_path_attribute_says_which_module_a_file_is() {
    let changes = [
        (
            "net/mod.rs",
            "mod peer; #[path = \"other/unix.rs\"] mod unix;",
        ),
        ("net/other/unix.rs", "use super::peer::Peer;"),
    ];
    assert_eq!(edges_from("net/other/unix.rs", &changes), ["1 net/peer.rs"]);
}

#[test]
fn a_circle_of_files_is_found() {
    let circles_in = |changes: &[(&str, &str)]| -> Vec<String> {
        let tree = tree(changes);
        let circles = circles(&tree.edges());
        circles.iter().map(ToString::to_string).collect()
    };
    assert_eq!(circles_in(&[]), [""; 0]);
    assert_eq!(
        circles_in(&[
            ("net/peer.rs", "use super::unix::Path;\npub struct Peer;"),
            ("net/unix.rs", "use super::Peer; use crate::error::Error;"),
            (
                "serve/admission/rules.rs",
                "\nuse super::super::Daemon; pub struct Rules;"
            ),
            (
                "serve/control.rs",
                "use super::worker::work; pub struct Daemon;"
            ),
        ]),
        [
            "src/net/peer.rs:1: 2 files import each other in a circle:
    src/net/peer.rs:1: imports src/net/unix.rs
    src/net/unix.rs:1: imports src/net/peer.rs",
            "src/serve/admission/rules.rs:2: 4 files import each other in a circle:
    src/serve/admission/rules.rs:2: imports src/serve/control.rs
    src/serve/control.rs:1: imports src/serve/worker.rs
    src/serve/service.rs:1: imports src/serve/admission/rules.rs
    src/serve/worker.rs:1: imports src/serve/service.rs",
        ]
    );
}

#[test]
fn methods_in_another_folder_are_found() {
    let found = |path: &str, text: &str| -> Vec<String> {
        let faults = tree(&[(path, text)]).impls_elsewhere();
        faults.iter().map(ToString::to_string).collect()
    };
    for text in [
        "use super::super::Daemon;\nimpl Daemon {}",
        "\nimpl<T> crate::serve::Daemon<T> where T: Copy {}",
    ] {
        assert_eq!(
            found("serve/admission/rules.rs", text),
            [
                "src/serve/admission/rules.rs:2: methods of a type that is defined in another folder, in src/serve/control.rs"
            ],
        );
    }
    for (path, text) in [
        ("serve/worker.rs", "use super::Daemon; impl Daemon {}"),
        (
            "serve/admission/mod.rs",
            "pub use rules::Rules; mod rules; impl Rules {}",
        ),
        (
            "net/peer.rs",
            "impl From<Peer> for crate::error::Error {} impl Peer {}",
        ),
    ] {
        assert_eq!(found(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn unsafe_is_found_in_macros_and_not_in_words() {
    let text =
        "// unsafe\nfn f() { \"unsafe\"; g!(\n{ unsafe { h() } }) }\nunsafe impl Send for T {}";
    let tree = tree(&[("net/peer.rs", text)]);
    let lines: Vec<(&str, usize)> = tree.unsafe_lines().collect();
    assert_eq!(lines, [("net/peer.rs", 3), ("net/peer.rs", 4)]);
}
