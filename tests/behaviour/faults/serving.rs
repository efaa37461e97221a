//! Daemons that serve streams, while calls fail.

use super::starts::{NOBODY, expect_children_nobody, streams};
use super::table::Phase::{Newborn, Reopening, Serving, Upgrading};
use super::table::Then::{Closed, Kept, Served, Unreaped, Waits};
use super::table::{Row, rows};
use super::{Tampering, expect_calm, on_each};
use crate::harness::{
    DEADLINE, Directory, EPOLL_WAIT, Skd, connect, connect_unix, descriptors, echo,
    idle_descriptors, is_asleep, is_in_call, is_zombie, poll_for, receive, relays,
    requires_command, requires_root, settled_descriptors, talk, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

/// Whether nothing came before the end of the connection.
fn is_closed(mut stream: impl Read) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        // The client's bytes had not been read.
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Serves streams without privileges while calls of skd, or of its future handlers, fail.
fn serve_with(row: &Row) {
    let directory = Directory::public();
    let user = format!("{NOBODY}:{NOBODY}");
    // Handlers that are another user lead a session instead.
    let with_user = (row.calls != "setpgid").then_some(["--user", &user]);
    let skd = Skd::new(streams(&directory))
        .args(with_user.into_iter().flatten())
        .env("PATH", "/bin:/usr/bin")
        .run("cat");
    let socket = directory.join("socket");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, skd.port()));
    let idle = || skd.wait_until("all are reaped", || skd.children().is_empty());
    assert_eq!(talk(connect(address), b"before"), b"before");
    assert_eq!(talk(connect_unix(&socket), b"before"), b"before");
    idle();
    let before = idle_descriptors(skd.pid());

    for (turn, errno) in row.errnos().enumerate() {
        println!("{errno}");
        let mut earlier = connect(address);
        echo(&mut earlier, b"earlier");
        let tampering = Tampering::with(skd.pid(), row, errno, &directory);
        drop(earlier);
        // It has no effect.
        skd.signal(Signal::SIGUSR1);
        let (mut tcp, mut unix) = (connect(address), connect_unix(&socket));
        // It may be closed already.
        let _ = (tcp.write_all(b"t"), unix.write_all(b"u"));
        tampering.wait_for_fault();
        if turn == 0 && row.then != Served && row.then != Unreaped {
            skd.wait_until("it is logged", || {
                directory
                    .read("log")
                    .lines()
                    .any(|line| line.contains(" skd: "))
            });
        }
        if turn == 0 && row.then != Closed {
            expect_calm(&skd, skd.pid());
        }
        let mut tampering = Some(tampering);
        if row.then == Waits {
            tampering.take().map(Tampering::end);
        }
        if row.then == Closed {
            assert!(is_closed(tcp) && is_closed(unix));
            let trace = tampering.take().map(Tampering::end).unwrap();
            let execs = trace
                .lines()
                .any(|line| line.contains("execve") && line.ends_with("= 0"));
            assert!(!execs, "{trace}");
        } else {
            assert_eq!(receive(&mut tcp, 1), b"t");
            assert_eq!(receive(&mut unix, 1), b"u");
            expect_children_nobody(skd.pid());
            drop((tcp, unix));
        }
        drop(tampering);
        assert_eq!(talk(connect(address), b"after"), b"after");
        assert_eq!(talk(connect_unix(&socket), b"after"), b"after");
        if row.then == Unreaped {
            skd.wait_until("all have ended", || {
                skd.children().into_iter().all(is_zombie)
            });
        } else {
            idle();
        }
        skd.wait_until("no descriptor is lost", || {
            descriptors(skd.pid()).len() == before
        });
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_daemon_survives_failing_calls() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Serving), serve_with);
}

