//! Attacks that were tried: what a local user, a handler or a client attempts, and what it meets.
//!
//! Each is an [`Attack`] of a [`Group`], whose attacks share a skd and run one after the other. After each, an honest
//! client is served by the same skd. The list in `docs/attacks.md` is made from the table:
//! `SKD_WRITE_ATTACKS=1 cargo test --test behaviour attacks::the_list` writes it.

mod client;
mod handler;
mod local;
mod scene;

use self::scene::Scene;
use crate::{sandbox_escapes, tls_hostile};
use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One attack.
struct Attack {
    /// What is attempted.
    attempt: &'static str,
    /// What it meets.
    met: &'static str,
    code: Code,
    /// What happens meanwhile.
    beside: fn(&Scene),
    /// What must hold afterwards, besides that a client is served.
    after: fn(&Scene),
}

/// An answer that says nothing: what is met is seen afterwards.
const ANYTHING: &str = "*";

/// What an attack does.
enum Code {
    /// A function in the Python file of the attacker, and what it must return.
    Python(&'static str, &'static str),
    /// The same, of a client with this user.
    User(u32, &'static str, &'static str),
    /// A function here, which asserts what it meets.
    Rust(fn()),
}

impl Attack {
    const fn new(attempt: &'static str, met: &'static str, code: Code) -> Self {
        const fn nothing(_: &Scene) {}
        Self {
            attempt,
            met,
            code,
            beside: nothing,
            after: nothing,
        }
    }

    /// An attack in Python.
    const fn py(
        attempt: &'static str,
        met: &'static str,
        function: &'static str,
        answer: &'static str,
    ) -> Self {
        Self::new(attempt, met, Code::Python(function, answer))
    }

    /// An attack on a start.
    const fn start(attempt: &'static str, met: &'static str, attack: fn()) -> Self {
        Self::new(attempt, met, Code::Rust(attack))
    }

    const fn beside(mut self, beside: fn(&Scene)) -> Self {
        self.beside = beside;
        self
    }

    const fn after(mut self, after: fn(&Scene)) -> Self {
        self.after = after;
        self
    }
}

/// Attacks of one attacker on one skd.
struct Group {
    scene: fn() -> Scene,
    attacks: &'static [Attack],
}

/// Runs the attacks of a group, and fails with all that worked.
#[track_caller]
fn run(group: &Group) {
    let mut worked = Vec::new();
    let mut scene = None;
    for attack in group.attacks {
        let outcome = catch_unwind(AssertUnwindSafe(|| match attack.code {
            Code::Rust(attack) => attack(),
            Code::Python(function, answer) => {
                let scene = scene.get_or_insert_with(group.scene);
                let met = scene.attack(function, attack.beside);
                scene.assert_served();
                assert!(
                    answer == ANYTHING || met == answer,
                    "{function}: {met:?} instead of {answer:?}"
                );
                (attack.after)(scene);
            }
            Code::User(uid, function, answer) => {
                let scene = scene.get_or_insert_with(group.scene);
                assert_eq!(scene.attack_as(uid, function), answer, "{function}");
                scene.assert_served();
            }
        }));
        if let Err(panic) = outcome {
            // It may have done harm.
            scene = None;
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            worked.push(format!("{}: {}", attack.attempt, text.unwrap_or_default()));
        }
    }
    let (count, of) = (worked.len(), group.attacks.len());
    assert!(
        worked.is_empty(),
        "{count} of {of} attacks worked:\n{}",
        worked.join("\n")
    );
}

/// The list of all attacks, as in `docs/attacks.md`.
fn list() -> String {
    let mut text = "# Attacks that were tried\n\n\
        Each is run by the tests against the real binary, with an honest client after it: see `tests/behaviour/attacks/`.\n\
        This page is made from the table there. What skd promises is in [SECURITY.md](../SECURITY.md).\n"
        .to_owned();
    for (attacker, groups) in [
        ("A local user", local::GROUPS),
        ("A handler", handler::GROUPS),
        ("A client", client::GROUPS),
    ] {
        let _ = write!(
            text,
            "\n## {attacker}\n\n| attempt | what it met |\n| --- | --- |\n"
        );
        for attack in groups.iter().flat_map(|group| group.attacks) {
            let _ = writeln!(text, "| {} | {} |", attack.attempt, attack.met);
        }
    }
    text + "\n" + &tls_hostile::list() + "\n" + &sandbox_escapes::list()
}

#[test]
fn the_list_is_that_of_the_page() {
    let page = "docs/attacks.md";
    if std::env::var_os("SKD_WRITE_ATTACKS").is_some() {
        fs::write(page, list()).unwrap();
    }
    let found = fs::read_to_string(page).unwrap_or_default();
    assert!(
        found == list(),
        "{page} is out of date: SKD_WRITE_ATTACKS=1 cargo test --test behaviour attacks::the_list"
    );
    let groups = [local::GROUPS, handler::GROUPS, client::GROUPS];
    let count: usize = groups
        .iter()
        .flat_map(|groups| *groups)
        .map(|group| group.attacks.len())
        .sum();
    assert!(count >= 60, "{count}");
}
