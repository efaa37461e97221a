//! Daemons that serve datagrams, supervise a program, log to syslog or end, while calls fail.

use super::starts::{
    Mode, NOBODY, SLEEPER, Stage, datagrams, expect_children_nobody, program, sleeps, streams, tag,
};
use super::table::Phase::{Ending, Newborn, Receiving, Relaying, Relighting, Supervising};
use super::table::Then::{Closed, Dropped, Emptied, Served, Unreaped, Waits};
use super::table::{Phase, Row, rows};
use super::{Tampering, expect_calm, on_each};
use crate::harness::{
    Directory, POLL, Running, Skd, connect_unix, descriptors, exists, idle_descriptors, is_in_call,
    is_zombie, receive, relays, requires_command, requires_root, send_unix_datagram,
    settled_descriptors, talk, udp_client, wait_for,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;

/// Runs as user nobody, with a program that can't be found.
fn unprivileged(skd: Skd) -> Skd {
    skd.args(["--user", &format!("{NOBODY}:{NOBODY}")])
        .env("PATH", "/bin:/usr/bin")
}

/// The rows of a phase, with one errno each unless all are wanted.
fn chosen(phase: Phase, fully: bool) -> Vec<Row> {
    let mut rows = rows(phase);
    for row in rows.iter_mut().filter(|_| !fully) {
        row.errnos = row.errnos().next().unwrap();
    }
    rows
}

/// The rows of a child that becomes another user. It leads a session, not only a group.
fn newborn(fully: bool) -> Vec<Row> {
    let rows = chosen(Newborn, fully).into_iter();
    rows.filter(|row| row.calls != "setpgid").collect()
}

/// Waits until skd logs a line of its own.
fn wait_until_told(skd: &Running, directory: &Directory) {
    skd.wait_until("it is logged", || {
        let log = directory.read("log");
        log.lines().any(|line| line.contains(" skd: "))
    });
}

/// A handler that reads a datagram, logs it, and ends.
const READER: [&str; 3] = ["sh", "-c", "exec dd bs=65536 count=1 status=none >&2"];

/// A daemon without privileges that serves datagrams, and a client.
struct Receiver {
    directory: Directory,
    skd: Running,
    client: UdpSocket,
}

impl Receiver {
    fn new(words: &[&str]) -> Self {
        let directory = Directory::public();
        let skd = unprivileged(Skd::new(datagrams(&directory))).run_with(words[0], &words[1..]);
        let client = udp_client(skd.address());
        Self {
            directory,
            skd,
            client,
        }
    }

    fn log(&self) -> String {
        self.directory.read("log")
    }

    /// Sends a datagram to each socket.
    fn send(&self, text: &str) {
        self.client
            .send(format!("udp {text}\n").as_bytes())
            .unwrap();
        let unix = format!("unix {text}\n");
        send_unix_datagram(self.directory.join("socket"), unix.as_bytes());
    }

    fn wait_until_heard(&self, text: &str) {
        self.skd.wait_until("both are heard", || {
            let log = self.log();
            ["udp", "unix"]
                .iter()
                .all(|kind| log.contains(&format!("{kind} {text}\n")))
        });
    }
}

fn receive_with(row: &Row) {
    let receiver = Receiver::new(&READER);
    let (skd, directory) = (&receiver.skd, &receiver.directory);
    receiver.send("before");
    receiver.wait_until_heard("before");
    let before = idle_descriptors(skd.pid());
    for (turn, errno) in row.errnos().enumerate() {
        println!("{errno}");
        let tampering = Tampering::with(skd.pid(), row, errno, directory);
        // It has no effect.
        skd.signal(Signal::SIGUSR1);
        receiver.send(errno);
        tampering.wait_for_fault();
        if turn == 0 {
            if [Waits, Closed].contains(&row.then) {
                wait_until_told(skd, directory);
            }
            expect_calm(skd, skd.pid());
        }
        let mut tampering = Some(tampering);
        match row.then {
            Waits => {
                tampering.take().map(Tampering::end);
                receiver.wait_until_heard(errno);
            }
            // It has had some of its starts.
            Closed => {
                let trace = tampering.take().map(Tampering::end).unwrap();
                let execs = |line: &str| line.contains("execve") && line.ends_with("= 0");
                assert!(!trace.lines().any(execs), "{trace}");
                skd.wait_until("both are heard or read away", || {
                    let log = receiver.log();
                    let heard = log.lines().filter(|line| line.ends_with(errno)).count();
                    heard + log.matches("read away").count() >= 2
                });
            }
            _ => receiver.wait_until_heard(errno),
        }
        drop(tampering);
        let after = format!("after {errno}");
        receiver.send(&after);
        receiver.wait_until_heard(&after);
        skd.wait_until("all have ended, and no descriptor is lost", || {
            let ended = match row.then {
                Unreaped => skd.children().into_iter().all(is_zombie),
                _ => skd.children().is_empty(),
            };
            ended && descriptors(skd.pid()).len() == before
        });
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_daemon_of_datagrams_survives_failing_calls() {
    requires_root();
    requires_command("strace");
    on_each(&chosen(Receiving, false), receive_with);
    on_each(&newborn(false), receive_with);
}

#[test]
#[ignore = "takes long; more of the same"]
fn a_daemon_of_datagrams_survives_calls_that_fail_in_any_way() {
    requires_root();
    requires_command("strace");
    on_each(&chosen(Receiving, true), receive_with);
    on_each(&newborn(true), receive_with);
}

/// Leaves a datagram unread while calls of skd fail.
fn guard_with(row: &Row) {
    for errno in row.errnos() {
        println!("{errno}");
        let receiver = Receiver::new(&["true"]);
        let (skd, directory) = (&receiver.skd, &receiver.directory);
        let tampering = Tampering::with(skd.pid(), row, errno, directory);
        skd.signal(Signal::SIGUSR1);
        receiver.send("unread");
        tampering.wait_for_fault();
        if row.then == Waits {
            expect_calm(skd, skd.pid());
            tampering.end();
        }
        skd.wait_until("both are read away", || {
            receiver.log().matches("read away").count() == 2
        });
        let starts = receiver.log().matches("Finished ").count();
        assert_eq!(starts, 2 * 8, "{}", receiver.log());
        receiver.send("next");
        skd.wait_until("the next have come", || {
            receiver.log().matches("Received initial").count() == 4
        });
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn an_unread_datagram_causes_no_storm_while_calls_fail() {
    requires_root();
    requires_command("strace");
    let mut rows = chosen(Receiving, false);
    rows.retain(|row| !row.calls.ends_with("@log"));
    on_each(&rows, guard_with);
}

/// Supervises a program while calls of skd fail.
fn supervise_with(row: &Row) {
    for errno in row.errnos() {
        println!("{errno}");
        let directory = Directory::public();
        let skd = unprivileged(Skd::new(program(&directory)).arg("-S"))
            .args(["-P", &directory.name("pid")])
            .start_with(SLEEPER[0], &SLEEPER[1..]);
        let run = |other: &[i32]| {
            wait_for("a program that runs", || {
                let mut children = skd.children().into_iter();
                children.find(|pid| sleeps(*pid) && !other.contains(pid))
            })
        };
        let first = run(&[]);
        skd.wait_until("it waits for its end", || is_in_call(skd.pid(), POLL));
        let before = descriptors(skd.pid());
        let tampering = Tampering::with(skd.pid(), row, errno, &directory);
        // The program isn't affected.
        skd.signal(Signal::SIGWINCH);
        kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
        tampering.wait_for_fault();
        let mut tampering = Some(tampering);
        if row.then == Served {
            run(&[first]);
        } else {
            wait_until_told(&skd, &directory);
        }
        expect_calm(&skd, skd.pid());
        if row.then != Served {
            tampering.take().map(Tampering::end);
        }
        let second = run(&[first]);
        expect_children_nobody(skd.pid());
        drop(tampering);
        kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
        let third = run(&[first, second]);
        assert_eq!(skd.children(), [third]);
        skd.wait_until("no descriptor is lost", || {
            descriptors(skd.pid()).len() == before.len()
        });
        skd.signal(Signal::SIGTERM);
        assert_eq!(skd.wait().code(), Some(128 + Signal::SIGTERM as i32));
        assert_eq!(directory.names(), ["log"]);
        assert!(!exists(third));
    }
}

/// Whether a row is about a child without a connection.
fn of_programs(row: &Row) -> bool {
    !row.calls()
        .any(|call| ["close_range", "dup2"].contains(&call))
}

#[test]
fn a_supervisor_survives_failing_calls() {
    requires_root();
    requires_command("strace");
    on_each(&chosen(Supervising, false), supervise_with);
    let of_program = newborn(false).into_iter().filter(of_programs);
    on_each(&of_program.collect::<Vec<_>>(), supervise_with);
}

#[test]
#[ignore = "takes long; more of the same"]
fn a_supervisor_survives_calls_that_fail_in_any_way() {
    requires_root();
    requires_command("strace");
    on_each(&chosen(Supervising, true), supervise_with);
    let of_program = newborn(true).into_iter().filter(of_programs);
    on_each(&of_program.collect::<Vec<_>>(), supervise_with);
}

/// A handler that logs its input.
const SPEAKER: [&str; 3] = [
    "sh",
    "-c",
    "while read -r line; do echo \"said $line\" >&2; echo; done",
];

/// A daemon without privileges that logs to syslog, and a client that is being served.
struct Logger<'a> {
    stage: &'a Stage,
    directory: Directory,
    skd: Running,
    stream: UnixStream,
}

impl<'a> Logger<'a> {
    fn new(stage: &'a Stage) -> Self {
        let directory = Directory::public();
        let socket = directory.name("socket");
        let skd = Skd::new(["-v", "--threads", "1", "--unix-mode", "666", "-l", &socket]);
        let skd = stage.logging(unprivileged(skd), &directory);
        let skd = skd.run_with(SPEAKER[0], &SPEAKER[1..]);
        let mut logger = Self {
            stage,
            stream: connect_unix(&socket),
            directory,
            skd,
        };
        logger.say("first");
        logger.wait_for("said first");
        logger
    }

    fn say(&mut self, text: &str) {
        writeln!(self.stream, "{text}").unwrap();
        assert_eq!(receive(&mut self.stream, 1), b"\n");
    }

    /// Waits for a line in the system log.
    fn wait_for(&self, text: &str) {
        let text = format!("{}: {text}", tag(&self.directory));
        self.stage.syslog.wait_for(&text);
    }

    fn relay(&self) -> i32 {
        wait_for("a relay", || relays(&self.skd).first().copied())
    }

    /// Asserts that all is as before.
    fn expect_order(&mut self, text: &str, before: usize) {
        self.say(text);
        self.wait_for(&format!("said {text}"));
        // Another client is served too.
        let mut other = connect_unix(self.directory.join("socket"));
        writeln!(other, "other").unwrap();
        assert_eq!(receive(&mut other, 1), b"\n");
        drop(other);
        // The end of the one before may take a moment under strace.
        let relay = wait_for("one relay", || match relays(&self.skd)[..] {
            [relay] => Some(relay),
            _ => None,
        });
        // The pipe, two sockets, and the root directory.
        let held = settled_descriptors(relay);
        assert!(held.len() <= 4, "{held:?}");
        self.skd.wait_until("no descriptor is lost", || {
            descriptors(self.skd.pid()).len() == before
        });
    }
}

fn relay_with(row: &Row, stage: &Stage) {
    let mut logger = Logger::new(stage);
    let before = settled_descriptors(logger.skd.pid()).len();
    for errno in row.errnos() {
        println!("{errno}");
        let relay = logger.relay();
        let tampering = Tampering::with(relay, row, errno, &logger.directory);
        logger.say(&format!("during {errno}"));
        tampering.wait_for_fault();
        if row.then == Served {
            logger.wait_for(&format!("said during {errno}"));
        }
        if row.then == Dropped {
            // As long as one line is attempted, and then as long as no line is.
            expect_calm(&logger.skd, relay);
            logger.say(&format!("dropped {errno}"));
            expect_calm(&logger.skd, logger.skd.pid());
            tampering.end();
            // The number of lost lines may be reported in several pieces.
            logger.wait_for("skd: ");
        }
        logger.expect_order(&format!("after {errno}"), before);
        if exists(relay) {
            assert_eq!(logger.relay(), relay);
        } else {
            logger.wait_for("skd: the relay to syslog had ended and was started again");
        }
    }
    assert_eq!(logger.skd.stop().code(), Some(0));
}

#[test]
fn a_relay_with_failing_calls_neither_spins_nor_is_lost() {
    let stage = Stage::new();
    on_each(&chosen(Relaying, false), |row| relay_with(row, &stage));
}

#[test]
#[ignore = "takes long; more of the same"]
fn a_relay_with_calls_that_fail_in_any_way_neither_spins_nor_is_lost() {
    let stage = Stage::new();
    on_each(&chosen(Relaying, true), |row| relay_with(row, &stage));
}

/// The relay has ended, and can't be restarted at once.
fn relight_with(row: &Row, stage: &Stage) {
    for errno in row.errnos() {
        println!("{errno}");
        let mut logger = Logger::new(stage);
        let before = settled_descriptors(logger.skd.pid()).len();
        let relay = logger.relay();
        let tampering = Tampering::with(logger.skd.pid(), row, errno, &logger.directory);
        kill(Pid::from_raw(relay), Signal::SIGKILL).unwrap();
        tampering.wait_for_fault();
        logger.say("during");
        expect_calm(&logger.skd, logger.skd.pid());
        let beside = relays(&logger.skd);
        assert!(beside.len() <= 1, "{beside:?}");
        tampering.end();
        logger.wait_for("said during");
        logger.expect_order("after", before);
        assert_eq!(logger.skd.stop().code(), Some(0));
    }
}

#[test]
fn a_relay_that_cannot_be_restarted_is_started_later() {
    let stage = Stage::new();
    on_each(&chosen(Relighting, true), |row| relight_with(row, &stage));
}

/// A daemon with a pid file in a directory of the test, and with work to do.
fn at_work(mode: Mode, directory: &Directory) -> Running {
    let with_pid = |options: Vec<String>| Skd::new(options).args(["-P", &directory.name("pid")]);
    let skd = match mode {
        Mode::Streams => {
            let skd = with_pid(streams(directory)).run("cat");
            assert_eq!(talk(skd.connect_unix(), b"served"), b"served");
            return skd;
        }
        Mode::Datagrams => {
            let skd = with_pid(datagrams(directory)).run_with(SLEEPER[0], &SLEEPER[1..]);
            udp_client(skd.address()).send(b"unread").unwrap();
            skd
        }
        Mode::Supervised | Mode::InPlace => with_pid(program(directory))
            .arg("-S")
            .start_with(SLEEPER[0], &SLEEPER[1..]),
    };
    skd.wait_until("its program runs", || {
        skd.children().into_iter().any(sleeps)
    });
    skd
}

#[test]
fn skd_ends_although_calls_fail() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Ending), |row| {
        let mut made = false;
        for mode in [Mode::Streams, Mode::Datagrams, Mode::Supervised] {
            if mode == Mode::Supervised && row.calls == "kill" {
                // A program that isn't told to end doesn't.
                continue;
            }
            let directory = Directory::public();
            let status = match mode {
                Mode::Supervised => 128 + Signal::SIGTERM as i32,
                _ => 0,
            };
            for errno in row.errnos() {
                println!("{mode:?} {errno}");
                // In the same directory as the one before.
                let skd = at_work(mode, &directory);
                let tampering = Tampering::with(skd.pid(), row, errno, &directory);
                assert_eq!(skd.stop().code(), Some(status));
                made |= tampering.count() > 0;
                if row.then == Emptied {
                    tampering.wait_for_fault();
                    let names: &[_] = match mode {
                        Mode::Supervised => &["log", "pid", "pid.lock"],
                        _ => &["log", "pid", "pid.lock", "socket"],
                    };
                    assert_eq!(directory.names(), names);
                    assert_eq!(directory.read("pid"), "");
                }
            }
            assert_eq!(at_work(mode, &directory).stop().code(), Some(status));
            assert_eq!(directory.names(), ["log"]);
        }
        assert!(made, "nothing failed");
    });
}
