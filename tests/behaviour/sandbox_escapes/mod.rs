//! Ways out of a sandbox that were tried: what a handler in `--sandbox` attempts, and what it meets.
//!
//! Each is an [`Attempt`]: a program, which prints a line for each of its tries. It runs as the handler of a skd that
//! root has started, with and without `--user`, and of a skd that another user has started. After each, an honest client
//! is served. All run once without a sandbox, too: a test that can't tell a success would prove nothing. The list in
//! `docs/attacks.md` is made from the table.

mod limits;
mod others;
mod scene;
mod table;

use self::scene::{Scene, Start};
use crate::harness::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One attempt.
struct Attempt {
    /// Its name in the programs.
    name: &'static str,
    /// What is attempted.
    attempt: &'static str,
    /// What it meets.
    met: &'static str,
    /// What tries may meet in a sandbox.
    refusals: &'static [&'static str],
    /// What may meet anything without a sandbox, since the kernel or its settings may not let root do it either.
    hard: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each try of it works without a sandbox.
    Works,
    /// It leaves processes behind, without a sandbox.
    Leaves,
    /// It isn't made without a sandbox, where it would do harm, or prove nothing.
    Harms,
}

use self::table::ATTEMPTS;

impl Attempt {
    /// Makes it, and fails with what is wrong.
    fn make(&self, scene: &Scene) {
        if !scene.start.has_sandbox() && self.kind == Kind::Harms {
            return;
        }
        let tries = scene.attempt(self.name);
        assert!(!tries.is_empty(), "no try of {}", self.name);
        let odd = |(what, met): &&(String, String)| {
            if scene.start.has_sandbox() {
                !self.refusals.contains(&met.as_str())
            } else {
                !["got", "started"].contains(&met.as_str())
                    && !self.hard.iter().any(|it| [what, "*"].contains(it))
            }
        };
        let odd: Vec<_> = tries
            .iter()
            .filter(odd)
            .map(|(what, met)| format!("{what}: {met}"))
            .collect();
        assert!(odd.is_empty(), "{}", odd.join(", "));
        if self.kind == Kind::Leaves {
            if scene.start.has_sandbox() {
                wait_until("nothing is left", || scene.left().is_empty());
            } else {
                wait_until("something is left", || !scene.left().is_empty());
                for pid in scene.left() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
    }
}

/// Makes all attempts, and fails with all that went wrong.
#[track_caller]
fn run(start: Start, options: &[&str]) {
    let mut scene = None;
    let mut wrong = Vec::new();
    let only = std::env::var("SKD_ATTEMPT").unwrap_or_default();
    for attempt in ATTEMPTS.iter().filter(|it| it.name.contains(&only)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let scene = scene.get_or_insert_with(|| Scene::new(start, options));
            attempt.make(scene);
            scene.assert_served();
        }));
        if let Err(panic) = outcome {
            if scene.is_none() {
                std::panic::resume_unwind(panic);
            }
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            wrong.push(format!("{}: {}", attempt.name, text.unwrap_or_default()));
            // It may have done harm.
            scene = None;
        }
    }
    let (count, of) = (wrong.len(), ATTEMPTS.len());
    assert!(
        wrong.is_empty(),
        "{start:?}: {count} of {of} attempts weren't met as they should be:\n{}",
        wrong.join("\n")
    );
}

/// The section of `docs/attacks.md` about them.
pub fn list() -> String {
    let mut text = "## From inside a sandbox\n\n\
        Handlers in a strict sandbox (`--sandbox`), of a skd that root has started, with and without `--user`, and of \
        a skd that another\nuser has started: see `tests/behaviour/sandbox_escapes/`. The same programs run without a \
        sandbox, where they must succeed.\n\n\
        | attempt | what it met |\n| --- | --- |\n"
        .to_owned();
    let rows = ATTEMPTS.iter().map(|it| (it.attempt, it.met));
    for (attempt, met) in rows
        .chain(others::ROWS.iter().copied())
        .chain(limits::ROWS.iter().copied())
    {
        let _ = writeln!(text, "| {attempt} | {met} |");
    }
    text
}

#[test]
fn none_works_by_root_for_a_user() {
    run(Start::RootForUser, &[]);
}

#[test]
fn none_works_by_root() {
    run(Start::Root, &[]);
}

#[test]
fn none_works_by_another_user() {
    run(Start::User, &[]);
}

#[test]
fn all_work_without_a_sandbox() {
    assert!(ATTEMPTS.len() >= 60, "{}", ATTEMPTS.len());
    run(Start::Plain, &[]);
}
