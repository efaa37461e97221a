//! Ways out that need surroundings of their own.

use super::scene::{Scene, Start, programs};
use crate::harness::{
    Directory, Skd, Terminal, connect_unix, receive, requires_root, talk, time_limit,
    wait_for_text, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// The rows of these in the list.
pub const ROWS: &[(&str, &str)] = &[
    (
        "stay beyond --timeout, with three children, all signals ignored and the connection kept",
        "KILL ends all of it; the client sees the end",
    ),
    (
        "outlive skd, which is told to end or killed by KILL",
        "it ends with skd, and so do its children",
    ),
    (
        "type into the terminal that skd was started from (TIOCSTI, TIOCLINUX, TIOCSCTTY)",
        "EPERM, ENOTTY: it has no terminal",
    ),
    (
        "signal, trace, or take descriptors and namespaces of the client of a unix socket (SO_PEERPIDFD)",
        "EPERM, EINVAL, ESRCH",
    ),
    (
        "a link at a place below an --rw directory where the next start makes a mount",
        "nothing is made where it leads to",
    ),
    (
        "the log by descriptor 2: a file as standard error, that of --log, of root and of another user",
        "it is a pipe that can't be opened for reading",
    ),
    (
        "shut the log down, where it is a socket",
        "ENOTSOCK: handlers have a pipe",
    ),
];

pub const STARTS: [Start; 3] = [Start::RootForUser, Start::Root, Start::User];

#[test]
fn whoever_stays_is_ended_at_the_time_limit() {
    for start in STARTS {
        let limit = time_limit(1);
        let scene = Scene::new(start, &["--timeout", &limit, "--kill-after", "100ms"]);
        let mut client = scene.skd.connect();
        client.write_all(scene.request("stay").as_bytes()).unwrap();
        assert_eq!(receive(&mut client, 6), b"stays\n");
        // It and its three children ignore all signals, and have the connection.
        assert_eq!(scene.left().len(), 4);
        assert_eq!(talk(client, b""), b"");
        wait_until("all of it has ended", || scene.left().is_empty());
        scene.assert_served();
    }
}

#[test]
fn whoever_stays_ends_with_skd() {
    for start in STARTS {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let scene = Scene::new(start, &["--drain", "100ms", "--kill-after", "100ms"]);
            let mut client = scene.skd.connect();
            client.write_all(scene.request("stay").as_bytes()).unwrap();
            assert_eq!(receive(&mut client, 6), b"stays\n");
            scene.skd.signal(signal);
            wait_until("all of it has ended", || scene.left().is_empty());
            assert_eq!(talk(client, b""), b"");
        }
    }
}

#[test]
fn a_terminal_of_skd_takes_no_input_from_a_handler() {
    for start in [Start::RootForUser, Start::Root] {
        let mut terminal = Terminal::new();
        let directory = programs(start.handler());
        let shown = format!("{}:/ways", directory.name("shown"));
        let mut skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--sandbox", "--ro", &shown])
            .controlled_by(&terminal)
            .stdin(terminal.end())
            .stderr(terminal.end());
        if start == Start::RootForUser {
            skd = skd.args(["--user", "61246:61246"]);
        }
        let skd = skd.run("/ways/attempts");
        let answer = String::from_utf8(talk(skd.connect(), b"terminal\n")).unwrap();
        let lines: Vec<_> = answer.lines().collect();
        let (end, tries) = lines.split_last().expect("an answer");
        assert_eq!(*end, "end: end");
        assert!(
            !tries.is_empty() && tries.iter().all(|line| !line.ends_with(": got")),
            "{answer}"
        );
        assert_eq!(skd.stop().code(), Some(0));
        let _ = terminal.read();
    }
}

#[test]
fn the_client_of_a_unix_socket_is_out_of_reach() {
    requires_root();
    for start in STARTS {
        let directory = programs(start.handler());
        directory.chmod("", 0o777);
        let socket = directory.name("socket");
        let shown = format!("{}:/ways", directory.name("shown"));
        let mut skd = Skd::new(["-v", "-l", &socket, "--sandbox", "--ro", &shown]);
        match start {
            Start::RootForUser => skd = skd.args(["--user", "61246:61246"]),
            Start::User => skd = skd.user(start.handler(), start.handler(), []),
            _ => (),
        }
        let skd = skd.run("/ways/attempts");
        let answer = String::from_utf8(talk(connect_unix(&socket), b"client_process\n")).unwrap();
        // Of what the kernel gives a descriptor for, nothing follows.
        let got: Vec<_> = answer
            .lines()
            .filter(|line| line.ends_with(": got"))
            .collect();
        assert_eq!(got, [""; 0], "{answer}\n{}", skd.log_lines().join("\n"));
        assert!(answer.ends_with("end: end\n"), "{answer}");
    }
}

