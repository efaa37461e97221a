//! Prestarted handlers that an upgrade keeps, and those that it ends.

use crate::harness::{
    Directory, Instance, Skd, Way, children, echo, parked, requires_command, requires_root, talk,
    wait_until, zombies,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A verbose skd on a free port.
fn with(way: Way, options: &[&str]) -> Skd {
    Skd::new(["-v", "-t", "127.0.0.1:0"])
        .args(way.options())
        .args(options)
}

/// Sends USR2, and waits for the upgrade.
#[track_caller]
fn upgrade(skd: &Instance) {
    let before = skd.logged("Upgraded from skd ").len();
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded from skd ", before + 1);
}

/// Copies skd, as another version if `changed` says so: of the same length, since the text is changed in the file.
fn install(to: &Path, changed: bool) {
    let mut program = fs::read(env!("CARGO_BIN_EXE_skd")).unwrap();
    if changed {
        let version = env!("SKD_VERSION").as_bytes();
        let other: Vec<u8> = [b"9", &version[1..]].concat();
        let mut count = 0;
        for at in 0..program.len() - version.len() {
            if program[at..].starts_with(version) {
                program[at..at + version.len()].copy_from_slice(&other);
                count += 1;
            }
        }
        assert!(count > 0);
    }
    // By another process: while this process has the file open for writing, an exec of it would fail.
    let new = to.with_extension("new");
    fs::write(&new, program).unwrap();
    let mut install = Command::new("install");
    assert!(install.args([&new, to]).status().unwrap().success());
}

#[test]
fn the_same_prestarted_handlers_serve_after_an_upgrade() {
    for &way in Way::PRESTARTED {
        let skd = with(way, &["-vv"]).run("cat");
        let before = way.ready(&skd);
        let started = skd.logged("awaits a client").len();
        for turn in 0..20 {
            upgrade(&skd);
            // None is lost, none is doubled, and nothing was started.
            wait_until("the preflight is gone", || {
                children(skd.pid()).len() == before.len()
            });
            assert_eq!(parked(skd.pid()), before, "{way:?}: upgrade {turn}");
            assert_eq!(skd.logged("awaits a client").len(), started);
        }
        assert_eq!(skd.logged("is parked at").len(), 1);
        let (mut client, handler) = way.connect(&skd);
        assert_eq!(before.contains(&handler), !way.copies(), "{way:?}");
        echo(&mut client, b"served by what was prestarted");
        // The handler goes through an upgrade as any, and so does the copy of a template.
        upgrade(&skd);
        echo(&mut client, b"still served");
        assert_eq!(way.wait_serving(&skd, 1), [handler], "{way:?}");
        drop(client);
        way.wait_idle(&skd);
        assert_eq!(zombies(skd.pid()), [0; 0]);
        // What was taken over is seen to end, and is replaced.
        let gone = way.ready(&skd)[0];
        kill(Pid::from_raw(gone), Signal::SIGKILL).unwrap();
        skd.wait_for_log(&format!(
            "prestarted pid {gone} of 'cat' ended without a client"
        ));
        assert!(!way.ready(&skd).contains(&gone));
        assert_eq!(talk(way.connect(&skd).0, b"once more"), b"once more");
        assert_eq!(skd.stop().code(), Some(0));
        wait_until("nothing is left", || skd.processes().is_empty());
    }
}

#[test]
fn another_version_ends_prestarted_handlers_and_starts_its_own() {
    requires_command("install");
    for &way in Way::PRESTARTED {
        let directory = Directory::new();
        let binary = directory.join("skd");
        install(&binary, false);
        let skd = with(way, &[]).binary(&binary).run("cat");
        let before = way.ready(&skd);
        let (mut client, handler) = way.connect(&skd);
        let before: Vec<_> = before.into_iter().chain(way.ready(&skd)).collect();
        install(&binary, true);
        upgrade(&skd);
        wait_until("all are replaced", || {
            let now = parked(skd.pid());
            now.len() == way.pool_size() && !now.iter().any(|pid| before.contains(pid))
        });
        echo(&mut client, b"served");
        assert_eq!(way.wait_serving(&skd, 1), [handler], "{way:?}");
        assert_eq!(zombies(skd.pid()), [0; 0]);
        // Nothing changes if the next binary can't go on.
        let before = way.ready(&skd);
        let mut install = Command::new("install");
        assert!(
            install
                .arg("/bin/false")
                .arg(&binary)
                .status()
                .unwrap()
                .success()
        );
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_log("skd: no upgrade: the new program refuses");
        assert_eq!(parked(skd.pid()), before, "{way:?}");
        drop(client);
        way.wait_idle(&skd);
        assert_eq!(talk(way.connect(&skd).0, b"anew"), b"anew");
    }
}

#[test]
fn a_program_that_has_changed_is_started_anew_after_an_upgrade() {
    requires_root();
    for &way in Way::PRESTARTED {
        let directory = Directory::new();
        let script = |version: &str| {
            let text = format!("#!/usr/bin/perl\n$| = 1; print <STDIN> . '{version}';\n");
            directory.script("program", &text)
        };
        let program = script("old");
        let skd = with(way, &[]).run(&program);
        let before = way.ready(&skd);
        assert_eq!(talk(way.connect(&skd).0, b""), b"old");
        let before: Vec<_> = before.into_iter().chain(way.ready(&skd)).collect();
        script("new");
        upgrade(&skd);
        // No client gets what was there before, not even the first.
        assert_eq!(talk(skd.connect(), b""), b"new", "{way:?}");
        wait_until("all are replaced", || {
            let now = parked(skd.pid());
            now.len() == way.pool_size() && !now.iter().any(|pid| before.contains(pid))
        });
        assert_eq!(talk(way.connect(&skd).0, b""), b"new");
    }
}
