//! Several services in one daemon: `examples/services.rs`, since a command line has one.

use crate::harness::{
    DEADLINE, Directory, Running, Skd, Tampering, ask as harness_ask, ask_unix_datagram,
    assert_idle, built, connect_unix, datagram_echo, echo, poll_for, requires_command,
    requires_root, stat_field, talk, tampering, threads, try_talk, udp_client, wait_for,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The example, built if need be.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built(&["--example", "services"], "examples/services"))
}

/// A daemon of these services, each a name and a command line in which `DIR` is the directory.
fn services(directory: &Directory, lines: &[&str]) -> Skd {
    configure(directory, lines);
    Skd::new([directory.name("services")]).binary(program())
}

fn configure(directory: &Directory, lines: &[&str]) {
    let text = lines.join("\n").replace("DIR", &directory.name(""));
    directory.write("services", text.replace("//", "/"));
}

/// Starts it, and waits until it serves: each line has one listener.
fn start(directory: &Directory, lines: &[&str]) -> Running {
    wait_until_it_serves(services(directory, lines), lines)
}

fn wait_until_it_serves(skd: Skd, lines: &[&str]) -> Running {
    let skd = skd.start_bare();
    skd.wait_for_logs("Listening on ", lines.len());
    skd
}

fn connect(directory: &Directory, name: &str) -> UnixStream {
    connect_unix(directory.join(name))
}

