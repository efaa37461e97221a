//! Processes of skd that start no handlers confine themselves.

use crate::harness::{
    Directory, Instance, Program, Skd, exists, machine, relays, requires_root, status_field, talk,
    threads, wait_for, wait_until,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::thread;

fn is_confined(pid: i32) -> bool {
    let says = |name, value: &str| status_field(pid, name).as_deref() == Some(value);
    says("Seccomp", "2") && says("NoNewPrivs", "1")
}

#[track_caller]
fn relay(skd: &Instance) -> i32 {
    wait_for("a relay", || relays(skd).first().copied())
}

#[test]
fn the_relay_to_syslog_is_confined_and_relays() {
    requires_root();
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with(
            "sh",
            [
                "-c",
                "echo from the handler >&2; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status",
            ],
        );
    for round in ["first", "restarted"] {
        let relay = relay(&skd);
        wait_until("the relay is confined", || is_confined(relay));
        // Handlers aren't.
        assert_eq!(
            talk(skd.connect(), b""),
            b"NoNewPrivs:\t0\nSeccomp:\t0\n",
            "{round}"
        );
        syslog.wait_for(" tag: from the handler");
        if round == "first" {
            kill(Pid::from_raw(relay), Signal::SIGKILL).unwrap();
            wait_until("the relay is dead", || !exists(relay));
            syslog.wait_for("the relay to syslog had ended and was started again");
        }
    }
    assert!(!is_confined(skd.pid()));
    assert_eq!(skd.stop().code(), Some(0));
}

/// A full pipe, which takes nothing more until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

#[test]
fn the_launcher_of_a_daemon_is_confined_while_it_waits() {
    let directory = Directory::new();
    let (mut reader, writer) = full_pipe();
    // The port is printed before the start is over. By a shell, so that the harness doesn't expect it.
    let line = "exec \"$0\" -B -P \"$1\" -t 127.0.0.1:0 cat";
    let skd = Skd::new(["-c", line])
        .arg(Program::Ours.path())
        .arg(directory.join("pid"))
        .binary("/bin/sh")
        .stdout(writer)
        .start_bare();
    wait_until("the launcher is confined", || is_confined(skd.pid()));
    let daemon: i32 = wait_for("the pid file", || directory.read("pid").trim().parse().ok());
    assert!(!is_confined(daemon));
    assert!(exists(skd.pid()), "the launcher hasn't waited");
    thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    assert_eq!(skd.wait().code(), Some(0));
    // A thread names itself, which may be later than the end of the start.
    wait_until("the daemon has its threads", || {
        threads(daemon).iter().any(|(_, name)| name == "accept-0")
    });
    kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
    wait_until("the daemon ends", || !exists(daemon));
}

#[test]
fn a_confined_launcher_still_removes_what_a_failed_start_has_made() {
    requires_root();
    let directory = Directory::public();
    for background in [&["-B"][..], &[]] {
        let skd = Skd::new([
            "-l",
            &directory.name("socket"),
            "-P",
            &directory.name("pid"),
        ])
        .args(background)
        .args(["-U", "-L", &format!(">{}", directory.name("log"))])
        .args(["--chdir", "/nonexistent"])
        .env("UID", "61241")
        .env("GID", "61241")
        .env_remove("ROOT");
        skd.start("cat").expect_refusal(1, &["/nonexistent"]);
        wait_until("nothing is left", || directory.names().is_empty());
    }
}