#[test]
fn a_connection_that_cannot_be_closed_at_once_is_closed_soon() {
    requires_root();
    requires_command("strace");
    let row = rows(Serving)
        .into_iter()
        .find(|row| row.calls == "dup3" && row.when == "2");
    let row = row.expect("a row for the second of two");
    let directory = Directory::public();
    let skd = Skd::new(streams(&directory)).run("true");
    for errno in row.errnos() {
        let tampering = Tampering::with(skd.pid(), &row, errno, &directory);
        // No client comes after this one.
        assert!(is_closed(skd.connect()), "{errno}");
        tampering.wait_for_fault();
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_handler_with_a_failed_preparation_is_not_run() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Newborn), serve_with);
}

#[test]
fn a_log_that_cannot_be_reopened_is_kept() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Reopening), |row| {
        let directory = Directory::public();
        let skd = Skd::new(streams(&directory)).run("cat");
        let before = settled_descriptors(skd.pid());
        let serve = |name: &str| {
            let count = || {
                directory
                    .read(name)
                    .matches("Closed local connection")
                    .count()
            };
            let before = count();
            assert_eq!(talk(skd.connect_unix(), b"served"), b"served");
            skd.wait_until("it is logged", || count() > before);
        };
        for (turn, errno) in row.errnos().enumerate() {
            println!("{errno}");
            let relay = wait_for("a relay", || relays(&skd).first().copied());
            let tampering = Tampering::with(relay, row, errno, &directory);
            skd.signal(Signal::SIGHUP);
            tampering.wait_for_fault();
            if row.then == Kept && turn == 0 {
                skd.wait_until("it is logged", || {
                    directory
                        .read("log")
                        .contains("skd: the log file can't be opened again: ")
                });
            }
            serve("log");
            drop(tampering);
            fs::rename(directory.join("log"), directory.join("old")).unwrap();
            skd.signal(Signal::SIGHUP);
            skd.wait_until("there is a new log", || directory.join("log").exists());
            serve("log");
            skd.wait_until("no descriptor is lost", || {
                descriptors(skd.pid()).len() == before.len()
            });
        }
        assert_eq!(skd.stop().code(), Some(0));
    });
}

#[test]
fn an_upgrade_with_a_failing_call_is_refused() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Upgrading), |row| {
        let directory = Directory::public();
        let skd = Skd::new(streams(&directory)).run("cat");
        let told = |text: &str| directory.read("log").matches(text).count();
        let upgrades = || told("Upgraded from");
        let refusals = || told("skd: no upgrade: ");
        let mut client = skd.connect_unix();
        echo(&mut client, b"before");
        let handlers = skd.wait_for_children(1);
        let before = settled_descriptors(skd.pid());
        for errno in row.errnos() {
            println!("{errno}");
            // The last upgrade is logged before the new binary has made all calls of its start.
            skd.wait_until("it waits for signals", || {
                is_in_call(skd.pid(), EPOLL_WAIT) && is_asleep(skd.pid())
            });
            let (earlier, refused) = (upgrades(), refusals());
            let tampering = Tampering::with(skd.pid(), row, errno, &directory);
            skd.signal(Signal::SIGUSR2);
            tampering.wait_for_fault();
            assert_eq!(talk(skd.connect_unix(), b"new"), b"new");
            echo(&mut client, b"during");
            wait_until("it is logged", || refusals() > refused);
            drop(tampering);
            assert_eq!(upgrades(), earlier);
            assert_eq!(skd.wait_for_children(1), handlers);
            let open = || descriptors(skd.pid());
            // The connection of a handler that lives for some seconds isn't kept any longer.
            let counts = before.len() - 1..=before.len();
            let settled = poll_for(DEADLINE, || counts.contains(&open().len()).then_some(()));
            assert!(settled.is_some(), "{before:?}, then {:?}", open());
            skd.signal(Signal::SIGUSR2);
            wait_until("it succeeds", || upgrades() > earlier);
            echo(&mut client, b"after");
        }
        drop(client);
        assert_eq!(skd.stop().code(), Some(0));
    });
}