/// What a shared directory has at the name of a place that a mount is made at, when skd reloads.
#[test]
fn links_in_a_shared_directory_do_not_lead_the_next_sandbox_out() {
    requires_root();
    let directory = Directory::public();
    for name in ["shared", "victim", "shown"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    directory.chmod("shared", 0o777);
    directory.write("shown/file", "shown\n");
    let shared = format!("{}:/shared", directory.name("shared"));
    let shown = format!("{}:/shared/at", directory.name("shown"));
    let start = || {
        Skd::new([
            "-v",
            "-t",
            "127.0.0.1:0",
            "--sandbox",
            "--rw",
            &shared,
            "--ro",
            &shown,
        ])
        .start_with("sh", ["-c", "cat /shared/at/file /shared/at/* 2>&1"])
    };
    // As a handler could have left them.
    for target in ["victim/made", "victim"] {
        let link = directory.join("shared/at");
        let _ = fs::remove_file(&link);
        let _ = fs::remove_dir(&link);
        symlink(directory.join(target), &link).unwrap();
        let skd = start();
        // Either there is no start, or nothing outside is touched.
        wait_until("it has started or ended", || {
            !skd.stdout_lines().is_empty() || skd.try_wait(Duration::ZERO).is_some()
        });
        assert!(
            fs::read_dir(directory.join("victim"))
                .unwrap()
                .next()
                .is_none(),
            "something was made in another directory, by the link to {target}"
        );
    }
}

/// A skd whose log is a file, by `how`, and an attempt on it.
fn log_attempt(start: Start, by_option: bool) -> String {
    let directory = programs(start.handler());
    directory.chmod("", 0o777);
    let log = directory.join("log");
    let shown = format!("{}:/ways", directory.name("shown"));
    let mut skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--sandbox", "--ro", &shown]);
    match start {
        Start::RootForUser => skd = skd.args(["--user", "61246:61246"]),
        Start::User => skd = skd.user(start.handler(), start.handler(), []),
        _ => (),
    }
    if by_option {
        skd = skd.args(["-L", &format!(">>{}", log.display())]);
    } else {
        let file = fs::File::options().create(true).append(true).open(&log);
        skd = skd.stderr(file.unwrap());
        let owner = Some(start.handler()).filter(|_| start == Start::User);
        std::os::unix::fs::chown(&log, owner, owner).unwrap();
    }
    let skd = skd.start("/ways/attempts");
    if !by_option && skd.try_wait(Duration::from_secs(2)).is_some() {
        return "no start".to_owned();
    }
    skd.wait_ready();
    let answer = String::from_utf8(talk(skd.connect(), b"log_pipe\n")).unwrap();
    wait_for_text(&log, "Closed connection");
    answer
}

#[track_caller]
fn assert_refused(answer: &str) {
    assert!(
        answer == "no start"
            || answer.ends_with("end: end\n")
                && !answer.lines().any(|line| line.ends_with(": got")),
        "{answer}"
    );
}

#[test]
fn the_log_of_root_is_no_file_to_a_handler() {
    for start in [Start::RootForUser, Start::Root] {
        assert_refused(&log_attempt(start, true));
    }
}

#[test]
fn the_log_of_another_user_is_no_file_to_a_handler() {
    assert_refused(&log_attempt(Start::User, true));
}

#[test]
fn the_log_is_no_file_to_a_handler_where_it_is_standard_error() {
    for start in STARTS {
        assert_refused(&log_attempt(start, false));
    }
}

#[test]
fn a_log_that_is_a_socket_is_shut_down_by_no_handler() {
    use std::io::{BufRead, BufReader};
    for start in STARTS {
        let directory = programs(start.handler());
        let shown = format!("{}:/ways", directory.name("shown"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(crate::harness::DEADLINE))
            .unwrap();
        let mut skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--sandbox", "--ro", &shown]);
        match start {
            Start::RootForUser => skd = skd.args(["--user", "61246:61246"]),
            Start::User => skd = skd.user(start.handler(), start.handler(), []),
            _ => (),
        }
        let skd = skd.stderr(theirs).run("/ways/attempts");
        let answer = String::from_utf8(talk(skd.connect(), b"shut_log_down\n")).unwrap();
        assert_eq!(answer, "shutdown: ENOTSOCK\nend: end\n");
        let mut lines = BufReader::new(ours).lines();
        assert!(lines.any(|line| line.unwrap().contains("exited with status 0")));
    }
}