fn udp(skd: &Running) -> UdpSocket {
    let port: u16 = skd.stdout_line().trim().parse().unwrap();
    udp_client(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn ask(socket: &UdpSocket, bytes: &[u8]) {
    assert_eq!(harness_ask(socket, bytes), bytes);
}

fn ask_unix(directory: &Directory, name: &str, bytes: &[u8]) -> Vec<u8> {
    let own = directory.join("client");
    let answer = ask_unix_datagram(&own, directory.join(name), bytes);
    std::fs::remove_file(own).unwrap();
    answer
}

fn is_refused(directory: &Directory, name: &str) -> bool {
    let refused = UnixStream::connect(directory.join(name)).map_err(|reason| reason.kind());
    refused.is_err_and(|kind| kind == ErrorKind::ConnectionRefused || kind == ErrorKind::NotFound)
}

fn upgrade(skd: &Running) {
    let told = || skd.logged("pgrade");
    let before = told().len();
    skd.signal(Signal::SIGUSR2);
    let line = poll_for(3 * DEADLINE, || told().into_iter().nth(before));
    let line = line.unwrap_or_else(|| panic!("{:#?}", skd.log_lines()));
    assert!(line.starts_with("Upgraded from"), "{line}");
}

#[test]
fn a_service_that_is_full_or_broken_holds_up_no_other() {
    let directory = Directory::new();
    directory.script("gone", "#!/bin/sh\n");
    let (_, [_, echo_one]) = datagram_echo();
    directory.script("echo", &format!("#!/usr/bin/perl\n{echo_one}"));
    let skd = start(
        &directory,
        &[
            "stream -vv -x DIR/stream --max-clients 1 cat",
            "peers -u 127.0.0.1:0 --datagram-mode per-peer cat",
            "packets -d -x DIR/packets --datagram-mode per-packet cat",
            "broken -x DIR/broken DIR/gone",
            "wait -d -x DIR/wait DIR/echo",
        ],
    );
    let udp = udp(&skd);
    std::fs::remove_file(directory.join("gone")).unwrap();

    let mut first = connect(&directory, "stream");
    echo(&mut first, b"first");
    let mut second = connect(&directory, "stream");
    skd.wait_for_log("the only slot is taken");
    assert_eq!(try_talk(connect(&directory, "broken"), b"").unwrap(), b"");
    skd.wait_for_log("gone");
    for _ in 0..3 {
        ask(&udp, b"served");
        for name in ["packets", "wait"] {
            assert_eq!(ask_unix(&directory, name, b"packet"), b"packet");
        }
    }
    drop(first);
    echo(&mut second, b"second");
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("stream").exists() && !directory.join("packets").exists());
}

#[test]
fn a_service_whose_handlers_lack_memory_holds_up_no_other() {
    requires_command("strace");
    for limit in ["", "-c 1"] {
        for at_once in [false, true] {
            println!("{limit:?}, both clients at once: {at_once}");
            serve_beside_a_shortage(limit, at_once);
        }
    }
}

/// Has a client of one service wait for a handler that can't be started, and serves those of another with this option.
/// `at_once` says whether the first clients of both come while skd is stopped, so that a thread finds both.
fn serve_beside_a_shortage(limit: &str, at_once: bool) {
    let directory = Directory::new();
    let program = directory.script("program", "#!/bin/sh\n");
    let trace = directory.name("trace");
    let short = "short -vv --threads 3 -x DIR/short DIR/program";
    let lines = [short, &format!("other -x DIR/other {limit} cat")];
    let skd = services(&directory, &lines).wrapper(
        [
            &["strace", "-f", "-qq", "-o", &trace, "-P"][..],
            &[program.to_str().unwrap()],
            &["-e", "trace=execve,execveat"],
            &["-e", "inject=execve,execveat:error=ENOMEM"],
        ]
        .concat(),
    );
    let skd = wait_until_it_serves(skd, &lines);
    let serve = || assert_eq!(talk(connect(&directory, "other"), b"served"), b"served");
    serve();

    let failures = || directory.read("trace").matches("(INJECTED)").count();
    let (mut waits, first);
    if at_once {
        skd.signal(Signal::SIGSTOP);
        skd.wait_until("all threads are stopped", || {
            let mut threads = threads(skd.pid()).into_iter();
            threads.all(|(thread, _)| {
                stat_field(thread, 3).is_some_and(|state| state.eq_ignore_ascii_case("t"))
            })
        });
        waits = connect(&directory, "short");
        first = connect(&directory, "other");
        skd.signal(Signal::SIGCONT);
    } else {
        waits = connect(&directory, "short");
        skd.wait_until("a start fails", || failures() > 0);
        first = connect(&directory, "other");
    }
    assert_eq!(talk(first, b"first"), b"first");
    (0..20).for_each(|_| serve());
    skd.wait_until("starts fail again and again", || failures() > 2);
    serve();
    assert_idle(&[skd.pid()]);

    waits.set_nonblocking(true).unwrap();
    let held = waits.read(&mut [0]).map_err(|reason| reason.kind());
    assert_eq!(held, Err(ErrorKind::WouldBlock));
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn wait_mode_is_of_its_service_alone() {
    let directory = Directory::new();
    let skd = start(
        &directory,
        &[
            "stream -vv -x DIR/stream cat",
            "wait --wait -x DIR/wait sleep 60",
        ],
    );
    let _waits = connect(&directory, "wait");
    skd.wait_for_children(1);
    let _waits_too = connect(&directory, "wait");
    let mut client = connect(&directory, "stream");
    echo(&mut client, b"one for each");
    assert_eq!(skd.wait_for_children(2).len(), 2);

    upgrade(&skd);
    echo(&mut client, b"still");
    assert_eq!(talk(connect(&directory, "stream"), b"new"), b"new");
    // The handler in wait mode still has its listener: no other is started.
    drop(client);
    skd.wait_for_children(1);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn each_service_drains_in_its_own_time() {
    let directory = Directory::new();
    let skd = start(
        &directory,
        &[
            "long -vv -x DIR/long --drain 1h cat",
            "short -x DIR/short --drain 300ms cat",
            "none -x DIR/none cat",
        ],
    );
    let [mut long, mut short, mut none] =
        ["long", "short", "none"].map(|name| connect(&directory, name));
    for client in [&mut long, &mut short, &mut none] {
        echo(client, b"before");
    }
    skd.signal(Signal::SIGTERM);
    assert_eq!(short.read(&mut [0]).unwrap(), 0);
    assert_eq!(skd.logged("TERM is sent").len(), 1);
    for name in ["long", "short", "none"] {
        skd.wait_until("it is closed", || is_refused(&directory, name));
    }
    echo(&mut long, b"long");
    echo(&mut none, b"none");
    drop(long);
    // The status of a handler that needed a signal.
    assert_eq!(skd.wait().code(), Some(3));
    echo(&mut none, b"is served still");
}

#[test]
fn a_slot_that_is_freed_during_a_shortage_of_another_service_is_used() {
    // strace is attached to a process that isn't its child.
    requires_root();
    let directory = Directory::new();
    let skd = start(
        &directory,
        &[
            "one -vv -x DIR/one --threads 2 --max-clients 1 cat",
            "other -x DIR/other cat",
        ],
    );
    // One of these threads starts the first handler, and sees its end while it waits out the shortage.
    for thread in ["accept-0", "accept-1"] {
        let mut first = connect(&directory, "one");
        echo(&mut first, b"first");
        let (thread, _) = wait_for("the thread", || {
            let mut threads = threads(skd.pid()).into_iter();
            threads.find(|(_, name)| name == thread)
        });
        let tampering = Tampering::with(thread, "clone3", "error=EAGAIN");
        // Each of the threads accepts some of these.
        let mut others = Vec::new();
        let lines = skd.log_lines().len();
        skd.wait_until("the thread waits out a shortage", || {
            // A thread that has nothing to do serves them all, unless they are several.
            others.extend((0..4).map(|_| connect(&directory, "other")));
            std::thread::sleep(Duration::from_millis(5));
            let logged = skd.log_lines();
            logged[lines..]
                .iter()
                .any(|line| line.contains("no process for"))
        });
        let mut second = connect(&directory, "one");
        drop(first);
        echo(&mut second, b"second");
        drop(tampering);
        for mut other in others {
            echo(&mut other, b"other");
        }
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_shortage_loses_no_client_that_came_before_a_drain() {
    let directory = Directory::new();
    let lines = [
        "stream -vv -x DIR/stream --drain 1h --threads 1 cat",
        "packets -d -x DIR/packets --datagram-mode per-packet cat",
    ];
    // A pause of 100 ms follows each: the last is within the drain, and within its last call.
    let skd = services(&directory, &lines);
    let skd = skd.wrapper(tampering("accept4", "error=EMFILE:when=1..4"));
    let skd = wait_until_it_serves(skd, &lines);
    let mut client = connect(&directory, "stream");
    skd.wait_for_log("wasn't accepted");
    skd.signal(Signal::SIGTERM);
    echo(&mut client, b"served");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn an_upgrade_matches_services_by_name() {
    let directory = Directory::new();
    let skd = start(
        &directory,
        &[
            "first -vv -x DIR/first cat",
            "gone -x DIR/gone --timeout 1h cat",
            "peers -u 127.0.0.1:0 --datagram-mode per-peer cat",
            "packets -d -x DIR/packets --datagram-mode per-packet cat",
        ],
    );
    let udp = udp(&skd);
    ask(&udp, b"before");
    let mut first = connect(&directory, "first");
    let mut gone = connect(&directory, "gone");
    echo(&mut first, b"before");
    echo(&mut gone, b"before");
    let handlers = skd.wait_for_children(3);

    // In another order, with a new one.
    configure(
        &directory,
        &[
            "peers -vv -u 127.0.0.1:0 --datagram-mode per-peer cat",
            "new -x DIR/new --max-clients 1 cat",
            "first -x DIR/first cat",
        ],
    );
    for _ in 0..2 {
        upgrade(&skd);
        ask(&udp, b"the same handler");
        echo(&mut first, b"after");
        echo(&mut gone, b"after");
        assert_eq!(skd.wait_for_children(3), handlers);
        assert!(is_refused(&directory, "gone") && !directory.join("gone").exists());
        assert_eq!(talk(connect(&directory, "first"), b"first"), b"first");
        assert_eq!(talk(connect(&directory, "new"), b"new"), b"new");
        skd.wait_for_children(3);
    }
    // Configured again, it is a new service, beside the handlers that the old one has left.
    configure(
        &directory,
        &[
            "gone -vv -x DIR/gone --max-clients 1 cat",
            "peers -u 127.0.0.1:0 --datagram-mode per-peer cat",
            "new -x DIR/new --max-clients 1 cat",
            "first -x DIR/first cat",
        ],
    );
    for _ in 0..2 {
        upgrade(&skd);
        echo(&mut gone, b"the old one");
        assert_eq!(talk(connect(&directory, "gone"), b"again"), b"again");
        assert_eq!(skd.wait_for_children(3), handlers);
    }
    drop(gone);
    skd.wait_for_children(2);

    // A preflight that fails leaves nothing.
    configure(
        &directory,
        &[
            "new -vv -x DIR/new cat",
            "other -x DIR/other /no/such/program",
        ],
    );
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("no upgrade");
    assert!(!directory.join("other").exists());
    echo(&mut first, b"still");
    assert_eq!(talk(connect(&directory, "new"), b"new"), b"new");
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("new").exists());
}

#[test]
fn many_services_have_threads_where_few_files_may_be_open() {
    let directory = Directory::new();
    let lines: Vec<String> = (0..6)
        .map(|index| format!("s{index} -vv -d -x DIR/s{index} --datagram-mode per-packet cat"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let skd = services(&directory, &lines).limit(Resource::RLIMIT_NOFILE, 200, 200);
    let skd = wait_until_it_serves(skd, &lines);
    for index in 0..6 {
        let name = format!("s{index}");
        assert_eq!(ask_unix(&directory, &name, b"few"), b"few");
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn services_that_cannot_run_beside_each_other_are_refused() {
    let directory = Directory::new();
    for (lines, status, why) in [
        (
            &["same -x DIR/a cat", "same -x DIR/b cat"][..],
            2,
            "two services are called same",
        ),
        (
            &["one -x DIR/a cat", "two -S cat"],
            2,
            "service two: a program that has no listener, or that is supervised",
        ),
        (
            &["one -S -x DIR/a cat", "two -x DIR/b cat"],
            2,
            "has to be the only service",
        ),
        (
            &["one -x DIR/a cat", "two --daemon-user nobody -x DIR/b cat"],
            2,
            "two: --daemon-user and -U concern the whole process",
        ),
    ] {
        let output = services(&directory, lines).end();
        output.expect_refusal(status, &[why]);
    }
    assert!(!directory.join("a").exists());
    let many: Vec<String> = (0..64)
        .map(|index| format!("s{index} -d -x DIR/s{index} --datagram-mode per-packet cat"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let output = services(&directory, &many).end();
    output.expect_refusal(1, &["64 services need ", "descriptors below 64"]);
    assert!(!directory.join("s0").exists());
}
