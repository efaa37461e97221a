//! Handlers that use up memory, processes and CPU time: the kernel's controllers for that are in the guest of
//! `tests/guest/run`, and often nowhere else.

use super::others::STARTS;
use super::scene::{Scene, Start};
use crate::harness::try_talk;
use std::process::Command;
use std::time::{Duration, Instant};

/// The rows of these in the list.
pub const ROWS: &[(&str, &str)] = &[
    (
        "use up memory (--memory-max)",
        "it is killed with its children; the log says so",
    ),
    (
        "use up memory by files in /tmp and in a --tmpfs",
        "they count: it is killed",
    ),
    ("use up processes (--pids-max)", "EAGAIN"),
    (
        "use up CPU time, by many processes (--cpu-max)",
        "it has its share",
    ),
];

/// Those that start skd where it may make groups.
fn starts() -> impl Iterator<Item = Start> {
    STARTS.into_iter().filter(|it| *it != Start::User)
}

/// Whether this is the guest, which has the controllers.
fn is_guest() -> bool {
    let is = std::env::var_os("SKD_TEST_GUEST").is_some();
    if !is {
        println!("not run: this isn't the guest of tests/guest/run");
    }
    is
}

#[test]
fn memory_is_limited() {
    if !is_guest() {
        return;
    }
    for start in starts() {
        for (attempt, options) in [
            ("memory_bomb", &["--memory-max=32M"][..]),
            ("fill_tmp", &["--memory-max=32M", "--tmpfs", "/tmp:1G"]),
        ] {
            let scene = Scene::new(start, options);
            let answer = try_talk(scene.skd.connect(), scene.request(attempt).as_bytes());
            let answer = String::from_utf8(answer.unwrap_or_default()).unwrap();
            assert!(!answer.contains("end: end"), "{answer}");
            scene
                .skd
                .wait_for_log(" was terminated by signal 9, being out of memory, after ");
            scene.assert_served();
        }
    }
}

#[test]
fn processes_are_limited() {
    if !is_guest() {
        return;
    }
    for start in starts() {
        let scene = Scene::new(start, &["--pids-max=20"]);
        let tries = scene.attempt("fork_bomb");
        assert_eq!(tries, [("200 processes".to_owned(), "EAGAIN".to_owned())]);
        scene.assert_served();
    }
}

#[test]
fn cpu_time_is_limited() {
    if !is_guest() {
        return;
    }
    let scene = Scene::new(Start::Root, &["--cpu-max=10%"]);
    let begin = Instant::now();
    let tries = scene.attempt("cpu_hog");
    let wall = begin.elapsed();
    let used = tries
        .iter()
        .find(|(what, _)| what == "milliseconds")
        .and_then(|(_, used)| used.parse().ok())
        .map(Duration::from_millis)
        .expect("the time used");
    // Half of the time of one processor would be five times as much as it may have.
    assert!(used < wall / 2, "{used:?} of {wall:?}");
    scene.assert_served();
}

#[test]
#[ignore = "takes minutes: it emulates a machine"]
fn limits_hold_in_a_guest() {
    let mut command = Command::new("tests/guest/run");
    command.args([
        "--minutes",
        "40",
        "--nocapture",
        "sandbox_escapes::limits",
        "contain::",
    ]);
    let output = command.output().expect("tests/guest/run");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!text.contains("not run: "), "{text}");
    assert!(text.contains("guest: Linux "), "{text}");
}
